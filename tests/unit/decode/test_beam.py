"""Beam search over groups, on models small enough to count by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.batch import decode_batch
from multistride.decode.beam import search, search_batch
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import leading, shortlist
from multistride.decode.plan import plan
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

CONFIG = TransformerConfig(
    vocabulary_size=7, max_positions=32, group_sizes=(1, 2, 3, 4), max_group_size=4
)
NEVER = [CONFIG.pad_token, CONFIG.start_token, CONFIG.mask_token]
END, WORDS = CONFIG.end_token, (4, 5, 6)

quick = settings(max_examples=60, deadline=None, derandomize=True)


class TableMemory:
    """Which table each row reads."""

    def __init__(self, sentences):
        self.sentences = sentences

    def reorder(self, rows):
        self.sentences = self.sentences[rows]

    def truncate(self, lengths):
        raise AssertionError("beam search forgets nothing")


class TableModel:
    """A semi-autoregressive model one can read: the logits of position p after the token that its
    slot reads.

    `table` is [sentences, positions, V read, V predicted]; the source names the table. A slot reads
    y[p-K], so p(y | x) is the product of table entries. It counts its calls and the rows it was
    given.
    """

    def __init__(self, table, markov=None):
        self.table, self.config, self.markov, self.rows = table, CONFIG, markov, []

    def start(self, source, lengths):
        return TableMemory(source[:, 0])

    def step(self, slots, memory):
        assert len(slots.token) == len(memory.sentences), "slots and memory disagree on the rows"
        self.rows.append(len(slots.token))
        positions = slots.position.clamp(max=self.table.shape[1] - 1)
        return self.table[memory.sentences[:, None], positions, slots.token]

    def probabilities(self):
        """The log-probabilities of what can be picked, computed once more in float64."""
        scores = self.table.double().clone()
        scores[..., NEVER] = float("-inf")
        return scores.log_softmax(-1)


def random_table(seed, sentences=3, positions=12, scale=1.5):
    return scale * torch.randn(
        sentences, positions, 7, 7, generator=torch.Generator().manual_seed(seed)
    )


def unchecked(options, config):
    """A plan of options that a checked one would refuse, such as a beam wider than the
    vocabulary."""
    return replace(plan(DecodeOptions(), config), options=options)


def run(model, limits, wanted=None, sentences=None, **choices):
    rows = list(range(len(limits))) if sentences is None else sentences
    source = torch.tensor(rows)[:, None]
    options = DecodeOptions(**choices)
    return search(
        model,
        source,
        torch.ones(len(rows), dtype=torch.long),
        limits,
        unchecked(options, model.config),
        wanted,
    )


def written(hypothesis):
    return [token for group in hypothesis.groups for token in group.tokens]


def token_log_probabilities(probabilities, sentence, tokens, group_size):
    reads = [CONFIG.start_token] * group_size + tokens
    return [
        probabilities[sentence, place, reads[place], token].item()
        for place, token in enumerate(tokens)
    ]


def every_output(limit):
    """All token sequences a sentence may become: ended by EOS within the limit, or as long as the
    limit."""
    for length in range(limit):
        yield from ([*words, END] for words in itertools.product(WORDS, repeat=length))
    yield from map(list, itertools.product(WORDS, repeat=limit))


def plain_search(probabilities, sentence, limit, beam, group_size, length_penalty):
    """Beam search token by token, in lists: no groups, no batch, no cache, no early stop."""
    open_ones, finished = [([], 0.0)], []
    while open_ones:
        candidates = []
        for tokens, total in open_ones:
            read = tokens[-group_size] if len(tokens) >= group_size else CONFIG.start_token
            row = probabilities[sentence, len(tokens), read]
            candidates += [([*tokens, token], total + row[token].item()) for token in (END, *WORDS)]
        candidates.sort(key=lambda candidate: -candidate[1])
        kept, open_ones = candidates[: beam - len(finished)], []
        for tokens, total in kept:
            over = tokens[-1] == END or len(tokens) == limit
            (finished if over else open_ones).append((tokens, total))
    return sorted(finished, key=lambda each: -each[1] / len(each[0]) ** length_penalty)


@pytest.mark.parametrize("group_size", [1, 2, 3])
def test_a_markov_head_ranks_every_output_by_its_own_neighbours(group_size):
    # Guards: a correction by another beam's token, across the border of a group, or outside the
    # normalisation.
    torch.manual_seed(group_size)
    head = MarkovHead(CONFIG.model_copy(update={"markov_rank": 2})).requires_grad_(False)
    torch.nn.init.normal_(head.following)
    model = TableModel(random_table(group_size), head)
    space = list(every_output(4))
    found = run(model, [4, 4], group_size=group_size, beam=len(space))

    def score(sentence, tokens):
        reads, total = [CONFIG.start_token] * group_size + tokens, 0.0
        for place, token in enumerate(tokens):
            scores = model.table[sentence, place, reads[place]].double()
            if place % group_size:
                scores = scores + head(torch.tensor([tokens[place - 1]]))[0]
            scores[NEVER] = float("-inf")
            total += scores.log_softmax(-1)[token].item()
        return total / len(tokens)

    for sentence, ranked in enumerate(found):
        expected = sorted(space, key=lambda tokens: -score(sentence, tokens))
        assert [written(each.hypothesis) for each in ranked] == expected
        assert [each.score for each in ranked] == pytest.approx(
            [score(sentence, each) for each in expected], abs=1e-5
        )


@pytest.mark.parametrize("group_size", [1, 2, 3])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 0.6])
def test_a_beam_as_wide_as_the_space_finds_every_output_in_order(group_size, length_penalty):
    # Guards: scores that are not those of the output, a normalisation that counts wrongly, outputs
    # lost or doubled.
    model = TableModel(random_table(group_size))
    probabilities = model.probabilities()
    space = list(every_output(4))
    found = run(
        model, [4, 4], group_size=group_size, beam=len(space), length_penalty=length_penalty
    )
    for sentence, ranked in enumerate(found):
        scores = [
            sum(token_log_probabilities(probabilities, sentence, tokens, group_size))
            / len(tokens) ** length_penalty
            for tokens in space
        ]
        order = sorted(range(len(space)), key=lambda index: -scores[index])
        assert [written(each.hypothesis) for each in ranked] == [space[index] for index in order]
        assert [each.score for each in ranked] == pytest.approx(
            [scores[index] for index in order], abs=1e-5
        )


@quick
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_groups_batches_and_rows_change_nothing(seed, group_size, beam, limits, length_penalty):
    # Guards: pruning by group, beams that read the past of others, neighbours that matter, limits
    # mixed up.
    model = TableModel(random_table(seed))
    probabilities = model.probabilities()
    choices = {"group_size": group_size, "beam": beam, "length_penalty": length_penalty}
    found = run(model, limits, **choices)
    for sentence, (limit, ranked) in enumerate(zip(limits, found, strict=True)):
        expected = plain_search(probabilities, sentence, limit, beam, group_size, length_penalty)
        assert [written(each.hypothesis) for each in ranked] == [tokens for tokens, _ in expected]
        assert run(model, [limit], sentences=[sentence], **choices)[0] == [
            each._replace(hypothesis=_moved(each.hypothesis)) for each in ranked
        ]


def _moved(hypothesis):
    """The hypothesis as row 0 of a batch of its own."""
    return type(hypothesis)(0, hypothesis.limit, hypothesis.groups, hypothesis.ending)


@quick
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_every_hypothesis_carries_its_own_numbers(seed, group_size, beam, length_penalty):
    # Guards: log-probabilities of another beam or place, a score that is not theirs, lists out of
    # order, doubles.
    model = TableModel(random_table(seed))
    limits = [9, 2, 5]
    for sentence, ranked in enumerate(
        run(model, limits, group_size=group_size, beam=beam, length_penalty=length_penalty)
    ):
        assert [each.score for each in ranked] == sorted(
            (each.score for each in ranked), reverse=True
        )
        assert len({tuple(written(each.hypothesis)) for each in ranked}) == len(ranked)
        assert len(ranked) == min(beam, len(list(every_output(limits[sentence]))))
        for score, hypothesis in ranked:
            tokens = written(hypothesis)
            own = token_log_probabilities(model.probabilities(), sentence, tokens, group_size)
            assert hypothesis.row == sentence
            assert hypothesis.log_probabilities == pytest.approx(own, abs=1e-5)
            assert score == pytest.approx(sum(own) / len(own) ** length_penalty, abs=1e-5)
            assert hypothesis.steps == math.ceil(len(tokens) / group_size)
            assert [group.step for group in hypothesis.groups] == list(range(hypothesis.steps))
            assert {group.group_size for group in hypothesis.groups} == {group_size}
            assert not set(tokens) & set(NEVER)
            assert hypothesis.ending == ("end" if tokens[-1] == END else "limit")
            assert hypothesis.tokens == [token for token in tokens if token != END]


@quick
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.5, 1.5, 4.0]),
)
def test_stopping_early_changes_no_result(seed, group_size, beam, length_penalty, scale):
    # Guards: a bound that forgets that longer hypotheses gain by normalisation, or one taken from
    # the wrong sentence.
    model = TableModel(random_table(seed, scale=scale))
    choices = {"group_size": group_size, "beam": beam, "length_penalty": length_penalty}
    whole = run(model, [11, 7, 3], **choices)
    for wanted in range(1, beam + 1):
        assert run(model, [11, 7, 3], wanted=wanted, **choices) == [
            ranked[:wanted] for ranked in whole
        ]


def test_the_search_does_stop_early():
    # Guards: a bound so weak that it never holds (then every search pays for the full list).
    table = torch.zeros(1, 32, 7, 7)
    table[:, 0, :, END] = 6.0
    model = TableModel(table)
    [[best]] = run(model, [30], wanted=1, beam=4, length_penalty=0.0)
    assert best.hypothesis.tokens == []
    assert len(model.rows) == 1
    run(model, [30], beam=4, length_penalty=0.0)
    assert len(model.rows) > 2


def test_a_late_winner_is_waited_for():
    # Guards: stopping as soon as anything is finished, although a longer hypothesis wins by its
    # mean.
    table = torch.zeros(1, 32, 7, 7)
    table[:, 0, :, 4], table[:, 0, :, END] = 2.0, 2.5
    table[:, 1:, :, 5] = 9.0
    table[:, 8, :, END] = 20.0
    [[best]] = run(TableModel(table), [20], wanted=1, beam=2, length_penalty=1.0)
    assert best.hypothesis.tokens == [4, 5, 5, 5, 5, 5, 5, 5]
    [[short]] = run(TableModel(table), [20], wanted=1, beam=2, length_penalty=0.0)
    assert short.hypothesis.tokens == []


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("group_size", [1, 2, 3, 4])
def test_end_at_every_place_of_a_group(place, group_size):
    # Guards: EOS seen only at the end of a group, tokens after it kept, a step too many counted.
    table = torch.zeros(1, 32, 7, 7)
    table[..., 4], table[..., 5] = 5.0, 2.0
    table[:, place, :, END] = 12.0
    [ranked] = run(TableModel(table), [12], beam=3, group_size=group_size)
    best = ranked[0].hypothesis
    assert (best.tokens, best.ending) == ([4] * place, "end")
    assert len(best.log_probabilities) == place + 1
    assert best.steps == math.ceil((place + 1) / group_size)
    assert [len(group.tokens) for group in best.groups][-1] == place % group_size + 1
    assert all(len(each.hypothesis.log_probabilities) <= 12 for each in ranked)


@pytest.mark.parametrize("limit", range(1, 8))
@pytest.mark.parametrize("group_size", [1, 2, 3, 4])
def test_the_limit_at_every_place_of_a_group(limit, group_size):
    # Guards: hypotheses longer than the limit, or an EOS exactly on it counted as "limit".
    table = torch.zeros(1, 32, 7, 7)
    table[..., 4], table[..., END] = 5.0, -9.0
    [ranked] = run(TableModel(table), [limit], beam=3, group_size=group_size)
    assert (ranked[0].hypothesis.tokens, ranked[0].hypothesis.ending) == ([4] * limit, "limit")
    assert {len(each.hypothesis.log_probabilities) for each in ranked} == {limit}
    table[:, limit - 1, :, END] = 12.0
    [ranked] = run(TableModel(table), [limit], beam=3, group_size=group_size)
    assert (ranked[0].hypothesis.tokens, ranked[0].hypothesis.ending) == ([4] * (limit - 1), "end")
    assert len(ranked[0].hypothesis.log_probabilities) == limit


def test_sentences_and_places_that_are_over_leave_the_batch():
    # Guards: finished sentences (or the places of finished hypotheses) that still cost a row of
    # every step.
    table = torch.zeros(2, 32, 7, 7)
    table[..., 4], table[..., 5] = 3.0, 2.9
    table[0, 0, :, END] = 9.0  # the first sentence: one place is used up at once ...
    model = TableModel(table)
    run(model, [3, 6], beam=2)
    assert model.rows == [2, 1 + 2, 1 + 2, 2, 2, 2]


def test_a_beam_wider_than_the_vocabulary_is_searched_with_what_there_is():
    # Guards: places filled with impossible tokens where the first token has fewer candidates than
    # places.
    [ranked] = run(TableModel(random_table(5)), [2], beam=50)
    assert len(ranked) == len(list(every_output(2)))
    assert all(math.isfinite(each.score) for each in ranked)


def test_ties_go_to_the_lowest_beam_then_the_lowest_token():
    # Guards: results that depend on how a library breaks ties, or on the batch.
    table = torch.zeros(2, 32, 7, 7)
    found = run(TableModel(table), [2, 2], beam=4)
    expected = [[END], [4, END], [4, 4], [4, 5]]
    assert [[written(each.hypothesis) for each in ranked] for ranked in found] == [
        expected,
        expected,
    ]


@quick
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_leading_takes_the_lowest_of_equal_places(values, count):
    # Guards: the border case, where some of several equal values are taken and others are not.
    best, places = leading(torch.tensor(values, dtype=torch.float32), count)
    expected = [
        sorted(range(6), key=lambda place, row=row: (-row[place], place))[:count] for row in values
    ]
    assert places.tolist() == expected
    assert best.tolist() == [
        [row[place] for place in order] for row, order in zip(values, expected, strict=True)
    ]


def test_a_shortlist_renormalises_over_what_can_be_picked():
    # Guards: padding, start or mask symbols in the list, and probability lost to them.
    logits = torch.zeros(1, 2, 7)
    logits[..., NEVER] = 50.0
    logits[0, 1, 5] = 1.0
    tokens, values = shortlist(CONFIG)(logits, 4)
    assert tokens.tolist() == [[[END, 4, 5, 6], [5, END, 4, 6]]]
    torch.testing.assert_close(values.exp().sum(-1), torch.ones(1, 2))


@quick
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_beam_of_one_is_greedy(seed, group_size):
    # Guards: a beam of one that goes on after EOS in search of something better, or counts
    # otherwise than greedy.
    model = TableModel(random_table(seed))
    source, lengths = torch.tensor([[0], [1], [2]]), torch.tensor([1, 4, 2])
    options = DecodeOptions(group_size=group_size, limit_ratio=2.0, limit_extra=1)
    for one, other in zip(
        search_batch(model, source, lengths, options),
        decode_batch(model, source, lengths, options),
        strict=True,
    ):
        assert (one.row, one.limit, one.ending, one.tokens) == (
            other.row,
            other.limit,
            other.ending,
            other.tokens,
        )
        assert [(group.step, group.group_size, group.tokens) for group in one.groups] == [
            (group.step, group.group_size, group.tokens) for group in other.groups
        ]
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-6)


@pytest.mark.parametrize("beam", [0, -1, 8])
def test_a_beam_out_of_range_is_one_clear_line(beam):
    # Guards: a beam that fails deep in the search, or is silently cut down.
    with pytest.raises(UsageError, match=rf"beam.*{beam}"):
        decode_corpus(
            TableModel(random_table(0)), [[4]], DecodeOptions.made(beam=beam).checked(CONFIG)
        )


@pytest.mark.parametrize("length_penalty", [-0.1, 11, float("nan"), float("inf")])
def test_a_length_penalty_without_a_safe_bound_is_refused(length_penalty):
    # Guards: a negative or endless penalty, for which stopping early would not be safe.
    with pytest.raises(UsageError, match="length_penalty"):
        DecodeOptions.made(length_penalty=length_penalty)


@pytest.mark.parametrize("beam", [1, 3])
def test_a_first_token_may_fill_the_limit(beam):
    # Guards: a sentence searched beyond its limit, because what it begins with fills it.
    model = TableModel(random_table(5))
    model.config = CONFIG.model_copy(update={"first_token": 5})
    options = DecodeOptions(group_size=2, beam=beam, max_tokens=1)
    for hypothesis in decode_corpus(model, [[0], [1]], options):
        assert (hypothesis.tokens, hypothesis.ending) == ([5], "limit")
    some = [[best.hypothesis.tokens for best in each] for each in run(model, [1, 4], beam=3)]
    alone = [[best.hypothesis.tokens for best in each] for each in run(model, [4], 3, [1], beam=3)]
    assert some == [[[5]], *alone]
