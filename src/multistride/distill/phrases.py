"""Make the table of phrases of a model from text that it wrote (see `decode.phrases`).

Shapes: M rows of a table, P a phrase and one more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistride.data.batch import PreparedData, TextWindows
from multistride.data.labelled import LabelledDocuments
from multistride.data.vocabulary_files import load_vocabulary
from multistride.decode.phrases import LONGEST, PADDING, PHRASES, SHORTEST
from multistride.errors import DataError
from multistride.files import replacing_file
from multistride.model.directory import load_config


def phrases_of(
    texts: Iterable[tuple[Sequence[int], int]], longest: int = LONGEST, min_count: int = 1
) -> NDArray[np.int32]:
    """A table [M, P] of texts: a phrase, padded on the left, and the token that followed it most
    often.

    With each text comes how many of its first tokens were given to the model; what they say is no
    draft. A phrase of more than two tokens that its own end speaks for is left out, and one that
    stands in the texts fewer than `min_count` times. Of equally frequent ones the first stands.
    """
    behind: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for tokens, known in texts:
        for place in range(max(known, 1), len(tokens)):
            for length in range(1, min(longest, place) + 1):
                behind[tuple(tokens[place - length : place])][tokens[place]] += 1
    best = {
        phrase: counts.most_common(1)[0][0]
        for phrase, counts in behind.items()
        if counts.total() >= min_count
    }
    kept = [
        (phrase, after)
        for phrase, after in best.items()
        if len(phrase) <= SHORTEST or best[phrase[1:]] != after
    ]
    rows = [[PADDING] * (longest - len(phrase)) + [*phrase, after] for phrase, after in kept]
    return np.array(rows, dtype=np.int32).reshape(-1, longest + 1)


def store_phrases(
    model: Path | str, data: Path | str, longest: int = LONGEST, min_count: int = 1
) -> int:
    """Write the table of the training text in `data` into the directory of a model; returns its
    rows (see `phrases_of`).

    Of windows what was given to the model is left out. Raises `DataError` for directories that are
    none, and for text in tokens of another vocabulary.
    """
    load_config(model)
    prepared = PreparedData.load(data)
    if load_vocabulary(model).digest() != prepared.vocabulary.digest():
        raise DataError(
            f"{data} was prepared with another vocabulary: prepare it with --vocabulary {model}"
        )
    rows = phrases_of(_written(prepared), longest, min_count)
    with replacing_file(Path(model) / PHRASES) as place, open(place, "wb") as file:
        np.save(file, rows)
    return len(rows)


def _written(prepared: PreparedData) -> Iterator[tuple[list[int], int]]:
    """The texts of the training split, and how many of the first tokens of each were given."""
    split = prepared.split("train")
    if isinstance(split, LabelledDocuments):
        raise DataError(
            f"{prepared.directory} holds documents with labels: phrases are of text that a model "
            "writes"
        )
    for row in range(len(split)):
        if isinstance(split, TextWindows):
            yield split.window(row).tolist(), int(split.known[row])
        else:
            yield [*split.target(row).tolist(), prepared.vocabulary.eos], 0
