"""Make the model that ships from a trained one: weights in bfloat16, a model card, notices.

    python release.py MODEL RESULTS DATA OUTPUT

MODEL is a model directory. RESULTS holds what was measured of it: `tatoeba.json`,
`suttacentral.json` and `NAME-exact.json` by `multistride evaluate`, `by-length.json` by
`by_length.py`. DATA is the folder of the corpora, some of which ask for their notices to be passed
on. OUTPUT is the model directory to write.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from multistride.model.directory import load_provenance
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.report.reading import read_result
from multistride.report.tables import markdown

CARD = """\
---
license: apache-2.0
language: [en, de]
pipeline_tag: translation
library_name: multistride
---

# English to German, 1 to {widest} tokens per step

A semi-autoregressive Transformer of {millions:.1f} million parameters ({encoder} encoder and
{decoder} decoder layers, width {width}, vocabulary {vocabulary}). One checkpoint for K in
{{{sizes}}}; every K up to {widest} runs, and so do adaptive, exact and beam decoding. It is the
model that `multistride translate` uses if no other is named.

## How to run it

```sh
echo "Where is the station?" | multistride translate --group-size 4 --show-groups
```

## What it is good for

Short everyday sentences and text of user interfaces, for trying out, teaching and testing. It is
small: it knows few names and rare words, makes more errors in longer sentences, and its numbers
must be checked. It addresses people informally (du), as most of its data does. It is no replacement
for a translation service. Nothing was done against biases in its data, such as the gender that it
chooses where German needs one and English leaves it open.

## Measured

Tatoeba, {tatoeba_sentences:,} sentences of its development set that were not used in training;
two groups are kept while the tokens of one are picked (`group_beam` in `config.json`;
`--group-beam 1` picks token by token, faster on PyTorch, and loses about half a point at K=4):

{tatoeba}
SuttaCentral, {suttacentral_sentences:,} sentences, chosen in the same way:

{suttacentral}
Exact mode at K={exact_size} writes the text of K=1 in {tatoeba_exact:.2f} tokens a
pass on Tatoeba and {suttacentral_exact:.2f} on SuttaCentral. All speeds are those of PyTorch in
float32 on {threads} thread(s) of {cpu}.

BLEU by length of the source:

{lengths}

## How it was made

{made} Every setting is in `provenance.json`. Weights are
stored as bfloat16.

## Data, licences and attribution

| corpus | licence | attribution |
| --- | --- | --- |
| Tatoeba, English-German | CC BY 2.0 FR | www.manythings.org/anki and tatoeba.org |
| SuttaCentral, Bhikkhu Sujato (English), Sabbamitta (German) | CC0 1.0 | suttacentral.net |
| interface text of Home Assistant | Apache-2.0 | `LICENSE.homeassistant.md` |
| interface text of Django | BSD-3-Clause | `LICENSE.django` |
| help and interface text of LibreOffice 7.4 | MPL-2.0 | libreoffice.org |

