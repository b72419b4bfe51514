"""Drafts without a network: what stood behind the same tokens before.

A text repeats itself and its prompt, and what one model writes resembles what it wrote before. So
the last few tokens are looked up in the text so far, prompt included, then in a table of what most
often followed them in text the model wrote (`phrases.npy` in its directory), and what followed
there is drafted. Exact mode checks it as it checks any draft, so it can cost a few slots and
nothing else; no training is needed.

Source: copying from the text so far, Yang et al. 2023, arXiv 2304.04487; drafts from stored text,
He et al. 2023, arXiv 2311.08252. Shapes: R rows still running, N slots of the pass, M rows of a
table, P a phrase and one more, V vocabulary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from multistride.data.batch import PreparedData, TextWindows
from multistride.data.foreign import load_vocabulary
from multistride.data.labelled import LabelledDocuments
from multistride.decode.exact import AlignedPicker, Drafter
from multistride.decode.pick import Picked
from multistride.decode.state import DecodeState
from multistride.decode.step import M, StepModel
from multistride.errors import DataError
from multistride.files import replacing_file
from multistride.model.weights import load_config
from multistride.untrusted import read_array

PHRASES = "phrases.npy"
"""The file of a model directory that holds its table."""

LONGEST = 4
"""Tokens of the longest phrases that are looked up."""

SHORTEST = 2
"""Tokens of the shortest ones where masks draft too: a single token says less than they do."""

SURE, LONG = 0.5, 3
"""Masks whose first draft is this probable give way only to phrases of the text so far that are
this long."""

PADDING = -1
"""Stands before phrases shorter than the longest in a stored table."""


class SoFar:
    """One text as it grows, with the places where its phrases stood last."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        for token in tokens:
            place = len(self.tokens)
            for length in range(SHORTEST, min(LONGEST, place) + 1):
                self._behind[tuple(self.tokens[place - length :])] = place
            self.tokens.append(token)

    def following(self, most: int, shortest: int = SHORTEST) -> list[int]:
        """Return `most` tokens that followed the longest final phrase where it last stood; [] if
        none.
        """
        for length in range(min(LONGEST, len(self.tokens)), shortest - 1, -1):
            place = self._behind.get(tuple(self.tokens[-length:]))
            if place is not None:
                period = len(self.tokens) - place  # a copy that reaches its own end goes round
                return [self.tokens[place + offset % period] for offset in range(most)]
        return []


class PhraseTable:
    """Table from phrases to the token that most often followed them."""

    def __init__(self, rows: Int[np.ndarray, "M P"]) -> None:
        self._longest = rows.shape[1] - 1
        phrases = ([token for token in row[:-1] if token != PADDING] for row in rows.tolist())
        self._next = {
            tuple(phrase): row[-1] for phrase, row in zip(phrases, rows.tolist(), strict=True)
        }

    @classmethod
    def load(cls, directory: Path | str) -> PhraseTable | None:
        """The table in a model directory, None if it has none. Raises `DataError` if it is
        damaged.
        """
        path = Path(directory) / PHRASES
        if not path.is_file():
            return None
        rows = read_array(path, "delete it, or run `multistride phrases` again")
        if rows.dtype != np.int32 or rows.ndim != 2 or rows.shape[1] < 2:
            raise DataError(
                f"{path} is no table of phrases: delete it, or run `multistride phrases` again"
            )
        return cls(rows)

    def following(self, tokens: Sequence[int], most: int, shortest: int = 1) -> list[int]:
        """Up to `most` tokens, each the most frequent behind the longest known phrase before it."""
        context = list(tokens[-self._longest :])
        found: list[int] = []
        while len(found) < most:
            lengths = range(len(context), shortest - 1, -1)
            token = next(
                (
                    after
                    for length in lengths
                    if (after := self._next.get(tuple(context[-length:])))
                ),
                None,
            )
            if token is None:
                break
            found.append(token)
            context = [*context, token][-self._longest :]
        return found


