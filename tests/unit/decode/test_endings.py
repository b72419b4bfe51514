"""EOS at every place, in every way of decoding: one table, one model that says what a script tells
it."""

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.decode.batch import begin_batch
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.translator import Translator

WORDS = [f"w{number:02}" for number in range(30)]
VOCABULARY = train_vocabulary([" ".join(WORDS)], 5 + len(WORDS), "words")
CONFIG = TransformerConfig(
    vocabulary_size=len(VOCABULARY), max_positions=32, group_sizes=(1, 2, 3, 4)
)
END, NEVER = CONFIG.end_token, None

WAYS = {
    "autoregressive": {"group_size": 1},
    "fast": {"group_size": 4},
    "adaptive": {"group_size": 4, "mode": "adaptive", "threshold": 0.9},
    "exact": {"group_size": 4, "mode": "exact"},
    "beam": {"group_size": 4, "beam": 3},
    "sampling": {"group_size": 4, "temperature": 0.5},
    "speculative sampling": {"group_size": 4, "mode": "exact", "temperature": 0.5},
    "ruled": {"group_size": 4, "no_repeat_ngram": 30},
    "ruled, exact": {"group_size": 4, "mode": "exact", "no_repeat_ngram": 30},
    "ruled, beam": {"group_size": 4, "beam": 3, "no_repeat_ngram": 30},
}


def word(row, place):
    return 5 + (row + place) % len(WORDS)


class ScriptMemory:
    """Which row of the script each row of the batch follows."""

    def __init__(self, rows):
        self.rows = rows

    def truncate(self, counts):
        assert len(counts) == len(self.rows)

    def reorder(self, rows):
        self.rows = self.rows[rows]


class ScriptModel:
    """Says, at every position of row n, what the n-th script has there; EOS where the script says,
    or never.

    A row's number and the position of its EOS are read from the source. Drafts are wrong at every
    third position, so exact mode keeps one to K tokens. It remembers the rows of every call.
    """

    config, markov = CONFIG, None

    def __init__(self):
        self.rows = []

    def start(self, source, lengths):
        return ScriptMemory(source[:, :2] - 5)

    def step(self, slots: Slots, memory: ScriptMemory):
        assert len(slots.token) == len(memory.rows), "slots and memory disagree on the rows"
        self.rows.append(len(memory.rows))
        logits = torch.zeros(*slots.token.shape, CONFIG.vocabulary_size)
        for row, (number, end) in enumerate(memory.rows.tolist()):
            for column, position in enumerate(slots.position[row].tolist()):
                drafted = slots.token[row, column] == CONFIG.mask_token
                token = END if position == end else word(number, position)
                logits[
                    row,
                    column,
                    word(number, position + 1) if drafted and position % 3 == 2 else token,
                ] = 40.0
        return logits


def sources(ends):
    """Rows that name themselves and the position of their EOS."""
    return [[5 + row, 5 + (25 if end is NEVER else end)] for row, end in enumerate(ends)]


def expected(row, end, limit):
    """The text and ending of a row whose EOS stands at position `end`."""
    if end is not NEVER and end < limit:
        return [word(row, place) for place in range(end)], "end"
    return [word(row, place) for place in range(limit)], "limit"


CASES = {
    "first in the first group": ([0], 12),
    "in the middle of a group": ([1], 12),
    "last in a group": ([3], 12),
    "first in a later group": ([4], 12),
    "in the middle of a later group": ([6], 12),
    "last in a later group": ([7], 12),
    "exactly on the limit": ([5], 6),
    "just past the limit": ([6], 6),
    "on a limit that ends a group": ([7], 8),
    "on a limit of one": ([0], 1),
    "past a limit of one": ([3], 1),
    "all rows at once": ([5, 5, 5], 12),
    "all rows at the very first": ([0, 0, 0], 12),
    "all on the limit at once": ([NEVER, NEVER, NEVER], 7),
    "every place in one batch": (list(range(10)), 9),
    "one row never": ([1, NEVER, 4, 0], 11),
    "one row ends, the others never": ([NEVER, 2, NEVER], 10),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_endings(way, case):
    # Guards: text after EOS, a row kept alive or cut by its neighbours, EOS and the limit taken for
    # each other.
    ends, limit = CASES[case]
    model = ScriptModel()
    options = DecodeOptions.made(max_tokens=limit, **WAYS[way]).checked(CONFIG)
    found = decode_corpus(model, sources(ends), options)
    assert [(each.tokens, each.ending) for each in found] == [
        expected(row, end, limit) for row, end in enumerate(ends)
    ]
    for hypothesis, end in zip(found, ends, strict=True):
        whole = limit if hypothesis.ending == "limit" else end + 1
        assert len(hypothesis.log_probabilities) == whole, (
            "EOS has a log-probability, what follows it has none"
        )
    if options.beam == 1:
        assert len(model.rows) == max(each.steps for each in found), "a pass that nobody needed"


@pytest.mark.parametrize("case", [name for name, (ends, _) in CASES.items() if len(ends) == 1])
@pytest.mark.parametrize("way", [name for name, choices in WAYS.items() if "beam" not in choices])
def test_endings_while_streaming(way, case):
    # Guards: a last group without its ending, text after EOS handed out, a pass after the last
    # group.
    [end], limit = CASES[case]
    model = ScriptModel()
    translator = Translator(model, VOCABULARY)
    parts = list(
        translator.stream(VOCABULARY.decode(sources([end])[0]), max_tokens=limit, **WAYS[way])
    )
    tokens, ending = expected(0, end, limit)
    assert "".join(part.text for part in parts) == VOCABULARY.decode(tokens)
    assert [part.ending for part in parts] == [None] * (len(parts) - 1) + [ending]
    assert len(model.rows) == len(parts)


@pytest.mark.parametrize("way", [name for name, choices in WAYS.items() if "beam" not in choices])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_request_cancelled_between_two_passes_leaves_the_others_alone(way, after):
    # Guards: a cancelled row that goes on, loses what it has, or takes a neighbour's memory with
    # it.
    model, ends = ScriptModel(), [9, NEVER, 10]
    options = DecodeOptions.made(max_tokens=12, **WAYS[way])
    rows = sources(ends)
    source = torch.tensor([[*row, END] for row in rows])
    state, passes = begin_batch(model, source, torch.tensor([3, 3, 3]), options)
    for _ in range(after):
        next(passes)
    had = list(state.hypotheses[1].tokens)
    state.cancel(1)
    for _ in passes:
        assert state.hypotheses[1].tokens == had
    assert state.hypotheses[1].ending == "cancelled"
    for row in (0, 2):
        assert (state.hypotheses[row].tokens, state.hypotheses[row].ending) == expected(
            row, ends[row], 12
        )
    assert model.rows[after + 1 :].count(3) == 0, "a pass computed for a row that was cancelled"
