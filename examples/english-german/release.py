"""Make the model that ships from a trained one: weights in bfloat16, a card that tells what it is
good for, notices.

    python release.py MODEL RESULT NOTICES OUTPUT

MODEL is a model directory, RESULT what `multistride evaluate` measured of it, NOTICES a folder with
LICENSE files of corpora that ask for theirs to be passed on, OUTPUT the model directory to write.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, load_provenance, save_model
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

A semi-autoregressive Transformer of {millions:.1f} million parameters ({encoder} encoder and {decoder} decoder
layers, width {width}, vocabulary {vocabulary}). One checkpoint for K in {{{sizes}}}; every K up to {widest} runs,
and so do adaptive, exact and beam decoding. It is the model that `multistride translate` uses where none is named.

## How to run it

```sh
echo "Where is the station?" | multistride translate --group-size 4 --show-groups
```

## What it is good for

Short everyday and technical sentences, for trying out, teaching and testing. It is small and was trained for hours
on two CPU cores: it knows few names and rare words, long sentences go wrong, and what it says of numbers must be
checked. It is no replacement for a translation service. Nothing was done against biases of its data, such as the
gender that German demands and English leaves open.

## Measured

Tatoeba, {sentences:,} English-German sentences of its validation split that were not used in training, greedy:

{table}
The throughput is float32 on {threads} thread(s) of {cpu}.

## How it was made

`examples/english-german/run.sh`: an autoregressive teacher, its beam search (beam 4) over the training text, one
many-K checkpoint from the teacher's weights. Every setting is in `provenance.json`. Weights are stored as bfloat16.

## Data, licences and attribution

| corpus | licence | attribution |
| --- | --- | --- |
| Tatoeba, English-German | CC BY 2.0 FR | www.manythings.org/anki and tatoeba.org |
| SuttaCentral, translations by Bhikkhu Sujato (English) and Sabbamitta (German) | CC0 1.0 | suttacentral.net |
| interface text of Home Assistant | Apache-2.0 | `LICENSE.homeassistant.md` |
| interface text of Django | BSD-3-Clause | `LICENSE.django` |

The target side is the teacher's translation of these texts. The model is passed on under Apache-2.0; the notices
above go with it.
"""


def card(model: Transformer, result: Path) -> str:
    config, measured = model.config, read_result(result)
    return CARD.format(
        widest=max(config.group_sizes),
        sizes=", ".join(map(str, config.group_sizes)),
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        encoder=config.encoder_layers,
        decoder=config.decoder_layers,
        width=config.hidden_size,
        vocabulary=config.vocabulary_size,
        sentences=measured.conditions["sentences"],
        table=markdown(measured),
        threads=measured.conditions["threads"],
        cpu=measured.conditions["cpu"],
    )


def main(directory: Path, result: Path, notices: Path, output: Path) -> None:
    model, vocabulary = load_model(directory)

    def add_notices(place: Path) -> None:
        for notice in sorted(notices.glob("LICENSE*")):
            (place / notice.name).write_bytes(notice.read_bytes())

    text = card(model, result)
    save_model(
        output, model.to(torch.bfloat16), vocabulary, load_provenance(directory), text, add_notices
    )


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
