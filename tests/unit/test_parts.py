"""Parts: whole, checked against their source lines, or not there."""

import json

import pytest

from multistride.errors import DataError, UsageError
from multistride.parts import Chunk, PartsDirectory, chunks

LINES = [b"one", b"two", b"three", b"four", b"five"]
PLAN = {"multistride": "1", "beam": 4, "engine": "eager"}
CHUNK = Chunk(0, 1, [b"one", b"two"])


@pytest.fixture
def parts(tmp_path):
    directory = PartsDirectory(tmp_path / "out.de")
    with directory.opened(PLAN):
        yield directory


def write(parts, chunk=CHUNK, texts=("eins", "zwei")):
    parts.write(chunk, list(texts), {"blank source": 1}, 2, 0.5)
    return parts.path / f"{chunk.number:06}.part"


def test_chunks_cover_every_line_once():
    # Guards: a line lost or doubled at the border of two chunks, or a wrong number for the first
    # line of one.
    found = list(chunks(LINES, 2))
    assert [chunk.first for chunk in found] == [1, 3, 5]
    assert [line for chunk in found for line in chunk.lines] == LINES
    assert [len(chunk.lines) for chunk in chunks(LINES, 5)] == [5]


def test_what_is_written_is_read(parts):
    # Guards: a part that loses its text or its counts; characters that other readers take for line
    # ends.
    write(parts, texts=("ei\u2028ns", ""))
    part = parts.read(CHUNK)
    assert part.lines == ["ei\u2028ns".encode(), b""]
    assert (part.header.first, part.header.lines, part.header.unfinished) == (1, 2, 2)
    assert part.header.empty == {"blank source": 1}


@pytest.mark.parametrize("texts", [("eins",), ("eins", "zwei", "drei"), ("eins", "zw\nei")])
def test_a_part_with_other_lines_than_its_source_is_a_bug(parts, texts):
    # Guards: an engine that returns more or fewer sentences than it was given, or a line break
    # inside one.
    with pytest.raises(AssertionError):
        write(parts, texts=texts)
    assert not parts.has(CHUNK)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-3],
        lambda data: data + b"drei\n",
        lambda data: data + b"drei",
        lambda data: data.replace(b"eins", b"EINS"),
        lambda data: data.replace(b"eins\nzwei", b"zwei\neins"),
        lambda data: data.partition(b"\n")[2],
        lambda data: data.replace(b'"first":1', b'"first":3'),
        lambda data: b"\xff" * 20 + b"\n" + data,
    ],
)
def test_damage_is_seen(parts, damage):
    # Guards: a truncated, edited or reordered part joined into the output.
    place = write(parts)
    place.write_bytes(damage(place.read_bytes()))
    with pytest.raises(DataError, match="run the same command again") as caught:
        parts.read(CHUNK)
    assert "\n" not in str(caught.value)


def test_a_part_belongs_to_its_source_lines(parts):
    # Guards: translations beside other sentences after the source was edited or sorted.
    write(parts)
    with pytest.raises(DataError, match="other source lines"):
        parts.read(Chunk(0, 1, [b"two", b"one"]))


def test_another_plan_is_refused_by_name(tmp_path):
    # Guards: one output written partly under one setting and partly under another.
    directory = PartsDirectory(tmp_path / "out")
    with directory.opened({**PLAN, "beam": 9}):
        pass  # nothing was finished under this plan, so there is nothing to mix
    with directory.opened(PLAN):
        write(directory)
    with directory.opened(dict(PLAN)):
        pass
    with (
        pytest.raises(UsageError, match=r"beam was 4, is 2.*delete it") as caught,
        directory.opened({**PLAN, "beam": 2}),
    ):
        pass
    assert "engine" not in str(caught.value)
    with (
        pytest.raises(UsageError, match="new was not set, is 1"),
        directory.opened({**PLAN, "new": 1}),
    ):
        pass


def test_a_lost_or_damaged_plan(tmp_path):
    # Guards: parts of unknown settings taken over, or a traceback.
    directory = PartsDirectory(tmp_path / "out")
    with directory.opened(PLAN):
        write(directory)
    (directory.path / "plan.json").write_text("{")
    with pytest.raises(DataError, match="damaged"), directory.opened(PLAN):
        pass
    (directory.path / "plan.json").unlink()
    with pytest.raises(DataError, match=r"no plan\.json"), directory.opened(PLAN):
        pass
    (directory.path / "000000.part").unlink()
    with directory.opened(PLAN):
        assert json.loads((directory.path / "plan.json").read_text()) == PLAN


def test_two_at_once_are_refused(parts):
    # Guards: two processes that remove each other's work.
    with (
        pytest.raises(UsageError, match="another process"),
        PartsDirectory(parts.output).opened(PLAN),
    ):
        pass


def test_discard_leaves_nothing(tmp_path):
    # Guards: parts left beside a finished output, which would be taken for work to go on with.
    directory = PartsDirectory(tmp_path / "out")
    with directory.opened(PLAN):
        write(directory)
        directory.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text"), [("notes.txt", "precious"), ("plan.json", '{"my": "plan"}')]
)
def test_a_directory_of_somebody_else_stays_as_it_is(tmp_path, name, text):
    # Guards: files of a user deleted with the parts because of the name of their directory.
    directory = PartsDirectory(tmp_path / "out")
    directory.path.mkdir()
    (directory.path / name).write_text(text)
    with (
        pytest.raises(UsageError, match=f"holds {name}, which was not written here"),
        directory.opened(PLAN),
    ):
        pass
    assert (directory.path / name).read_text() == text


def test_what_comes_into_the_directory_meanwhile_stays(tmp_path):
    # Guards: a file deleted that was put beside the parts while they were written.
    directory = PartsDirectory(tmp_path / "out")
    with directory.opened(PLAN):
        write(directory)
        (directory.path / "notes.txt").write_text("precious")
        directory.discard()
    assert [path.name for path in directory.path.iterdir()] == ["notes.txt"]
