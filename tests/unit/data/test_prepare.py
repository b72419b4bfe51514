import json
import logging

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from multistride.cli import app
from multistride.data.batch import PreparedData
from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import CleaningConfig, CorpusFiles, PrepareConfig
from multistride.data.vocab import train_vocabulary
from multistride.data.vocabulary_files import load_vocabulary, save_vocabulary
from multistride.errors import DataError, UsageError
from multistride.files import sha256
from multistride.shipped import DEFAULT


def corpus(directory, name, pairs):
    path = directory / f"{name}.tsv"
    lines = [pair if isinstance(pair, bytes) else "\t".join(pair).encode() for pair in pairs]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return CorpusFiles(pairs=path)


PAIRS = [(f"word{number} here", f"Wort{number} hier  und") for number in range(20)]


def config(tmp_path, train=PAIRS, validation=PAIRS[:3], **options):
    return PrepareConfig(
        output=tmp_path / "out",
        train=(corpus(tmp_path, "train", train),),
        validation=(corpus(tmp_path, "validation", validation),) if validation else (),
        **{"vocabulary_size": 300, **options},
    )


# Guards: tokens cut at the wrong place, texts of another row, or an end of sentence in the arrays.
def test_prepared_texts_come_back(tmp_path):
    manifest = prepare(config(tmp_path))
    data = PreparedData.load(tmp_path / "out")
    split = data.split("train")
    texts = [
        (data.vocabulary.decode(split.source(row)), data.vocabulary.decode(split.target(row)))
        for row in range(len(split))
    ]
    assert texts == PAIRS
    assert split.source(0).dtype == np.uint16
    assert len(data.split("validation")) == 3
    assert manifest["splits"]["train"]["source_tokens"] == len(split.source_tokens)
    assert manifest["splits"]["train"]["target_tokens"] == len(split.target_tokens)
    assert not {data.vocabulary.bos, data.vocabulary.eos} & set(split.source_tokens.tolist())


# Guards: a reason that is not counted, or counted for the wrong pair, so that losses stay unseen.
def test_losses_are_counted_by_reason(tmp_path):
    pairs = [
        *PAIRS,
        b"\xff\tx",
        b"only one column",
        ("", "x"),
        ("x", " \u3000 "),
        PAIRS[0],
        (f" {PAIRS[1][0]} ", PAIRS[1][1]),
        ("q" * 101, "x"),
        ("1 " * 23, "2 " * 23),
        ("3 " * 22, "4 " * 22),
        ("z", "1 " * 14),
        ("z", "1 " * 15),
        ("same", "same"),
    ]
    cleaning = CleaningConfig(
        max_tokens=22,
        max_characters=100,
        max_length_ratio=4,
        length_ratio_grace=10,
        drop_copies=True,
    )
    manifest = prepare(config(tmp_path, train=pairs, cleaning=cleaning, vocabulary_kind="words"))
    train = manifest["splits"]["train"]
    assert train["dropped"] == {
        "invalid utf-8": 1,
        "missing column": 1,
        "empty side": 2,
        "duplicate": 2,
        "too long": 2,
        "length ratio": 1,
        "copy": 1,
    }
    assert train["read"] == len(pairs) == train["kept"] + sum(train["dropped"].values())


# Guards: validation that is made easier by cleaning, so that its scores are not comparable.
def test_validation_keeps_duplicates_copies_and_odd_lengths(tmp_path):
    odd = [("a", "a"), ("a", "a"), ("b", "1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9")]
    validation = [*odd, ("", "x"), b"\xff\tx", ("q " * 200, "x")]
    manifest = prepare(
        config(tmp_path, validation=validation, cleaning=CleaningConfig(drop_copies=True))
    )
    assert manifest["splits"]["validation"]["kept"] == 3
    dropped = {"empty side": 1, "invalid utf-8": 1, "too long": 1}
    assert manifest["splits"]["validation"]["dropped"] == dropped


# Guards: a length ratio that judges short pairs, and one that cannot be switched off.
@pytest.mark.parametrize(("ratio", "grace", "kept"), [(2.0, 0, 0), (2.0, 5, 1), (None, 0, 1)])
def test_length_ratio_has_a_grace(tmp_path, ratio, grace, kept):
    cleaning = CleaningConfig(max_length_ratio=ratio, length_ratio_grace=grace)
    pairs = [*PAIRS, ("a", "1 2 3")]
    manifest = prepare(config(tmp_path, train=pairs, cleaning=cleaning, vocabulary_kind="words"))
    assert manifest["splits"]["train"]["kept"] == len(PAIRS) + kept


