"""The state a training resumes from, damaged."""

import pickle
import zipfile

import pytest
import torch

from multistride.errors import DataError
from multistride.files import RESUMED
from multistride.train.checkpoint import load_state


@pytest.mark.parametrize(
    "stream",
    [b"t.", b"(u.", b"\x80\x02}(u.", b"\x80\x02N0.", pickle.dumps([1, 2]), b""],
    ids=repr,
)
def test_a_damaged_state_is_refused_in_one_line(tmp_path, stream):
    # Guards: the errors of an unpickler at its end, IndexError among them.
    torch.save({"optimizer": 1}, tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / RESUMED, "w") as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, stream if name.endswith("data.pkl") else good.read(name))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(DataError, match="cannot be resumed from, it is damaged") as refused:
        load_state(tmp_path, optimizer)
    assert "\n" not in str(refused.value)
