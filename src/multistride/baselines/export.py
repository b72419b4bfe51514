"""`multistride export`: a model directory in the form of the int8 engine or of CTranslate2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from multistride.baselines.ctranslate2 import check_installed, save_ctranslate2
from multistride.baselines.expressible import check_expressible
from multistride.data.vocabulary_files import ALL_FILES
from multistride.decode.draft_head import DRAFT_HEAD
from multistride.decode.phrases import PHRASES
from multistride.engines.int8.engine import int8_graphs
from multistride.engines.int8.export import write_int8
from multistride.engines.int8.support import check_int8
from multistride.engines.open import open_export
from multistride.errors import DataError, UsageError
from multistride.files import refuse_foreign, refuse_inputs, replacing_directory, same_file
from multistride.model.directory import (
    CALIBRATION,
    CONFIG,
    PROVENANCE,
    is_export,
    load_config,
    refuse_models,
    weights_digest,
)
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model

GENERATION = "generation_config.json"


def export(directory: Path, kind: str, output: Path) -> None:
    """Write the model of `directory` as `kind` ("int8" or "ctranslate2") into `output`, atomically.

    Everything that can be refused is refused before anything is written, and an export that cannot
    be opened is never moved into place. Raises `UsageError` for an unknown kind, for the model
    directory itself as output and for a model that the form has no place for; `DataError` for a bad
    model directory; `MissingExtraError` without the library.
    """
    if kind not in _WRITERS:
        raise UsageError(
            f"--to {kind} was asked for; allowed are {' and '.join(_WRITERS)}: choose one of them "
            "(transformers reads a model directory as it is)"
        )
    if same_file(output, directory):
        raise UsageError(
            f"{output} is the model directory itself, which an export would replace: "
            "name another directory"
        )
    refuse_inputs(output, [directory])
    refuse_foreign(output, "model")
    refuse_models(output, None, "an export")
    if is_export(directory):
        raise DataError(
            f"{directory} is an int8 export already: give the model directory it was made from"
        )
    check_expressible(
        load_config(directory), f"an export --to {kind}", encoder=kind == "ctranslate2"
    )
    _CHECKS[kind]()
    model, _ = load_model(directory)
    with replacing_directory(output, [directory]) as place:
        for name in (*ALL_FILES, PROVENANCE):
            if (directory / name).is_file():
                shutil.copyfile(directory / name, place / name)
        _WRITERS[kind](directory, place, model)


def _int8(directory: Path, place: Path, model: Transformer) -> None:
    for name in (CONFIG, GENERATION, CALIBRATION, PHRASES, DRAFT_HEAD):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, place / name)
    write_int8(place, model, int8_graphs(model), weights_digest(directory))
    (place / "README.md").write_text(_INT8_NOTE, encoding="utf-8")
    open_export(place, "int8")  # an export that cannot be opened is none


def _ctranslate2(directory: Path, place: Path, model: Transformer) -> None:
    save_ctranslate2(model, place)
    (place / "README.md").write_text(
        _CTRANSLATE2_NOTE.format(end=model.config.end_token), encoding="utf-8"
    )


_CHECKS: dict[str, Callable[[], None]] = {"int8": check_int8, "ctranslate2": check_installed}
_WRITERS: dict[str, Callable[[Path, Path, Transformer], None]] = {
    "int8": _int8,
    "ctranslate2": _ctranslate2,
}


_INT8_NOTE = """\
# An int8 export of a multistride model

```sh
echo "Where is the station?" |
  multistride translate --model THIS_DIRECTORY --engine int8 --group-size 4
```

8-bit weights with a scale for each output, 8-bit activations with a scale for each place in the
model. The `.onnx` files run in ONNX Runtime (1.25 or later) without PyTorch: `encoder` makes keys
and values of a source, `decoder` one step's hidden states, `logits`, `greedy` and `chained` what
follows from them; their large weights lie in `weights.bin`. `native.bin`, if it is there, holds
the weights once more for the kernels of multistride itself. `int8.json` names the weights they
were made of and the hash of every file.
"""

_CTRANSLATE2_NOTE = """\
# A multistride model for CTranslate2

CTranslate2 writes one token a step (K=1). Its tokens are the ids of `tokenizer.json`, written as
strings, and every source ends in {end}:

```python
import ctranslate2
from tokenizers import Tokenizer

place = "THIS_DIRECTORY"
tokenizer = Tokenizer.from_file(place + "/tokenizer.json")
translator = ctranslate2.Translator(place, compute_type="int8", intra_threads=1)
encoded = tokenizer.encode("Where is the station?", add_special_tokens=False)
source = [str(token) for token in encoded.ids]
[result] = translator.translate_batch([[*source, "{end}"]], beam_size=1)
print(tokenizer.decode([int(token) for token in result.hypotheses[0]]))
```
"""