# Guards: duplicates found by joining the sides without a border.
def test_duplicates_are_kept_where_they_are_to_weigh_more(tmp_path):
    # Guards: an option that the command line shows and the preparation does not see.
    for side in ("en", "de"):
        (tmp_path / side).write_text("one two\none two\nthree\n")
    given = ["--train-source", tmp_path / "en", "--train-target", tmp_path / "de"]
    kept = {}
    for option in ([], ["--keep-duplicates"]):
        output = tmp_path / f"data{len(option)}"
        words = ["--vocabulary-kind", "words", "--vocabulary-size", "20"]
        command = ["prepare", *given, *words, *option, "--output", output]
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 0, result.output
        manifest = json.loads((output / "prepare.json").read_text())
        kept[bool(option)] = manifest["splits"]["train"]["kept"]
    assert kept == {False: 2, True: 3}


def test_duplicates_compare_both_sides(tmp_path):
    manifest = prepare(config(tmp_path, train=[("ab", "c"), ("a", "bc"), ("ab", "c")]))
    assert manifest["splits"]["train"]["kept"] == 2
    keep_all = CleaningConfig(drop_duplicates=False)
    manifest = prepare(config(tmp_path, train=[("ab", "c")] * 3, cleaning=keep_all))
    assert manifest["splits"]["train"]["kept"] == 3


# Guards: two runs over the same files with different bytes, and a hash that does not see the data.
def test_prepare_is_deterministic(tmp_path):
    first = prepare(config(tmp_path))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    second = prepare(config(tmp_path))
    assert first == second
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    other = prepare(config(tmp_path, train=[*PAIRS[1:], PAIRS[0]]))
    assert other["data_hash"] != first["data_hash"]


# Guards: a manifest that says something else than what was read and written.
def test_manifest(tmp_path):
    settings = config(tmp_path)
    manifest = prepare(settings)
    assert manifest == json.loads((tmp_path / "out" / "prepare.json").read_text())
    expected = {"path": str(tmp_path / "train.tsv"), "sha256": sha256(tmp_path / "train.tsv")}
    assert manifest["splits"]["train"]["files"] == [expected]
    assert PrepareConfig.model_validate(manifest["settings"]) == settings
    assert manifest["vocabulary"]["size"] == len(PreparedData.load(tmp_path / "out").vocabulary)
    assert manifest["vocabulary"]["sha256"] == sha256(tmp_path / "out" / "tokenizer.json")


# Guards: a reused vocabulary that is learned anew, and tokens cut to 16 bits.
def test_vocabulary_is_reused(tmp_path):
    words = train_vocabulary((f"w{number}" for number in range(70_000)), 80_000, "words")
    save_vocabulary(words, tmp_path / "vocabulary")
    pairs = [(f"w{number} w{number + 1}", f"w{number}") for number in range(0, 69_000, 1000)]
    manifest = prepare(config(tmp_path, train=pairs, vocabulary_from=tmp_path / "vocabulary"))
    assert manifest["vocabulary"]["sha256"] == sha256(tmp_path / "vocabulary" / "tokenizer.json")
    data = PreparedData.load(tmp_path / "out")
    split = data.split("train")
    assert split.source(0).dtype == np.int32
    assert split.source_tokens.max() > 65_535
    assert [data.vocabulary.decode(split.target(row)) for row in range(len(split))] == [
        target for _, target in pairs
    ]


def test_the_vocabulary_of_a_model_that_ships_is_named(tmp_path):
    # Guards: data for a model of the package that can only be prepared by knowing where it lies.
    prepare(config(tmp_path, vocabulary_from="english-german"))
    prepared = PreparedData.load(tmp_path / "out").vocabulary
    assert prepared.digest() == load_vocabulary(DEFAULT).digest()


