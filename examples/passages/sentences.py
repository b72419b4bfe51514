"""Compare translating lines of several sentences as they are and sentence by sentence: BLEU by K.

    python sentences.py SOURCE REFERENCE RESULT

Only lines with several sentences count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sacrebleu.metrics import BLEU

import multistride
from multistride.cpu import cpu_name
from multistride.data.sentences import split_sentences
from multistride.files import sha256, write_json
from multistride.model.directory import WEIGHTS
from multistride.shipped import DEFAULT
from multistride.tasks.sentences import SentenceTranslator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--model", type=Path, default=DEFAULT)
    parser.add_argument("--engine", default="int8")
    parser.add_argument("--group-sizes", default="1,2,4,8")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    both = [
        path.read_text(encoding="utf-8").splitlines() for path in (asked.source, asked.reference)
    ]
    pairs = [pair for pair in zip(*both, strict=True) if len(split_sentences(pair[0])) > 1]
    sources, references = ([pair[side] for pair in pairs] for side in (0, 1))
    translator = multistride.load(asked.model, engine=asked.engine)
    ways = {"whole lines": translator, "every sentence alone": SentenceTranslator(translator)}
    metric = BLEU()
    results = []
    for way, own in ways.items():
        scores = {}
        for size in map(int, asked.group_sizes.split(",")):
            texts = [each.text for each in own.translate(sources, size)]
            scores[f"bleu_k{size}"] = metric.corpus_score(texts, [references]).score
            print(f"{way}, K={size}: BLEU {scores[f'bleu_k{size}']:.1f}")
        results.append({"name": way, "metrics": scores})
    settings = {
        "source": asked.source.name,
        "source_sha256": sha256(asked.source),
        "reference_sha256": sha256(asked.reference),
        "lines": len(pairs),
        "model_sha256": sha256(asked.model / WEIGHTS),
        "engine": asked.engine,
        "bleu_signature": metric.get_signature().format(),
        "threads": 1,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "multistride": multistride.__version__,
    }
    title = "Lines of several sentences"
    write_json(
        asked.result, {"name": title, "kind": "other", "settings": settings, "results": results}
    )


if __name__ == "__main__":
    main()