def phrases_of(
    texts: Iterable[tuple[Sequence[int], int]], longest: int = LONGEST
) -> NDArray[np.int32]:
    """A table [M, P] of texts: a phrase, padded on the left, and the token that followed it most
    often.

    With each text comes how many of its first tokens were given to the model; what they say is no
    draft. A phrase of more than two tokens that its own end speaks for is left out. Of equally
    frequent ones the first stands.
    """
    behind: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for tokens, known in texts:
        for place in range(max(known, 1), len(tokens)):
            for length in range(1, min(longest, place) + 1):
                behind[tuple(tokens[place - length : place])][tokens[place]] += 1
    best = {phrase: counts.most_common(1)[0][0] for phrase, counts in behind.items()}
    kept = [
        (phrase, after)
        for phrase, after in best.items()
        if len(phrase) <= SHORTEST or best[phrase[1:]] != after
    ]
    rows = [[PADDING] * (longest - len(phrase)) + [*phrase, after] for phrase, after in kept]
    return np.array(rows, dtype=np.int32).reshape(-1, longest + 1)


def store_phrases(model: Path | str, data: Path | str, longest: int = LONGEST) -> int:
    """Write the table of the training text in `data` into the directory of a model; returns its
    rows.

    Of windows what was given to the model is left out. Raises `DataError` for directories that are
    none, and for text in tokens of another vocabulary.
    """
    load_config(model)
    prepared = PreparedData.load(data)
    if load_vocabulary(model).digest() != prepared.vocabulary.digest():
        raise DataError(
            f"{data} was prepared with another vocabulary: prepare it with --vocabulary {model}"
        )
    rows = phrases_of(_written(prepared), longest)
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


class PhraseDrafter(Drafter[M]):
    """Drafts by phrases where the text so far or the table has any; by masks elsewhere or where
    they are sure.
    """

    def __init__(
        self,
        engine: StepModel[M],
        state: DecodeState,
        group_size: int,
        table: PhraseTable | None,
        masks: bool,
        choose: AlignedPicker | None = None,
        prefix: Sequence[int] = (),
    ) -> None:
        super().__init__(engine, len(state.running), group_size, choose, masks)
        self._texts = [SoFar([*known, *prefix]) for known in state.known()]
        self._table, self._shortest = table, SHORTEST if masks else 1
        self._sure = torch.zeros(len(state.running), dtype=torch.bool)
        self._look_up()

    def renew(self, logits: Float[Tensor, "R N V"], picked: Picked, kept: Int[Tensor, "R"]) -> None:
        """Draft anew behind what was kept."""
        self._sure = torch.zeros(len(kept), dtype=torch.bool)
        super().renew(logits, picked, kept)
        for text, tokens, count in zip(
            self._texts, picked.tokens.tolist(), kept.tolist(), strict=True
        ):
            text.extend(tokens[:count])
        self._look_up()

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""
        super().leave(stay)
        self._sure = self._sure[stay]
        self._texts = [self._texts[row] for row in stay.tolist()]

    def _draft_from(self, logits: Float[Tensor, "R D V"], previous: Int[Tensor, "R"]) -> None:
        drafted = self._draft(logits, previous)
        self.tokens, self._sure = drafted.tokens, drafted.log_probabilities[:, 0].exp() >= SURE

    def _look_up(self) -> None:
        most = self.group_size - 1
        tokens, counts = self.tokens.tolist(), self.counts.tolist()
        for row, (text, sure) in enumerate(
            zip(self._texts, (self._sure & (self.counts > 0)).tolist(), strict=True)
        ):
            found = text.following(most, LONG if sure else SHORTEST)
            if not found and not sure and self._table is not None:
                found = self._table.following(text.tokens, most, self._shortest)
            if found:
                tokens[row][: len(found)], counts[row] = found, len(found)
        self.tokens = torch.tensor(tokens, dtype=torch.long).reshape(self.tokens.shape)
        self.counts = torch.tensor(counts, dtype=torch.long)
