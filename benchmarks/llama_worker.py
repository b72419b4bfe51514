"""Decode with llama.cpp for `causal_rivals.py`: a line of JSON answers each line of JSON.

    PYTHON benchmarks/llama_worker.py MODEL.gguf THREADS DRAFTED

Runs in an environment of its own, with llama-cpp-python built for this machine. DRAFTED is the
number of tokens that its prompt-lookup decoding drafts; 0 for plain decoding.
"""

import argparse
import json
import sys

from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


def main() -> None:
    """Answer until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("threads", type=int)
    parser.add_argument("drafted", type=int)
    given = parser.parse_args()
    drafted, threads = given.drafted, given.threads
    drafts = LlamaPromptLookupDecoding(num_pred_tokens=drafted) if drafted else None
    model = Llama(
        given.model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False,
        draft_model=drafts, logits_all=drafts is not None,
    )  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        texts = [completion(model, prompt, request["max_tokens"]) for prompt in request["prompts"]]
        print(json.dumps({"texts": texts}), flush=True)


def completion(model: Llama, prompt: list[int], most: int) -> list[int]:
    """Return the tokens that follow one prompt, up to EOS."""
    model.reset()  # nothing of the last prompt is reused
    tokens: list[int] = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token == model.token_eos() or len(tokens) == most:
            break
        tokens.append(token)
    return tokens


if __name__ == "__main__":
    main()
