"""Decode with llama.cpp for `causal_rivals.py`: a line of JSON answers each line of JSON.

    PYTHON benchmarks/llama_worker.py MODEL.gguf THREADS DRAFTED

Runs in an environment of its own, with llama-cpp-python built for this machine. DRAFTED is the
number of tokens that its prompt-lookup decoding drafts; 0 for plain decoding. Several prompts of
one request are decoded together, as sequences of one context, without drafts.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import llama_cpp
import numpy
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

LONGEST = 256
"""Tokens of a sequence in a batch, its prompt included."""


class Batches:
    """Many sequences in one context of llama.cpp, which its Python class does not offer."""

    def __init__(self, path: str, threads: int, sequences: int) -> None:
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = sequences * LONGEST
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)

    def decode(self, prompts: list[list[int]], most: int) -> list[list[int]]:
        """Return the tokens that follow each prompt, up to EOS."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        texts: list[list[int]] = [[] for _ in prompts]
        live = list(range(len(prompts)))
        given = prompts
        while live:
            best = self._step(live, given, [len(prompts[row]) + len(texts[row]) for row in live])
            ended = set()
            for row, token in zip(live, best, strict=True):
                if llama_cpp.llama_vocab_is_eog(self.vocabulary, token):
                    ended.add(row)
                else:
                    texts[row].append(token)
            live = [row for row in live if row not in ended and len(texts[row]) < most]
            given = [texts[row][-1:] for row in live]
        return texts

    def _step(self, rows: list[int], given: list[list[int]], ends: list[int]) -> list[int]:
        """Read some tokens of each row, the last at position `end` - 1; return the next of each."""
        batch, index, lasts = self.batch, 0, []
        for row, tokens, end in zip(rows, given, ends, strict=True):
            for offset, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = end - len(tokens) + offset
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = row
                batch.logits[index] = offset == len(tokens) - 1
                index += 1
            lasts.append(index - 1)
        batch.n_tokens = index
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError(f"llama.cpp did not decode {index} tokens of {len(rows)} sequences")
        size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        return [
            int(
                numpy.ctypeslib.as_array(
                    llama_cpp.llama_get_logits_ith(self.context, last), (size,)
                ).argmax()
            )
            for last in lasts
        ]


def completion(model: Llama, prompt: list[int], most: int) -> list[int]:
    """Return the tokens that follow one prompt, up to EOS."""
    model.reset()  # nothing of the last prompt is reused
    tokens: list[int] = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token == model.token_eos() or len(tokens) == most:
            break
        tokens.append(token)
    return tokens


def silent(level: int, text: bytes, data: Any) -> None:
    """Write nothing of llama.cpp's log."""


def main() -> None:
    """Answer until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("threads", type=int)
    parser.add_argument("drafted", type=int)
    given = parser.parse_args()
    callback = llama_cpp.llama_log_callback(silent)
    llama_cpp.llama_log_set(callback, None)
    drafts = LlamaPromptLookupDecoding(num_pred_tokens=given.drafted) if given.drafted else None
    model = Llama(
        given.model, n_ctx=2048, n_threads=given.threads, n_threads_batch=given.threads,
        verbose=False, draft_model=drafts, logits_all=drafts is not None,
    )  # fmt: skip
    batches: dict[int, Batches] = {}
    for line in sys.stdin:
        request = json.loads(line)
        prompts, most = request["prompts"], request["max_tokens"]
        if len(prompts) == 1:
            texts = [completion(model, prompts[0], most)]
        else:
            if len(prompts) not in batches:
                batches[len(prompts)] = Batches(given.model, given.threads, len(prompts))
            texts = batches[len(prompts)].decode(prompts, most)
        print(json.dumps({"texts": texts}), flush=True)


if __name__ == "__main__":
    main()
