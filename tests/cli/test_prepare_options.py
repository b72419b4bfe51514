"""Options of `prepare` that would decide nothing."""

import pytest

from multistride.cli.console import two
from multistride.cli.data import PrepareOptions, _prepare_texts
from multistride.errors import UsageError


def test_documents_of_plain_text_where_none_is_read():
    # Guards: an option that is ignored: a .jsonl has one document a line, whatever it says.
    with pytest.raises(UsageError, match="--documents was given, which is for plain text"):
        PrepareOptions(train_text=("a.jsonl.gz",), documents="line").refuse_idle()
    PrepareOptions(train_text=("a.jsonl", "b.txt"), documents="line").refuse_idle()


def test_texts_have_no_vocabulary_of_words(tmp_path):
    # Guards: --vocabulary-kind words that is ignored for --train-text.
    options = PrepareOptions(train_text=(tmp_path / "a",), vocabulary_kind="words")
    with pytest.raises(UsageError, match="vocabulary_kind: Input should be 'bpe'"):
        _prepare_texts(options, tmp_path / "data")


def test_two_values_may_have_a_blank_between_them():
    # Guards: a field called " label", of which all records are lost.
    assert two("text, label", "--fields") == ["text", "label"]
