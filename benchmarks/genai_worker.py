"""Decode with ONNX Runtime GenAI for `causal_rivals.py`: a line of JSON answers each line of JSON.

    PYTHON benchmarks/genai_worker.py DIR THREADS PADDING DRAFTED

Runs in an environment of its own, with onnxruntime-genai. DIR holds a model of its builder, PADDING
is a token id that occurs in no prompt, and DRAFTED the number of tokens that are drafted where the
last three tokens stood before; 0 for plain decoding.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy
import onnxruntime_genai as genai

REPEATED = 3
"""Tokens that must have stood before: fewer (2) were slower."""


def main() -> None:
    """Answer until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("padding", type=int)
    parser.add_argument("drafted", type=int)
    given = parser.parse_args()
    padding, drafted = given.padding, given.drafted
    # The builder sets padding = EOS, which chat prompts contain: that part would not be read.
    options = {"intra_op_num_threads": given.threads, "inter_op_num_threads": 1}
    overlay = {"pad_token_id": padding, "decoder": {"session_options": options}}
    config = genai.Config(str(given.model))
    config.overlay(json.dumps({"model": overlay}))
    model = genai.Model(config)
    written_config = json.loads((given.model / "genai_config.json").read_text(encoding="utf-8"))
    end = written_config["model"]["eos_token_id"]
    ends = end if isinstance(end, list) else [end]
    for line in sys.stdin:
        request = json.loads(line)
        prompts, most = request["prompts"], request["max_tokens"]
        longest = max(map(len, prompts))
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(
            batch_size=len(prompts), max_length=longest + most, do_sample=False
        )
        if drafted:
            parameters.set_speculative_options(ngram_size=REPEATED, max_draft_tokens=drafted)
        generator = genai.Generator(model, parameters)
        # Padding on the left is not masked by the CPU's attention: its texts are nonsense.
        padded = [prompt + [padding] * (longest - len(prompt)) for prompt in prompts]
        generator.append_tokens(numpy.array(padded, dtype=numpy.int32))
        while not generator.is_done():
            generator.generate_next_token()
        written = [generator.get_sequence(row)[longest:].tolist() for row in range(len(prompts))]
        texts = [
            list(itertools.takewhile(lambda token: token not in ends, text)) for text in written
        ]
        print(json.dumps({"texts": texts}), flush=True)


if __name__ == "__main__":
    main()
