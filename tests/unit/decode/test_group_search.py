"""The search inside a group: against all groups there are, against greedy picking, its rules."""

from itertools import product

import pytest
import torch

from multistride.decode.markov import markov_greedy, searched
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

CONFIG = TransformerConfig(
    vocabulary_size=9,
    hidden_size=8,
    feedforward_size=8,
    heads=1,
    encoder_layers=1,
    decoder_layers=1,
    max_positions=16,
    max_group_size=4,
    group_sizes=(1, 2, 4),
    markov_rank=3,
)
END = CONFIG.end_token


def head(seed):
    torch.manual_seed(seed)
    made = MarkovHead(CONFIG)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0, 1.2)
    return made


def log_probabilities(head, logits, group):
    """Return what each token of a group is worth after the one before it, up to the end."""
    values = []
    for slot, token in enumerate(group):
        scores = logits[slot].clone()
        scores[list(CONFIG.unpicked)] = float("-inf")
        if slot:
            scores += head(torch.tensor([group[slot - 1]]))[0].detach()
        values.append(float(scores.log_softmax(-1)[token]))
        if token == END:
            break
    return values


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_search_finds_the_best_group_there_is(seed):
    own = head(seed)
    logits = torch.randn(3, 3, 9) * 1.5
    found = searched(CONFIG, own, 64)(logits)
    tokens = [token for token in range(9) if token not in CONFIG.unpicked]
    for row in range(3):
        best = max(
            (log_probabilities(own, logits[row], group) for group in product(tokens, repeat=3)),
            key=lambda values: sum(values) / len(values),
        )
        written = found.tokens[row].tolist()
        count = written.index(END) + 1 if END in written else 3
        assert count == len(best)
        torch.testing.assert_close(found.log_probabilities[row, :count], torch.tensor(best))


def test_one_group_kept_is_greedy_picking():
    own, logits = head(3), torch.randn(40, 4, 9) * 2
    one, greedy = searched(CONFIG, own, 1)(logits), markov_greedy(CONFIG, own)(logits)
    for row in range(40):
        written = greedy.tokens[row].tolist()
        count = written.index(END) + 1 if END in written else 4
        assert one.tokens[row, :count].tolist() == written[:count]
    ended = (greedy.tokens == END).cumsum(1) > 0
    assert bool((one.tokens[ended] == END).all()), "behind the end nothing else is proposed"


def test_it_finds_better_groups_and_each_row_is_its_own():
    own, logits = head(5), torch.randn(60, 4, 9)
    together, greedy = searched(CONFIG, own, 4)(logits), markov_greedy(CONFIG, own)(logits)
    better = 0
    for row in range(60):
        alone = searched(CONFIG, own, 4)(logits[row : row + 1])
        assert alone.tokens.tolist() == together.tokens[row : row + 1].tolist()
        one, other = (
            log_probabilities(own, logits[row], each.tokens[row].tolist())
            for each in (together, greedy)
        )
        assert sum(one) / len(one) >= sum(other) / len(other) - 1e-5
        better += sum(one) / len(one) > sum(other) / len(other) + 1e-5
    assert better > 5, "guards: a search that never differs from greedy picking"


MODELS = CONFIG.model_copy(update={"group_beam": 3})


@pytest.mark.parametrize("choices", [{}, {"policy": "fixed"}], ids=str)
def test_a_model_may_have_its_groups_searched_by_default(choices):
    options = DecodeOptions.made(group_size=4, **choices)
    assert plan(options, MODELS).group_beam == 3
    assert plan(options, CONFIG).group_beam == 1
    given = options.model_copy(update={"group_beam": 1})
    assert plan(given, MODELS).group_beam == 1
    assert plan(given, MODELS).greedy


@pytest.mark.parametrize(
    "choices",
    [
        {"group_size": 1},
        {"mode": "exact", "group_size": 4},
        {"mode": "adaptive", "group_size": 4},
        {"beam": 2, "group_size": 4},
        {"temperature": 1.0, "group_size": 4},
        {"policy": "phase", "group_size": 4},
        {"no_repeat_ngram": 2, "group_size": 4},
    ],
    ids=str,
)
def test_the_default_gives_way_where_it_has_no_meaning(choices):
    # Guards: an option that works with every model but the one that ships.
    assert plan(DecodeOptions.made(**choices), MODELS).group_beam == 1


def test_the_default_gives_way_to_rules_and_policies_of_ones_own():
    searched = plan(DecodeOptions(group_size=4), MODELS)
    assert searched.group_beam == 3
    assert searched.proposing(lambda state: None).group_beam == 1
    assert searched.allowing(lambda source: None).group_beam == 1
    assert searched.of_size(2).group_beam == 3
    assert searched.of_size(1).group_beam == 1
    assert searched.without_drafts().group_beam == 1


def test_a_default_of_one_is_not_stored():
    assert "group_beam" not in CONFIG.stored()
    assert TransformerConfig(**MODELS.stored()) == MODELS


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"mode": "exact", "group_size": 4}, "mode exact picks tokens"),
        ({"mode": "adaptive", "group_size": 4}, "mode adaptive picks tokens"),
        ({"beam": 2, "group_size": 4}, "beam 2 keeps"),
        ({"temperature": 1.0, "group_size": 4}, "temperature 1.0 draws"),
        ({"policy": "phase", "group_size": 4}, "policy phase proposes groups"),
        ({"group_size": 1}, "group size 1 writes groups of one token"),
        ({"no_repeat_ngram": 2, "group_size": 4}, "rules about what may be written"),
    ],
    ids=str,
)
def test_it_is_refused_where_it_has_no_meaning(choices, said):
    with pytest.raises(UsageError, match=f"group_beam 3 was given, and {said}"):
        plan(DecodeOptions.made(group_beam=3, **choices), CONFIG)


def test_it_needs_a_markov_head():
    config = CONFIG.model_copy(update={"markov_rank": 0})
    with pytest.raises(UsageError, match="no Markov head"):
        plan(DecodeOptions.made(group_beam=3, group_size=4), config)
