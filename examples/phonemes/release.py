"""Make the phoneme model that ships from a trained one.

    python release.py MODEL RESULT COMPARISON NOTICE OUTPUT

It gets weights in bfloat16, a tokenizer that reads whole words, a card, and the dictionary's
notice. MODEL is a model directory, RESULT what `multistride evaluate` measured of it, COMPARISON
what `against_g2p_en.py` wrote, NOTICE the LICENSE of CMUdict, OUTPUT the model directory to write.

The trained tokenizer wants letters with blanks between them. The one that ships also takes words:
"hello", "Hello" and "h e l l o" have the same tokens. Phonemes are read as before, so references
can be scored.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from multistride.data.vocab import TOKENIZER_FILE, Vocabulary
from multistride.model.directory import load_provenance
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.report.reading import read_result
from multistride.report.tables import markdown

CARD = """\
---
license: apache-2.0
language: [en]
pipeline_tag: text2text-generation
library_name: multistride
---

# English spelling to phonemes, 1 to {widest} tokens per step

A semi-autoregressive Transformer of {millions:.1f} million parameters ({encoder} encoder and
{decoder} decoder layers, width {width}). It reads the letters of an English word and writes its
ARPAbet phonemes with stress marks, K of them per step. One checkpoint for every K from 1 to
{widest}, and for adaptive, exact and beam decoding.

## How to run it

```sh
printf '%s\\n' hello semicolon | multistride translate --model english-phonemes --group-size 4
```

```python
import multistride

model = multistride.load("english-phonemes")
[result] = model.translate(["semicolon"], group_size=4)
print(result.text)
```

Write one word a line, in lower case or as a name is written (`Berlin`); apostrophes, hyphens and
full stops count as letters. Digits and other characters are unknown to it. Look a word up in a
dictionary first where you have one: this model is for the words that no dictionary has.

## Measured

CMUdict, {words:,} held-out words. The error rate counts edits per phoneme, stress marks included,
against the first pronunciation that the dictionary lists:

{table}
Speeds are those of PyTorch in float32, one thread of {cpu}.

The same words against the closest of the listed pronunciations, beside the network of the package
g2p-en 2.1.0 (`G2p.predict`, not its dictionary; which of these words it was trained on is not
known):

{comparison}

Processor time on one such thread, int8 engine; batch 1 for milliseconds a word, batch {batch}
for words a second (g2p-en takes one word at a time).

## Limits

It errs most on names of foreign origin, abbreviations and compounds. It knows American English
only, gives one pronunciation where a word has several, and sees no context: the noun and the verb
"record" get the same phonemes.

## How it was made

`examples/phonemes`, on the first listed pronunciation of {trained:,} words: `many-k.yaml`, from
nothing, cut off after 8,000 updates of 8,192 tokens (8 minutes of an H100 that other work shared);
`anneal.yaml`, 700 updates of 4,096 tokens on one CPU core with a falling learning rate;
`longer.yaml`, with Muon and less dropout, 3,040 and 2,600 updates of 2,048 tokens from two seeds on
two CPU cores; and `further.yaml`, the same again from the mean of both, 3,800 updates each, 40
minutes of two cores with bfloat16. These weights are the mean of the last two, stored as bfloat16;
every setting of the second seed is in `provenance.json`. Longer training should still help.

## Data and licence

The CMU Pronouncing Dictionary, Copyright (C) 1993-2015 Carnegie Mellon University, BSD-2-Clause:
`LICENSE.cmudict`. The model is distributed under Apache-2.0, with this notice."""

TRAINED_WORDS = 121_081

SYMBOLS = r"[A-Z]{1,2}[0-2]?|[a-z'.-]|\S"
"""A phoneme, a letter, or a character that is neither."""


def reads_words(vocabulary: Vocabulary, directory: Path) -> Vocabulary:
    """Return the vocabulary with a tokenizer that also reads words without blanks."""
    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(SYMBOLS), "isolated")]
    )
    # A capital before a small letter, or in a run of three or more, is no phoneme.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(
                Regex(
                    f"{capital}(?=[a-z'])|{capital}(?=[A-Za-z]{{2}})"
                    f"|(?<=[A-Za-z]){capital}(?=[A-Za-z])|(?<=[A-Za-z]{{2}}){capital}"
                ),
                capital.lower(),
            )
            for capital in string.ascii_uppercase
        ]
    )
    changed = Vocabulary(tokenizer)
    letters = [" ".join("semicolon"), "S EH1 M IY0 K OW2 L AH0 N"]
    assert changed.encode(letters) == vocabulary.encode(letters)
    for written in ("semicolon", "Semicolon", "SEMICOLON"):
        assert changed.encode([written]) == vocabulary.encode(letters[:1])
    return changed


def comparison_table(results: dict[str, dict[str, float]]) -> str:
    """Return the comparison as a Markdown table."""
    lines = [
        "| | phoneme errors % | word errors % | the same without stress % | ms/word p50 | words/s "
        "|",
        "| :-- | --: | --: | --: | --: | --: |",
    ]
    for name, row in results.items():
        without = row["phoneme_error_rate_without_stress"], row["word_error_rate_without_stress"]
        lines.append(
            f"| {name} | {100 * row['phoneme_error_rate']:.1f} | "
            f"{100 * row['word_error_rate']:.1f} "
            f"| {100 * without[0]:.1f} / {100 * without[1]:.1f} | {row['ms_per_word_p50']:.2f} "
            f"| {row['words_per_second']:,.0f} |"
        )
    return "\n".join(lines)


def card(model: Transformer, result: Path, comparison: Path) -> str:
    """Return the text of the model card."""
    config, measured = model.config, read_result(result)
    compared = json.loads(comparison.read_text(encoding="utf-8"))
    return CARD.format(
        widest=max(config.group_sizes),
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        encoder=config.encoder_layers,
        decoder=config.decoder_layers,
        width=config.hidden_size,
        words=measured.conditions["sentences"],
        table=markdown(measured),
        comparison=comparison_table({row["name"]: row["metrics"] for row in compared["results"]}),
        cpu=compared["settings"]["cpu"],
        batch=compared["settings"]["batch_size"],
        trained=TRAINED_WORDS,
    )


def main(directory: Path, result: Path, comparison: Path, notice: Path, output: Path) -> None:
    """Write the model directory."""
    model, vocabulary = load_model(directory)
    provenance = load_provenance(directory)
    for entry in ("data", "run", "start_from"):
        # Where the files lay on the machine that trained is nobody's business.
        if provenance["config"][entry]:
            provenance["config"][entry] = f"runs/phonemes/{Path(provenance['config'][entry]).name}"
    text = card(model, result, comparison)

    def add_notice(place: Path) -> None:
        (place / "LICENSE.cmudict").write_bytes(notice.read_bytes())

    changed = reads_words(vocabulary, directory)
    save_model(output, model.to(torch.bfloat16), changed, provenance, text, add_notice)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="MODEL")
    parser.add_argument("result", type=Path, metavar="RESULT")
    parser.add_argument("comparison", type=Path, metavar="COMPARISON")
    parser.add_argument("notice", type=Path, metavar="NOTICE")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    main(**vars(parser.parse_args()))
