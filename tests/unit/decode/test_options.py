"""Options have one name each; old names still work, and say so."""

import pytest

from multistride.decode.options import RENAMED, DecodeOptions
from multistride.errors import UsageError


@pytest.mark.parametrize(("old", "name"), RENAMED.items())
def test_old_names_are_taken_for_the_present_ones(old, name):
    """Scripts that were written for the old names."""
    with pytest.warns(DeprecationWarning, match=f"{old} is now {name}"):
        options = DecodeOptions.made(**{old: 3})
    assert getattr(options, name) == 3
    assert options.model_fields_set == {name}


@pytest.mark.parametrize(("old", "name"), RENAMED.items())
def test_both_names_at_once_are_refused(old, name):
    with pytest.raises(UsageError, match=f"{old} is an old name of {name}"):
        DecodeOptions.made(**{old: 3, name: 3})
