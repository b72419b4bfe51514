"""The number of copied drafts follows what they bring and cost."""

import random

from multistride.decode.choosing.lengths import SLOT, DraftLengths

MOST = 7


def written(lengths, chance, slot, passes=400, single=10.0):
    """Decode with drafts that stand by a chance; return tokens for each pass's worth of time."""
    drawn, tokens, time = random.Random(0), 0, 0.0
    for _ in range(passes):
        count = lengths.count(3, MOST)
        stood = next((n for n in range(count) if drawn.random() >= chance), count)
        milliseconds = single * (1 + slot * count)
        lengths.seen(3, count, stood, milliseconds)
        tokens, time = tokens + 1 + stood, time + milliseconds
    return tokens * single / time


def test_many_drafts_where_they_stand_and_none_where_they_fall():
    # Guards: a number that ignores chances, or costs; a source that is never tried again.
    sure, poor = DraftLengths(), DraftLengths()
    assert written(sure, 0.95, 0.1) > 2.5
    assert sure.count(3, MOST) == MOST
    assert written(poor, 0.0, 0.3) > 0.93  # next to nothing is lost
    assert poor.count(3, MOST) <= 1
    assert written(poor, 0.95, 0.3, passes=1500) > 1.5
    assert sure.count(2, MOST) >= 1, "what one kind of source is worth says nothing of another"


def test_the_cost_of_a_slot_is_measured():
    # Guards: a share that a single pass beside other programs spoils.
    lengths = DraftLengths()
    assert lengths.slot == SLOT
    for turn in range(100):
        lengths.seen(3, 0, 0, 10.0 if turn % 10 else 80.0)
        lengths.seen(3, 4, 2, 14.0 if turn % 10 else 90.0)
    assert 0.03 < lengths.slot < 0.3


def test_chances_that_are_known_decide_as_far_as_they_are_right():
    # Guards: unlikely drafts that are checked, chances that are believed although nothing stands.
    lengths = DraftLengths()
    chances = [0.9, 0.6, 0.3, 0.21, 0.09, 0.08]
    assert lengths.worth(-1, chances) == 2  # a slot costs a fifth of a pass of 1.8 tokens
    for _ in range(60):
        lengths.seen(-1, 0, 0, 10.0)
        lengths.seen(-1, 6, 2, 10.6, chances)  # a slot costs a hundredth: about as expected
    assert lengths.worth(-1, chances) == 6
    for _ in range(60):
        lengths.seen(-1, 6, 0, 28.0, chances)  # a slot costs three tenths, and nothing stands
    assert lengths.worth(-1, [0.6, 0.2]) == 0
    for _ in range(300):
        lengths.worth(-1, [0.6, 0.2])
    assert lengths.worth(-1, [0.6, 0.2]) == 1, "what is not tried is forgotten, and tried again"
