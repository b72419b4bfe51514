"""Shapes written in signatures are checked while the tests run, on one thread: the models are
tiny."""

from jaxtyping import install_import_hook

SHAPED = [
    "multistride.groups",
    "multistride.model",
    "multistride.decode",
    "multistride.train",
]
install_import_hook(SHAPED, "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
