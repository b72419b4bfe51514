"""What a calibration judges is what decoding would propose."""

import numpy as np
import pytest

from multistride.decode.choosing.calibration import CERTAIN
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.evaluate.calibrate import fit, judge, kept_shares

LIMITS = {"limit_ratio": 1.0, "limit_extra": 9}


def all_tokens(hypotheses):
    return [[token for group in each.groups for token in group.tokens] for each in hypotheses]


@pytest.fixture(scope="module")
def engine(model):
    return EagerStepModel(model)


@pytest.fixture(scope="module")
def own(engine, sources):
    return all_tokens(decode_corpus(engine, sources, DecodeOptions(**LIMITS)))


def test_the_first_draft_is_always_right(engine, sources, own):
    # Guards: proposals compared with tokens of another place, a sentence's last groups judged
    # beyond its end.
    judged = judge(engine, sources, own, "lookahead", 4, batch_size=5)
    assert len(judged.sentence) == sum(len(target) for target in own)
    assert judged.right[:, 0].all()
    assert judged.there.sum() == sum(
        min(4, len(target) - place) for target in own for place in range(len(target))
    )
    assert fit(judged, "lookahead", 4)[0].temperature == CERTAIN


@pytest.mark.parametrize("forced", [0, 1])
def test_groups_along_their_own_text_are_right(forced, model, forced_model, sources):
    # Guards: other slots than decoding has: what K=4 wrote must be what K=4 proposes along it. A
    # forced first token is proposed by nobody.
    engine = EagerStepModel(forced_model if forced else model)
    written = decode_corpus(engine, sources, DecodeOptions(group_size=4, **LIMITS))
    judged = judge(engine, sources, all_tokens(written), "sat", 4, batch_size=7)
    assert judged.right[judged.there].all()
    by_sentence = [
        np.exp(judged.log_probabilities[judged.sentence == row]) for row in range(len(sources))
    ]
    for probabilities, hypothesis in zip(by_sentence, written, strict=True):
        found = [
            row[: len(group.tokens)]
            for row, group in zip(probabilities, hypothesis.groups[forced:], strict=True)
        ]
        assert np.concatenate(found) == pytest.approx(
            np.exp(hypothesis.log_probabilities[forced:]), abs=1e-4
        )


def test_places_are_judged_where_those_before_were_right(engine, sources, own):
    # Guards: shares that count tokens behind a wrong one, which adaptive mode never asks about.
    judged = judge(engine, sources, own, "sat", 3)
    for place, row in enumerate(fit(judged, "sat", 3)):
        before = judged.right[:, :place].all(axis=1) & (judged.sentence % 2 == 1)
        asked = before & judged.there[:, place]
        assert row.tokens == asked.sum()
        assert row.right == pytest.approx(judged.right[asked, place].mean() if asked.any() else 0)


def test_fewer_tokens_are_kept_at_a_higher_threshold(engine, sources, own):
    # Guards: thresholds in the wrong order, shares of all groups instead of those that came so far.
    judged = judge(engine, sources, own, "sat", 3)
    rows = list(kept_shares(judged, "sat", 3, [(1.0, 0.0)] * 3))
    lengths = [1 + float(np.cumprod(row.shares).sum()) for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    assert rows[0].shares == (1.0, 1.0)
    assert lengths[-1] < 1.5
