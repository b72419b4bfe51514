"""Which rows are measured, and that no option is taken in silence."""

from itertools import product

import pytest

from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.evaluate.ways import settled


def listed(modes=("fast",), sizes=(1, 4), **rest):
    """Return what the command line makes of lists of modes and sizes."""
    return [
        DecodeOptions.made(mode=mode, group_size=size, **rest)
        for mode, size in product(modes, sizes)
    ]


def shown(ways):
    return [(way.mode, way.group_size) for way in ways]


def test_k1_is_measured_once_and_first():
    # Guards: K=1 measured again for every mode, where it writes the same.
    assert shown(settled(listed(("exact", "fast")))) == [("fast", 1), ("exact", 4), ("fast", 4)]
    assert shown(settled(listed(("fast", "exact")), every_mode=True)) == [
        ("fast", 1),
        ("fast", 4),
        ("exact", 1),
        ("exact", 4),
    ]


def test_the_order_of_one_mode_is_that_of_the_list():
    # Guards: rows of a file that a script reads in another order than it asked for.
    assert shown(settled(listed(sizes=(4, 1, 2)))) == [("fast", 4), ("fast", 1), ("fast", 2)]


def test_a_mode_is_not_dropped_where_only_k1_is_measured():
    # Guards: --mode exact taken in silence by a task that does not know it.
    assert shown(settled(listed(("exact",), (1,)))) == [("exact", 1)]


def test_an_option_goes_to_the_ways_that_have_a_use_for_it():
    # Guards: a threshold that makes fast rows an error, or drafts given to K=1.
    ways = settled(listed(("fast", "adaptive", "exact"), threshold=0.7, drafts="text"))
    found = {(way.mode, way.group_size): (way.threshold, way.drafts) for way in ways}
    assert found == {
        ("fast", 1): (None, None),
        ("fast", 4): (None, None),
        ("adaptive", 4): (0.7, None),
        ("exact", 4): (None, "text"),
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (listed(drafts="text"), "drafts text was given, which is for mode exact and K above 1"),
        (listed(("exact",), (1,), drafts="text"), "which is for mode exact and K above 1"),
        (listed(sizes=(4,), drafts="text"), "drafts text was given"),
        (listed(threshold=0.5), "threshold 0.5 was given, .* add mode adaptive"),
        (listed(sizes=(1,), policy="phase"), "policy phase was given"),
    ],
)
def test_an_option_that_no_way_has_a_use_for_is_refused(given, said):
    # Guards: an option taken in silence where no row follows it, at its default value too.
    with pytest.raises(UsageError, match=said):
        settled(given)
