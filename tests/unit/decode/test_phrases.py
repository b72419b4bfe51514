"""Drafts by phrases: what is looked up, and that it changes nothing that is written."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multistride.decode.batch import begin_batch
from multistride.decode.choosing.strategy import Measured
from multistride.decode.copying import Copied, PhraseDrafter, SoFar
from multistride.decode.corpus import decode_corpus
from multistride.decode.ending import EndingRule
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PHRASES, PhraseTable
from multistride.decode.pick import Picked
from multistride.decode.plan import plan
from multistride.decode.state import DecodeState
from multistride.distill.phrases import phrases_of
from multistride.engines.eager import EagerStepModel
from multistride.errors import DataError, UsageError
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.model.transformer import Transformer

SHAPE = {
    "vocabulary_size": 24,
    "hidden_size": 32,
    "feedforward_size": 48,
    "heads": 4,
    "encoder_layers": 0,
    "decoder_layers": 2,
    "positions": "rotary",
    "max_positions": 96,
    "dropout": 0.0,
}


def looked_up(tokens, most):
    """The same by looking at every place: the latest earlier place of the longest phrase at the
    end."""
    for length in (4, 3, 2):
        phrase = tokens[-length:]
        for place in range(len(tokens) - 1, length - 1, -1):
            if len(tokens) >= length and tokens[place - length : place] == phrase:
                copied = list(tokens)
                for offset in range(most):
                    copied.append(copied[place + offset])
                return copied[len(tokens) :]
    return []


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 9), st.integers(0, 30))
def test_a_text_is_searched_backwards_for_the_longest_phrase(tokens, most, cut):
    # Guards: phrases that find their own end, places one off, copies that run into what is not
    # written yet.
    text = SoFar(tokens[:cut])
    text.extend(tokens[cut:])
    assert text.following(most) == looked_up(tokens, most)


def test_a_table_says_what_most_often_followed():
    # Guards: given tokens taken for written ones, shorter phrases preferred, rows that say nothing
    # new.
    texts = [([5, 6, 7, 8], 2), ([9, 6, 7, 8], 0), ([9, 6, 1], 0), ([3, 6, 1], 0), ([3, 6, 1], 0)]
    rows = phrases_of(texts, longest=2)
    assert rows.dtype == np.int32
    assert [-1, 5, 6] not in rows.tolist(), "5 was given, and so was what follows it"
    table = PhraseTable(rows)
    assert table.following([6], 2) == [1]
    assert table.following([5, 6], 3) == [7, 8]
    assert table.following([9, 6], 1) == [7], "the first one seen of two that are as frequent"
    assert table.following([5, 6], 3, shortest=2) == [7, 8]
    assert table.following([2, 6], 3, shortest=2) == []
    assert [6, 7, 8] in rows.tolist(), "7 alone says the same, and may not be asked alone"
    assert [9, 6, 7, 8] not in phrases_of(texts, longest=3).tolist(), "6, 7 says the same"
    assert phrases_of([], 3).shape == (0, 4)


def test_rare_phrases_may_be_left_out():
    # Guards: counts of a phrase with one continuation, in the place of all that follow it.
    texts = [([5, 6, 7], 0), ([5, 6, 8], 0), ([5, 9, 7], 0), ([3, 4, 4], 0)]
    rows = phrases_of(texts, longest=2, min_count=2)
    assert rows.tolist() == [[-1, 5, 6], [-1, 6, 7], [5, 6, 7]]


def model(adapter=False, **choices):
    torch.manual_seed(4)
    sizes = (
        {"group_sizes": (1, 2, 4), "adapter": AdapterConfig(rank=4, layers=1)} if adapter else {}
    )
    made = Transformer(TransformerConfig(**SHAPE, **sizes, **choices)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.6)
    return made


def prompts():
    generator = torch.Generator().manual_seed(8)
    return [
        torch.randint(5, 24, (length,), generator=generator).tolist() for length in (1, 6, 2, 11, 3)
    ]


def own_table(engine):
    written = decode_corpus(engine, prompts(), DecodeOptions.made(max_tokens=40))
    texts = [
        ([*prompt, *each.tokens], len(prompt))
        for prompt, each in zip(prompts(), written, strict=True)
    ]
    return Measured(phrases=PhraseTable(phrases_of(texts)))


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("drafts", ["text", "both"])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_what_is_written_is_that_of_k1(adapter, drafts, batch_size, known):
    # Guards: rows whose drafts are fewer than others', drafts left over from masks, prompts that
    # are not looked at.
    engine = EagerStepModel(model(adapter))
    if drafts == "both" and not adapter:
        engine = EagerStepModel(model(group_sizes=(1, 4), lookahead=True))
    expected = decode_corpus(
        engine, prompts(), DecodeOptions.made(max_tokens=40, batch_size=batch_size)
    )
    options = DecodeOptions.made(
        max_tokens=40, group_size=4, mode="exact", drafts=drafts, batch_size=batch_size
    )
    measured = own_table(engine) if known else None
    found = decode_corpus(engine, prompts(), plan(options, engine.config, knowledge=measured))
    assert [(each.tokens, each.ending) for each in found] == [
        (each.tokens, each.ending) for each in expected
    ]
    steps, passes = (sum(each.steps for each in written) for written in (expected, found))
    assert passes < (steps / 2 if known else steps), (
        "random models write loops, and a table of their own text is right"
    )


def test_a_table_is_used_where_there_is_one():
    # Guards: a table that is loaded and not asked, and one that is asked where masks were wanted.
    engine = EagerStepModel(model(adapter=True))
    source = torch.tensor(prompts()[3:4])
    lengths = torch.tensor([source.shape[1]])

    def passes(**choices):
        options = DecodeOptions.made(max_tokens=40, group_size=4, mode="exact", **choices)
        state, steps = begin_batch(
            engine, source, lengths, plan(options, engine.config, knowledge=own_table(engine))
        )
        assert sum(1 for written in steps if written) == state.hypotheses[0].steps
        return state.hypotheses[0].steps

    assert passes() == passes(drafts="both") < passes(drafts="masks")


@pytest.mark.parametrize(("logit", "drafted"), [(9.0, [20, 20]), (0.0, [7, 8])])
def test_sure_masks_go_before_short_phrases(logit, drafted):
    # Guards: a phrase of two tokens that overrules masks which know better, and one of three that
    # does not.
    engine = EagerStepModel(model(adapter=True))
    for known, copied in (([5, 6, 7, 8, 5, 6], drafted), ([4, 5, 6, 7, 8, 4, 5, 6], [7, 8])):
        state = DecodeState([20], 1, EndingRule.at(2), [known[:-1]])
        drafter = PhraseDrafter(engine, state, 3, Copied())
        drafter.counts = torch.tensor(
            [0]
        )  # as if nothing had been drafted for the pass that is over
        logits = torch.zeros(1, 3, 24)
        logits[0, 1:, 20] = logit
        picked = Picked(torch.tensor([known[-1:]]), torch.zeros(1, 1))
        drafter.renew(logits, picked, torch.tensor([1]))
        assert drafter.tokens.tolist() == [copied]
        assert drafter.counts.tolist() == [2]


def test_drafts_that_cannot_be_are_refused():
    config = TransformerConfig(**SHAPE)
    for choices, message in (
        (
            {"mode": "fast"},
            "drafts text was given, and mode fast has none: choose mode exact, or leave it out",
        ),
        (
            {"mode": "exact", "group_size": 17},
            "group size 17 was asked for; drafts of text are checked at most 16",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            DecodeOptions.made(drafts="text", **choices).checked(config)
    with pytest.raises(
        UsageError, match="trained for 1: choose 1, or drafts text, which needs no tr"
    ):
        DecodeOptions.made(drafts="both", mode="exact", group_size=4).checked(config)


def test_damaged_tables_are_refused(tmp_path):
    assert PhraseTable.load(tmp_path, 24) is None
    (tmp_path / PHRASES).write_bytes(b"no array")
    with pytest.raises(
        DataError,
        match=r"phrases.npy is damaged \(.*: delete it, or run `multistride phrases` again",
    ):
        PhraseTable.load(tmp_path, 24)
    np.save(tmp_path / PHRASES, np.zeros((3, 2)))
    with pytest.raises(DataError, match="is no table of phrases"):
        PhraseTable.load(tmp_path, 24)


@pytest.mark.parametrize(("row", "token"), [([1, 24], 24), ([99, 2], 99), ([1, -1], -1)])
def test_a_table_of_other_tokens_is_refused(tmp_path, row, token):
    # Guards: an index error in the middle of a text, from a table of a larger vocabulary.
    np.save(tmp_path / PHRASES, np.array([[-1, 3, 4], [-1, *row]], np.int32))
    with pytest.raises(DataError, match=f"has token {token}, the model has 0 to 23: delete it"):
        PhraseTable.load(tmp_path, 24)


def test_the_first_token_of_a_vocabulary_is_drafted():
    # Guards: token 0 (`!` in GPT-2) taken for no token.
    table = PhraseTable(np.array([[-1, 5, 0], [5, 0, 6], [-1, 0, 7]], np.int32))
    assert table.following([4, 5], 3) == [0, 6]