# Guards: an empty data directory, or an error that does not say where the pairs went.
@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_nothing_left_is_refused(tmp_path, kind):
    with pytest.raises(
        DataError, match=r"nothing is left of the train data \(.*train\.tsv\): 3 pairs read, 0 kept"
    ):
        prepare(config(tmp_path, train=[("", "")] * 3, vocabulary_kind=kind))
    with pytest.raises(DataError, match=r"nothing is left of the validation data .* 1 empty side"):
        prepare(config(tmp_path, validation=[("", "x")], vocabulary_kind=kind))
    assert not (tmp_path / "out").exists()


# Guards: files of blank lines taken for a corpus.
def test_blank_files_are_refused(tmp_path):
    for side in ("source", "target"):
        (tmp_path / side).write_bytes(b"\n \n\n")
    files = CorpusFiles(source=tmp_path / "source", target=tmp_path / "target")
    with pytest.raises(DataError, match="3 pairs read, 0 kept; dropped: 3 empty side"):
        prepare(PrepareConfig(output=tmp_path / "out", train=(files,)))


# Guards: an error of the files that is lost, or changed, on its way through the tokenizer's
# trainer.
def test_misaligned_files_are_refused_while_the_vocabulary_is_learned(tmp_path):
    (tmp_path / "source").write_bytes(b"a\nb\n")
    (tmp_path / "target").write_bytes(b"a\n")
    files = CorpusFiles(source=tmp_path / "source", target=tmp_path / "target")
    with pytest.raises(DataError, match=r"source has 2 lines and .*target has 1"):
        prepare(PrepareConfig(output=tmp_path / "out", train=(files,)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


# Guards: validation files that are missed only after the vocabulary is learned and the training
# data encoded, which can take hours.
@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"", "is empty"), (b"PK\x03\x04", "a zip")]
)
def test_what_cannot_be_read_is_said_first(tmp_path, monkeypatch, content, message):
    settings = config(tmp_path, validation=[("a", "b")])
    place = settings.validation[0].pairs
    place.unlink()
    if content is not None:
        place.write_bytes(content)
    monkeypatch.setattr("multistride.data.prepare.train_vocabulary", None)
    with pytest.raises(DataError, match=message):
        prepare(settings)


# Guards: a corpus beside the output, or a home directory, deleted by the replacement.
def test_foreign_files_are_not_deleted(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds thesis\.tex, which `prepare` did not write"):
        prepare(config(tmp_path))
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        prepare(config(tmp_path).model_copy(update={"output": tmp_path / "file"}))


# Guards: a failed run that damages the data prepared before.
def test_failure_keeps_the_old_directory(tmp_path):
    before = prepare(config(tmp_path))
    with pytest.raises(DataError):
        prepare(config(tmp_path, train=[("", "")]))
    assert PreparedData.load(tmp_path / "out").data_hash == before["data_hash"]


# Guards: contradictory or misspelled settings that are dropped silently.
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source": "a"},
        {"source": "a", "target": "b", "pairs": "c.tsv"},
        {"source": "a", "pairs": "c.tsv"},
        {"pairs": "c.csv"},
        {"pairs": "c.gz"},
        {"pairs": "c.tsv", "source_colum": 1},
        {"pairs": "c.tsv", "source_column": -1},
    ],
)
def test_corpus_files_are_checked(options):
    with pytest.raises(ValidationError):
        CorpusFiles.model_validate(options)


# Guards: a compressed table or JSON file that is read in the other layout.
def test_pairs_layouts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"en": "a", "de": "b"}\n')
    files = CorpusFiles(pairs=tmp_path / "a.jsonl", source_field="en", target_field="de")
    assert list(files.records()) == [("a", "b")]
    (tmp_path / "a.tsv").write_text("id\ta\tb\n")
    files = CorpusFiles(pairs=tmp_path / "a.tsv", source_column=2, target_column=1)
    assert list(files.records()) == [("b", "a")]


# Guards: work done without telling what was lost.
def test_the_log_names_counts(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        prepare(config(tmp_path, train=[*PAIRS, PAIRS[0]]))
    assert "train: 21 pairs read, 20 kept; dropped: 1 duplicate" in caplog.messages


def test_one_column_is_no_pair(tmp_path):
    # Guards: a text prepared as its own translation.
    with pytest.raises(ValueError, match="both column 1: give two columns"):
        CorpusFiles(pairs=tmp_path / "pairs.tsv", source_column=1, target_column=1)