Targets are these texts, or a teacher's translations of them. The model is distributed under
Apache-2.0, with the notices above.
"""


ANEW = """\
`examples/english-german/run.sh`: an autoregressive teacher of 48 million parameters, its
translations of the training text, and one checkpoint for all K trained on them: {updates:,}
updates of {tokens:,} tokens."""

CONTINUED = """\
An autoregressive teacher of 48 million parameters, trained on a GPU by
`examples/english-german/run.sh`, translated the training text. The model is the one that shipped
first (four hours on two CPU cores), trained on for {updates:,} updates of {tokens:,} tokens of
those translations on one CPU core, in twelve stages ({stages} in `examples/english-german`). From
the third stage on, a reference replaces the translation where the two are similar
(`interpolate.py`). From the fifth on, frequent sentences have more weight, and the model itself
wrote the translations. The seventh and eighth stages use references only, with more interface text
(`interface.py`). From the ninth on a long sentence has the teacher's translation where the model's
own agrees with it and the reference does not (`agreed.py`; in `own.yaml` it has the model's own),
and a short one its reference, also as people type it (`as_typed.py`). From the sixth stage on, two
seeds were trained each time, and the weights are means of both and of those before (`multistride
average`)."""

STAGES = (
    "continued.yaml",
    "longer.yaml",
    "interpolated.yaml",
    "settled.yaml",
    "weighed.yaml",
    "muon.yaml",
    "corrected.yaml",
    "interface.yaml",
    "agreed.yaml",
    "typed.yaml",
    "first.yaml",
    "own.yaml",
)
"""The configurations of the stages on one CPU core, in order."""

GROUP_BEAM = 2
"""Groups kept by default while the tokens of one are picked; 4 are hardly better, and take longer.
"""


def length_table(path: Path) -> str:
    """Return BLEU by source length as a Markdown table."""
    lines = [
        "| corpus | source words | sentences | K=1 | K=2 | K=4 | K=8 |",
        "| :-- |" + " --: |" * 6,
    ]
    for name, rows in json.loads(path.read_text(encoding="utf-8")).items():
        for row in rows:
            scores = " | ".join(f"{row[f'bleu_k{size}']:.1f}" for size in (1, 2, 4, 8))
            lines.append(f"| {name} | {row['source_words']} | {row['sentences']:,} | {scores} |")
    return "\n".join(lines)


def card(model: Transformer, results: Path, provenance: dict[str, Any]) -> str:
    """Return the text of the model card."""
    config = model.config
    tatoeba, suttacentral = (
        read_result(results / f"{name}.json") for name in ("tatoeba", "suttacentral")
    )
    exact = {
        name: read_result(results / f"{name}-exact.json").rows[-1]
        for name in ("tatoeba", "suttacentral")
    }
    training = provenance["config"]["training"]
    if provenance["config"]["start_from"]:
        here = Path(__file__).parent
        stages = [yaml.safe_load((here / name).read_text(encoding="utf-8")) for name in STAGES]
        made = CONTINUED.format(
            updates=sum(stage["training"]["updates"] for stage in stages),
            tokens=training["tokens_per_batch"],
            stages=", ".join(f"`{name}`" for name in STAGES),
        )
    else:
        made = ANEW.format(updates=training["updates"], tokens=training["tokens_per_batch"])
    return CARD.format(
        made=made,
        widest=max(config.group_sizes),
        sizes=", ".join(map(str, config.group_sizes)),
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        encoder=config.encoder_layers,
        decoder=config.decoder_layers,
        width=config.hidden_size,
        vocabulary=config.vocabulary_size,
        tatoeba_sentences=tatoeba.conditions["sentences"],
        tatoeba=markdown(tatoeba),
        suttacentral_sentences=suttacentral.conditions["sentences"],
        suttacentral=markdown(suttacentral),
        exact_size=exact["tatoeba"].group_size,
        tatoeba_exact=exact["tatoeba"].tokens_per_step,
        suttacentral_exact=exact["suttacentral"].tokens_per_step,
        threads=tatoeba.conditions["threads"],
        cpu=tatoeba.conditions["cpu"],
        lengths=length_table(results / "by-length.json"),
    )


def main(directory: Path, results: Path, data: Path, output: Path) -> None:
    """Write the model directory."""
    model, vocabulary = load_model(directory)
    model.config = model.config.model_copy(update={"group_beam": GROUP_BEAM})
    provenance = load_provenance(directory)
    for entry in ("data", "run", "start_from"):
        # Where the files lay on the machine that trained is nobody's business.
        if provenance["config"][entry]:
            place = Path(provenance["config"][entry])
            kept = place.parts[-2:] if place.name in ("best", "last") else place.parts[-1:]
            provenance["config"][entry] = "/".join(["runs/english-german", *kept])

    if "average_of" in provenance:
        provenance["average_of"] = [
            "/".join(["runs/english-german", *Path(entry).parts[-3:]])
            for entry in provenance["average_of"]
        ]

    def add_notices(place: Path) -> None:
        for notice in sorted((data / "permissive-ui-strings").glob("LICENSE*")):
            (place / notice.name).write_bytes(notice.read_bytes())

    text = card(model, results, provenance)
    save_model(output, model.to(torch.bfloat16), vocabulary, provenance, text, add_notices)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="MODEL")
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    main(**vars(parser.parse_args()))
