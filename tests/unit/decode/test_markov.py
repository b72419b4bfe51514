"""Picking with a Markov head against the same choice made over the whole vocabulary, token by
token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.markov import greedy_for, markov_greedy
from multistride.decode.pick import greedy
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

CONFIG = TransformerConfig(vocabulary_size=23, markov_rank=3)


def head_of(seed, scale=1.0):
    torch.manual_seed(seed)
    head = MarkovHead(CONFIG)
    torch.nn.init.normal_(head.following, std=scale)
    return head


def slowly(logits, head, row):
    """The picks of one row and their log-probabilities, every token corrected."""
    never = [CONFIG.pad_token, CONFIG.start_token, CONFIG.mask_token]
    tokens, values = [], []
    for place in range(logits.shape[1]):
        scores = logits[row, place].clone()
        if place:
            scores += head(torch.tensor([tokens[-1]]))[0]
        scores[never] = float("-inf")
        tokens.append(int(scores.argmax()))
        values.append(float(scores.log_softmax(-1)[tokens[-1]]))
    return tokens, values


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_it_is_the_most_probable_of_the_whole_vocabulary(seed, rows, group_size):
    # Guards: a correction by the token of another row or place, and probabilities that do not add
    # up to one.
    head, logits = (
        head_of(seed),
        torch.randn(rows, group_size, 23, generator=torch.Generator().manual_seed(seed)),
    )
    picked = markov_greedy(CONFIG, head)(logits)
    for row in range(rows):
        tokens, values = slowly(logits, head.requires_grad_(False), row)
        assert picked.tokens[row].tolist() == tokens
        assert picked.log_probabilities[row].tolist() == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("group_size", [1, 4])
def test_a_new_head_picks_as_greedy_does(group_size):
    # Guards: a model that changes by what it has not yet learned, ties included.
    logits = torch.randint(
        0, 3, (5, group_size, 23), generator=torch.Generator().manual_seed(1)
    ).float()
    plain, corrected = greedy(CONFIG)(logits), markov_greedy(CONFIG, head_of(1, scale=0.0))(logits)
    assert torch.equal(plain.tokens, corrected.tokens)
    torch.testing.assert_close(plain.log_probabilities, corrected.log_probabilities)


def test_a_model_is_picked_with_the_head_it_has():
    # Guards: a head that is trained and never used.
    head = head_of(2, scale=5.0)
    logits = torch.randn(8, 4, 23, generator=torch.Generator().manual_seed(2))
    assert torch.equal(greedy_for(CONFIG, None)(logits).tokens, greedy(CONFIG)(logits).tokens)
    assert torch.equal(
        greedy_for(CONFIG, head)(logits).tokens, markov_greedy(CONFIG, head)(logits).tokens
    )
    assert not torch.equal(greedy_for(CONFIG, head)(logits).tokens, greedy(CONFIG)(logits).tokens)
