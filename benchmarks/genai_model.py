"""Convert a GGUF file of the Llama family for ONNX Runtime GenAI, as `causal_rivals.py` runs it.

    PYTHON benchmarks/genai_model.py MODEL.gguf DIR [--precision int8] [--block-size 128]

Runs in an environment of its own, with onnxruntime-genai, onnx, onnx-ir, transformers, gguf,
accelerate and torch. The defaults were the best for SmolLM2-135M on a CPU: docs/log/
engines-and-speed.md has the others.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--precision", choices=["int4", "int8", "fp32"], default="int8")
    parser.add_argument("--block-size", type=int, default=128)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_float(given.gguf, folder)
        # Gate and up of the feed-forward in one product; int8 products (accuracy level 4).
        options = ["accuracy_level=4", f"block_size={given.block_size}", "fuse_mlp_gate_up=true"]
        subprocess.run(
            [
                *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
                *("-i", folder, "-o", given.output, "-p", given.precision, "-e", "cpu"),
                *("--extra_options", *options),
            ],
            check=True,
        )


def save_float(gguf: Path, folder: str) -> None:
    """Write the weights in float32 as a checkpoint of transformers, which the builder reads."""
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)  # a model that has it refuses to be saved
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


if __name__ == "__main__":
    main()
