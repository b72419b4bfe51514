"""The scripts of examples/answering on a few records of the same shape as the real ones."""

import json
import lzma
import sys
from pathlib import Path
from runpy import run_path

import pytest

SCRIPTS = Path(__file__).parents[3] / "examples" / "answering"
PASSAGE = (
    "The town of Berg was founded by Anna Holt in 1820. It had 300 houses then. Today "
    "9,000 people live there."
)


def compressed(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text.encode()))


def objects(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def script(monkeypatch):
    """Run a script with arguments, as `python SCRIPT ARGUMENTS` does."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(str(SCRIPTS))
        run_path(str(SCRIPTS / name), run_name="__main__")

    return run


@pytest.fixture
def data(tmp_path):
    """Twenty articles in the format of SQuAD, an address, and questions with choices."""
    articles = [
        {
            "title": f"Berg {number}",
            "paragraphs": [
                {
                    "context": PASSAGE.replace("Berg", f"Berg{number}"),
                    "qas": [
                        {
                            "id": f"q{number}",
                            "question": "Who founded the town?",
                            "answers": [
                                {
                                    "text": "Anna Holt",
                                    "answer_start": PASSAGE.index("Anna") + len(str(number)),
                                }
                            ],
                        }
                    ],
                }
            ],
        }
        for number in range(20)
    ]
    compressed(tmp_path / "xquad/xquad.en.json.xz", json.dumps({"data": articles}))
    sentence = (
        "We saw the Secretary of State Jane Miller pay 4,500 dollars to the people of "
        "Ohio, as promised. "
    )
    compressed(tmp_path / "sotu/sotu.jsonl.xz", json.dumps({"text": sentence * 4}) + "\n")
    trivia = [
        {"question": f"Which {n}?", "choices": ["a", "bb", "c", "d"], "answer": "bb"}
        for n in range(500)
    ]
    compressed(
        tmp_path / "opentriviaqa/trivia.jsonl.xz",
        "".join(json.dumps(each) + "\n" for each in trivia),
    )
    return tmp_path


def test_from_raw_data_to_pairs_and_baselines(script, data, tmp_path):
    # Guards: an article in two splits, an answer that its window lacks, a baseline over the wrong
    # file.
    text = tmp_path / "text"
    script("corpus.py", data, text)
    splits = {name: objects(text / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(records) for name, records in splits.items()} == {
        "train": 4,
        "validation": 4,
        "test": 12,
    }
    assert len({record["article"] for records in splits.values() for record in records}) == 20
    script("pairs.py", text / "train.jsonl", data, text / "pairs.jsonl", 7)
    pairs = objects(text / "pairs.jsonl")
    assert len(pairs) == 4 * 8 + 7
    for pair in pairs:
        question, passage = pair["source"].split(" passage: ")
        assert question.startswith("question: ")
        assert pair["target"].removeprefix(": ") in passage
    script(
        *("baselines.py", text / "test.jsonl", text / "choices.test.jsonl"),
        text / "choices.train.jsonl",
        text / "b",
    )
    result = json.loads((text / "b").read_text())
    assert (
        result["choices"]["longest choice"]
        == result["choices"]["most frequent answer"]
        == {"accuracy": 1.0}
    )
    assert result["choices"]["chance"] == {"accuracy": 0.25}
    assert 0 < result["passages"]["best sentence"]["f1"] < 1
    assert set(result["passages"]) == {"best sentence", "typed span", "most frequent span"}


def test_the_part_of_a_meeting_that_a_question_is_about(script, tmp_path):
    # Guards: places of windows counted in another text; a share above 1 where windows overlap.
    turns = [
        {"speaker": f"S{n % 3}", "content": f"We talk of nothing at all, point {n}, " * 6}
        for n in range(40)
    ]
    turns[25]["content"] = (
        "The remote control needs a rubber case, and the rubber case must be yellow. " * 4
    )
    asked = {
        "query": "What was said of the rubber case?",
        "answer": "",
        "relevant_text_span": [["25", "25"]],
    }
    compressed(
        tmp_path / "meetings.jsonl.xz",
        json.dumps({"meeting_transcripts": turns, "specific_query_list": [asked]}),
    )
    script("meetings.py", tmp_path / "meetings.jsonl.xz", tmp_path / "result.json", 60)
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    assert results["BM25, 1"]["hit"] == 1
    assert 0.3 < results["BM25, 1"]["covered"] < results["BM25, 5"]["covered"] <= 1
    assert results["first, 5"] == {"hit": 0.0, "covered": 0.0}
