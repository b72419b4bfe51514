"""Reading and writing the vocabulary of a directory: one of ours, or of a converted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multistride.data.foreign import ROLES, TARGET_FILE, ForeignVocabulary, default_template
from multistride.data.vocab import (
    TOKENIZER_CONFIG_FILE,
    VOCABULARY_FILES,
    Reader,
    Vocabulary,
    read_tokenizer,
)
from multistride.errors import DataError
from multistride.files import replacing_file
from multistride.untrusted import read_object, read_text

CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""Where transformers writes the template of conversations; it counts before
tokenizer_config.json."""

ALL_FILES = (*VOCABULARY_FILES, TARGET_FILE, CHAT_TEMPLATE_FILE)
"""All that a vocabulary may consist of; the last two are not in every directory."""


def save_vocabulary(
    vocabulary: Vocabulary, directory: Path | str, reader: Reader | None = None
) -> None:
    """Write the files of a vocabulary, each atomically; `reader` as in `Vocabulary.contents`."""
    for name, text in vocabulary.contents(reader).items():
        with replacing_file(Path(directory) / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def load_vocabulary(directory: Path | str) -> Vocabulary:
    """Return the vocabulary in a directory: one of ours, or that of a converted model.

    A chat template may stand in a file of its own, as transformers writes it. Raises `DataError`
    when a file is missing or broken, or has other special tokens.
    """
    directory = Path(directory)
    settings = _settings(directory / TOKENIZER_CONFIG_FILE)
    if (directory / CHAT_TEMPLATE_FILE).is_file():
        settings["chat_template"] = read_text(directory / CHAT_TEMPLATE_FILE)
    if ROLES not in settings:
        return Vocabulary.load(directory, default_template(settings.get("chat_template")))
    target = read_tokenizer(directory, TARGET_FILE) if (directory / TARGET_FILE).is_file() else None
    return ForeignVocabulary(read_tokenizer(directory), settings, target)


def _settings(path: Path) -> dict[str, Any]:
    """Return what the file says; nothing if it is not there, since our own vocabularies do not need
    it.
    """
    try:
        return read_object(path)
    except DataError:
        return {}
