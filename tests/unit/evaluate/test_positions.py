"""The measures by place against a loop over single tokens."""

import pytest
import torch

from multistride.evaluate.positions import measure_places
from multistride.groups import equal_sizes, previous_in_group, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SIZES = {
    "hidden_size": 16,
    "feedforward_size": 16,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
}
PAIRS = [([5, 6, 7], [8, 9, 10, 11, 12]), ([6], [7]), ([9, 9, 8, 7], []), ([10, 11], [5, 6, 7])]


@pytest.fixture(scope="module", params=[0, 3], ids=["plain", "markov"])
def model(request):
    torch.manual_seed(4)
    config = TransformerConfig(
        vocabulary_size=20, max_positions=16, markov_rank=request.param, **SIZES
    )
    model = Transformer(config).eval()
    if model.markov is not None:
        torch.nn.init.normal_(model.markov.following)
    return model


def slowly(model, pairs, group_size):
    """(place, cross-entropy, right, confidence, entropy) of every token, one sentence at a time."""
    end = model.config.end_token
    for source, target in pairs:
        tokens = torch.tensor([[*target, end]])
        lengths = torch.tensor([tokens.shape[1]])
        sizes = equal_sizes(lengths, group_size)
        slots, labels = teacher_forced(tokens, lengths, sizes, model.config.start_token)
        before = previous_in_group(slots, labels)
        encoded = torch.tensor([[*source, end]])
        logits = model.project(model(encoded, torch.tensor([encoded.shape[1]]), slots))[0]
        for index, label in enumerate(tokens[0].tolist()):
            scores = logits[index]
            if model.markov is not None and before[0, index] >= 0:
                scores = scores + model.markov(before[0, index : index + 1])[0]
            values = scores.softmax(-1)
            entropy = float(-(values * values.log()).sum())
            right = float(values.argmax() == label)
            yield (
                index % group_size + 1,
                -float(values[label].log()),
                right,
                float(values.max()),
                entropy,
            )


@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
def test_every_token_counts_once_at_its_place(model, group_size):
    # Guards: places counted from the wrong border, padding or the slots after EOS counted, a head
    # left out.
    with torch.no_grad():
        tokens = list(slowly(model, PAIRS, group_size))
    measured = measure_places(model, PAIRS, [group_size])
    assert [row.place for row in measured] == sorted({place for place, *_ in tokens})
    for row in measured:
        here = torch.tensor([facts for place, *facts in tokens if place == row.place])
        assert row.tokens == len(here)
        found = [row.cross_entropy, row.accuracy, row.confidence, row.entropy]
        assert found == pytest.approx(here.mean(0).tolist(), abs=1e-5)
