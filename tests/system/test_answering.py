"""Questions as their user has them: from pairs to answers, whatever is among them."""

import json

import pytest

pytestmark = pytest.mark.system

PEOPLE, PLACES = ("Ada", "Ben", "Cem", "Dora", "Egon"), ("Bonn", "Oslo", "Rome", "Kyiv", "Lima")
RECORD = {"question": "Where is Ada?", "passage": "Ada is in Rome. Ben is in Oslo."}


def records():
    for number, person in enumerate(PEOPLE * 5):
        place, other = PLACES[number % 5], PLACES[(number + 1 + number // 5) % 5]
        passage = f"{person} is in {place}. Nobody is in {other}."
        yield {"question": f"Where is {person}?", "passage": passage, "answers": [place]}


@pytest.fixture(scope="module")
def work(tmp_path_factory, multistride):
    """A tiny model for K = 1 and 2, trained for a moment on what an encoder reads of records."""
    place = tmp_path_factory.mktemp("questions")
    lines = [json.dumps(record) + "\n" for record in records()]
    (place / "test.jsonl").write_text("".join(lines))
    pairs = [
        {
            "source": f"question: {each['question']} passage: {each['passage']}",
            "target": f": {each['answers'][0]}",
        }
        for each in records()
    ]
    (place / "train.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    multistride(
        *(
            "prepare",
            "--output",
            place / "data",
            "--vocabulary-size",
            320,
            "--max-length-ratio",
            1000,
        ),
        *("--train-pairs", place / "train.jsonl", "--validation-pairs", place / "train.jsonl"),
        check=0,
    )
    (place / "run.yaml").write_text(
        f"data: {place / 'data'}\nrun: {place / 'run'}\ngroups: {{sizes: {{1: 0.5, 2: 0.5}}}}\n"
        "model: "
        "{hidden_size: 32, feedforward_size: 64, heads: 2, encoder_layers: 1, decoder_layers: 1}\n"
        "training: {updates: 60, tokens_per_batch: 512, learning_rate: 0.01, warmup_updates: 5, "
        "schedule: constant,"
        " validate_every: 30, validate_sentences: 0, precision: float32, device: cpu}\n"
    )
    multistride("train", place / "run.yaml", check=0)
    return place


def asked(multistride, work, lines, *options, check=0):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return multistride("answer", "--model", work / "run" / "best", *options, text=text, check=check)


def test_bad_records_are_named_and_stop_no_other(multistride, work):
    """A batch lost to one line; an answer on the wrong line; a bad record that the exit code
    hides."""
    lines = [RECORD, {"question": "Where is Ada?"}, "\0\1 no object", {"passage": "Ada."}]
    done = asked(multistride, work, [*lines, "", RECORD], "--group-size", 2, check=4)
    answers, told = done.stdout.decode().splitlines(), done.stderr.decode()
    assert [bool(answer) for answer in answers] == [True, False, False, False, False, True]
    assert answers[0] == answers[5]
    assert answers[0] in RECORD["passage"]
    assert (
        "line 2: the question has neither a 'passage' to answer from nor 'choices': add one of them"
        in told
    )
    assert "line 3: it is not JSON" in told
    assert "line 4: the field 'question' is missing" in told
    assert "line 5: it is blank: write one JSON object in every line" in told
    assert "4 of the questions have no answer (named above)" in told


def test_objects_say_what_is_known(multistride, work):
    """Facts that are not those of the answer, such as a place counted in another text."""
    choice = {"question": "Where is Ada?", "choices": ["Rome", "Oslo"]}
    done = asked(multistride, work, [RECORD, choice, {"question": "?"}], "--json", check=4)
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert RECORD["passage"][first["start"] :].startswith(first["answer"])
    assert first["steps"] == first["tokens"] > 1
    assert second["answer"] == choice["choices"][second["choice"]]
    assert 0.5 <= second["probability"] <= 1
    assert (third["line"], third["answer"]) == (3, None)


def test_a_passage_of_any_length(multistride, work):
    """A long passage refused, or read only at its beginning."""
    long = {**RECORD, "passage": "It rains in Lima. " * 2000 + RECORD["passage"]}
    [answer] = asked(multistride, work, [long], "--json").stdout.splitlines()
    assert (
        "Ada is in Rome." in json.loads(answer)["window"]
        or json.loads(answer)["answer"] in long["passage"]
    )


def test_what_cannot_be_done_is_refused(multistride, work):
    """An option that is silently ignored."""
    for options, message in (
        (["--group-size", 9], "choose one from 1 to 2"),
        (["--choose", "best"], "--choose: Input should be 'average' or 'total'"),
        (["--window", 3], "--window: Input should be greater than or equal to 8"),
    ):
        assert message in asked(multistride, work, [RECORD], *options, check=2).stderr.decode()


def test_evaluate_measures_answers_by_group_size(multistride, work):
    """A figure of another K, or answers of a model without the rule that is named."""
    for task in ("answering", "answering-free"):
        done = multistride(
            *(
                "evaluate",
                "--task",
                task,
                "--model",
                work / "run" / "best",
                "--source",
                work / "test.jsonl",
            ),
            *("--group-size", "1,2", "--beam", 2, "--json"),
            check=0,
        )
        result = json.loads(done.stdout)
        one, two = (row["metrics"] for row in result["results"])
        assert result["task"] == task
        assert one["tokens_per_step"] == 1 < two["tokens_per_step"]
        assert one["f1"] >= one["exact_match"] > 0.2
        if task == "answering":
            assert one["in_passage"] == two["in_passage"] == 1
