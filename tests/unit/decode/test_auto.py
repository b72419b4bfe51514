"""`--group-size auto`: arithmetic over what was measured."""

import pytest

from multistride.decode.choosing.auto import Offer, best, drafted, explained, offers, prefix
from multistride.decode.choosing.calibration import Calibration, KeptShares, PlaceCalibration
from multistride.decode.choosing.cost import StepCosts
from multistride.decode.choosing.strategy import Measured
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary_size=9, group_sizes=(1, 2, 4), lookahead=True)
RIGHT = {"sat": 0.5, "lookahead": 0.75}


def measured():
    places = [
        PlaceCalibration(
            layout=layout,
            group_size=size,
            place=place,
            temperature=1.0,
            shift=0.0,
            tokens=9,
            confidence=0.5,
            right=1.0 if place == 1 else right,
            error_before=0.0,
            error_after=0.0,
        )
        for layout, right in RIGHT.items()
        for size in (2, 4)
        for place in range(1, size + 1)
    ]
    kept = [
        KeptShares(layout=layout, group_size=size, threshold=0.5, shares=(0.9,) * (size - 1))
        for layout in RIGHT
        for size in (2, 4)
    ]
    table = {1: {1: 2.0, 2: 2.5, 4: 4.0}}
    costs = {
        layout: StepCosts(engine="", layout=layout, threads=1, cpu="", table=table)
        for layout in RIGHT
    }
    calibration = Calibration(
        model_sha256="", truth="own-k1", sentences=9, source_sha256="", places=places, kept=kept
    )
    return Measured(calibration, costs)


def tokens(**choices):
    return [offer.tokens for offer in offers(DecodeOptions.made(**choices), CONFIG, measured())]


def test_what_a_step_is_worth_in_each_mode():
    # Guards: tokens that are written and thrown away counted as gain; the layout of another mode.
    assert tokens() == pytest.approx([1, 1.5, 1.875])
    assert tokens(mode="adaptive") == pytest.approx([1, 1.9, 1 + 0.9 + 0.81 + 0.729])
    assert tokens(mode="exact") == pytest.approx([1, drafted([0.75]), drafted([0.75] * 3)])


def test_exact_mode_by_hand():
    # Guards: the pass without drafts after a wrong one forgotten. One draft, right in r of the
    # rounds: a checking pass writes 1 + r tokens and is followed, in 1 - r of the cases, by one
    # that writes a single token.
    for right in (0.0, 0.5, 1.0):
        assert drafted([right]) == pytest.approx(
            ((1 + right) + (1 - right) * 1) / (1 + (1 - right))
        )
    assert drafted([]) == prefix([]) == 1


def test_the_best_offer_and_why():
    # Guards: the most tokens a step instead of a millisecond, an explanation of another choice.
    offered = [Offer(1, 1.0, 2.0), Offer(2, 1.9, 2.5), Offer(4, 2.5, 5.0)]
    assert best(offered).group_size == 2
    assert "K=2" in explained(offered).partition(",")[0]
    assert best([Offer(1, 1.0, 2.0), Offer(2, 2.0, 4.0)]).group_size == 1


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"beam": 2}, "beam 2"),
        ({"temperature": 0.7}, "temperature 0.7"),
        ({"mode": "exact", "drafts": "text"}, "weighs what masks draft, and drafts text was given"),
    ],
)
def test_refused_where_it_was_not_measured(choices, said):
    # Guards: a choice for greedy decoding taken for a search or a sample.
    with pytest.raises(UsageError, match=said):
        offers(DecodeOptions.made(**choices), CONFIG, measured())


def test_a_model_without_a_calibration_is_refused():
    # Guards: a guess that looks like a measurement.
    with pytest.raises(UsageError, match="multistride calibrate"):
        offers(DecodeOptions(), CONFIG, Measured(None, measured().costs))
