"""Documents become windows; nothing is lost unseen."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistride.config import validate
from multistride.data.batch import PreparedData, collate
from multistride.data.prepare import prepare
from multistride.data.prepare_text import TextPrepareConfig, windows
from multistride.errors import DataError, UsageError


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 39))
def test_windows_predict_every_token_once(length, size, carry):
    # Guards: a token at a border that is predicted twice or never, and windows that grow past the
    # model.
    carry = min(carry, size - 1)
    text = list(range(length))
    found = list(windows(text, size, carry))
    assert [token for window, known in found for token in window[known:]] == text
    assert all(len(window) <= size and known < len(window) for window, known in found)
    assert [known for _, known in found] == [0, *([carry] * (len(found) - 1))][: len(found)]
    for (before, _), (after, known) in itertools.pairwise(found):
        assert before[len(before) - known :] == after[:known]


def prepared(tmp_path, **choices):
    text = tmp_path / "train.txt"
    text.write_text(
        "\n\n".join(f"Paragraph {n} says what {n % 3} said." for n in range(40))
        + "\n\nParagraph\n" * 2
    )
    tree = {
        "output": tmp_path / "data",
        "train": {"documents": [text]},
        "validation": {"documents": [text]},
    }
    shape = {"documents": "paragraph", "vocabulary_size": 300, "window": 16, "carry": 4}
    manifest = prepare(validate(TextPrepareConfig, {**tree, **shape, **choices}, "prepare"))
    return manifest, PreparedData.load(tmp_path / "data")


def test_prepared_text_comes_back(tmp_path):
    # Guards: windows that do not join to the text, EOS elsewhere than at its end, counts that do
    # not add up.
    manifest, data = prepared(tmp_path)
    assert data.causal
    facts = manifest["splits"]["train"]
    assert (facts["read"], facts["kept"], facts["dropped"]) == (42, 41, {"duplicate": 1})
    assert manifest["splits"]["validation"]["dropped"] == {}
    split = data.split("train")
    assert len(split) == facts["windows"]
    tokens = [
        token
        for row in range(len(split))
        for token in split.window(row)[split.known[row] :].tolist()
    ]
    assert len(tokens) == facts["predicted"]
    texts = "".join(
        "|" if token == data.vocabulary.eos else data.vocabulary.decode([token]) for token in tokens
    )
    assert texts.startswith("Paragraph 0 says what 0 said.|Paragraph 1 says")
    assert texts.count("|") == 41


def test_a_batch_of_windows_has_no_source(tmp_path):
    _, data = prepared(tmp_path)
    split = data.split("train")
    batch = collate(split, [0, 1], data.vocabulary).to("cpu")
    assert batch.source is None
    assert batch.source_lengths is None
    assert batch.known.tolist() == split.known[:2].tolist()
    assert batch.target_lengths.tolist() == [len(split.window(0)), len(split.window(1))]


def test_the_same_text_gives_the_same_data(tmp_path):
    first = prepared(tmp_path, window=8)[0]["data_hash"]
    assert prepared(tmp_path, window=8)[0]["data_hash"] == first
    assert prepared(tmp_path, window=8, carry=3)[0]["data_hash"] != first


def test_pairs_are_not_texts(tmp_path):
    _, data = prepared(tmp_path)
    with pytest.raises(DataError, match="holds texts without translations"):
        data.pairs("train")


def test_written_tokens_are_windows_whose_prompt_is_known(tmp_path):
    # Guards: prompts that are trained as if the model had written them; continuations that fit no
    # window.
    _, _data = prepared(tmp_path)
    records = [
        {"prompt": [5, 6], "written": [7, 8, 2]},
        {"prompt": [5] * 10, "written": [7] * 10},
        {"prompt": [5] * 16, "written": [7]},
        {"prompt": [5], "written": []},
        {"prompt": [5], "written": [9999]},
    ]
    path = tmp_path / "written.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    tree = {
        "train": {"written": [path]},
        "vocabulary_from": tmp_path / "data",
        "window": 16,
        "carry": 0,
    }
    config = validate(TextPrepareConfig, {"output": tmp_path / "own", **tree}, "prepare")
    facts = prepare(config)["splits"]["train"]
    assert facts["dropped"] == {"empty": 1, "token outside the vocabulary": 1, "too long": 1}
    assert (facts["kept"], facts["cut"]) == (2, 1)
    split = PreparedData.load(tmp_path / "own").split("train")
    assert split.window(0).tolist() == [5, 6, 7, 8, 2]
    assert split.known.tolist() == [2, 10]
    assert len(split.window(1)) == 16


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"carry": 16}, "carry is 16; it must be smaller than window"),
        ({"train": {}}, "give a text to train on"),
        ({"train": {"written": ["x.jsonl"]}}, "token files need the vocabulary"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, choices, message):
    with pytest.raises(UsageError) as caught:
        prepared(tmp_path, **choices)
    assert message in str(caught.value)
