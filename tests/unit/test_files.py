"""Whole files or none, whatever goes wrong while they are written."""

import errno
import json
import os
import stat

import pytest

from multistride.errors import UserError
from multistride.files import journal, replacing_directory, replacing_file, sha256, write_json

ANY_FAILURE = [
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("no"),
    KeyboardInterrupt(),
]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts)


def write_and_fail(path, failure):
    path.write_text("half")
    raise failure


def failing(failure):
    """What a caller sees of a failure: everything but the file system's own errors as it was
    raised."""
    return UserError if isinstance(failure, OSError) else type(failure)


def test_file_is_written_with_its_parents(tmp_path):
    # Guards: a first output refused because its directory does not exist yet.
    with replacing_file(str(tmp_path / "a" / "b" / "out")) as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a" / "b" / "out").exists()
    assert (tmp_path / "a" / "b" / "out").read_text() == "new"
    assert names(tmp_path / "a" / "b") == ["out"]


def test_file_is_replaced(tmp_path):
    # Guards: old text left behind new text that is shorter.
    (tmp_path / "out").write_text("something long and old")
    with replacing_file(tmp_path / "out") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "out").read_text() == "something long and old"
    assert (tmp_path / "out").read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("failure", ANY_FAILURE, ids=repr)
@pytest.mark.parametrize("old", [None, "old"])
def test_failed_file_leaves_the_old_one_or_none(tmp_path, failure, old):
    # Guards: half a file, a lost file or a forgotten temporary one after a full disk, an error or
    # Ctrl-C.
    if old is not None:
        (tmp_path / "out").write_text(old)
    with pytest.raises(failing(failure)) as caught, replacing_file(tmp_path / "out") as temporary:
        write_and_fail(temporary, failure)
    if isinstance(failure, OSError):
        one_line(caught, str(tmp_path / "out"), "No space left on device", "nothing was changed")
    assert names(tmp_path) == ([] if old is None else ["out"])
    assert old is None or (tmp_path / "out").read_text() == old


@pytest.mark.parametrize("verb", ["fsync", "replace"])
@pytest.mark.parametrize("replacing", [replacing_file, replacing_directory])
def test_a_disk_that_fills_up_at_the_last_moment(tmp_path, monkeypatch, verb, replacing):
    # Guards: an old file given up before the new one is safe, as some file systems tell of a full
    # disk late.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    place = tmp_path / "out" / "old" if replacing is replacing_file else tmp_path / "out"

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(temporary):
        (temporary if temporary.is_file() else temporary / "old").write_text("new")
        monkeypatch.setattr(os, verb, fail)

    with pytest.raises(UserError) as caught, replacing(place) as temporary:
        write(temporary)
    monkeypatch.undo()
    one_line(caught, str(place), "No space left on device")
    assert [path for path in names(tmp_path) if ".old." not in path] == ["out"]
    assert names(tmp_path / "out") == ["old"]
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_places_that_cannot_be_written(tmp_path):
    # Guards: a traceback for a mistyped place.
    (tmp_path / "file").write_text("old")
    (tmp_path / "directory").mkdir()
    for place in (tmp_path / "file" / "out", tmp_path / "directory"):
        with pytest.raises(UserError) as caught, replacing_file(place) as temporary:
            temporary.write_text("new")
        one_line(caught, str(place))
    with pytest.raises(UserError) as caught, replacing_directory(tmp_path / "file" / "out"):
        pass
    one_line(caught, str(tmp_path / "file" / "out"))
    assert names(tmp_path) == ["directory", "file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("mask", "file", "directory"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_permissions_follow_the_umask(tmp_path, mask, file, directory):
    # Guards: outputs that only their author can read, as temporary files are made.
    before = os.umask(mask)
    try:
        write_json(tmp_path / "out", 1)
        with replacing_directory(tmp_path / "place") as temporary:
            write_json(temporary / "in", 1)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "place").stat().st_mode) == directory
    assert stat.S_IMODE((tmp_path / "place" / "in").stat().st_mode) == file


def test_directory_is_replaced_as_a_whole(tmp_path):
    # Guards: files of the old directory left among those of the new one.
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / "stale").write_text("old")
    with replacing_directory(tmp_path / "out") as temporary:
        (temporary / "fresh").write_text("new")
        assert names(tmp_path / "out") == ["deep"]
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["fresh"]


def test_directory_is_written_with_its_parents(tmp_path):
    # Guards: a first run refused because its directory does not exist yet.
    with replacing_directory(str(tmp_path / "a" / "out")) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "file").write_text("new")
    assert (tmp_path / "a" / "out" / "deep" / "file").read_text() == "new"
    assert names(tmp_path / "a") == ["out"]


@pytest.mark.parametrize("failure", ANY_FAILURE, ids=repr)
@pytest.mark.parametrize("old", [None, "old"])
def test_failed_directory_leaves_the_old_one_or_none(tmp_path, failure, old):
    # Guards: half a checkpoint, or a lost one, after a full disk, an error or Ctrl-C.
    if old is not None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text(old)
    with (
        pytest.raises(failing(failure)) as caught,
        replacing_directory(tmp_path / "out") as temporary,
    ):
        write_and_fail(temporary / "file", failure)
    if isinstance(failure, OSError):
        one_line(caught, str(tmp_path / "out"), "No space left on device", "nothing was changed")
    assert names(tmp_path) == ([] if old is None else ["out"])
    assert old is None or (tmp_path / "out" / "file").read_text() == old


def test_directory_whose_move_fails_is_put_back(tmp_path, monkeypatch):
    # Guards: no directory at all, neither old nor new, when only the second of two moves fails.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    move, calls = os.replace, []

    def second_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(*arguments)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(UserError), replacing_directory(tmp_path / "out") as temporary:
        (temporary / "file").write_text("new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_json_keeps_text_readable(tmp_path):
    # Guards: escaped letters, and a last line without its end.
    value = {"text": "草地 über", "list": [1, 2.5, None]}
    write_json(tmp_path / "out.json", value)
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "草地 über" in text
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    # Guards: results lost because a new value is not JSON.
    write_json(tmp_path / "out.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "out.json", {"a": {1, 2}})
    assert json.loads((tmp_path / "out.json").read_text()) == 1
    assert names(tmp_path) == ["out.json"]


def test_sha256_of_known_bytes(tmp_path):
    # Guards: a hash over text, which would depend on line ends. The values are those of FIPS 180-4.
    (tmp_path / "file").write_bytes(b"abc")
    assert (
        sha256(tmp_path / "file")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    (tmp_path / "file").write_bytes(b"")
    assert sha256(str(tmp_path / "file")).startswith("e3b0c44298fc1c149afbf4c8996fb924")


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_a_journal_keeps_whole_pieces(tmp_path, failure):
    # Guards: a log that is lost, or ends in half a line, when the work it tells of ends early.
    def work():
        with journal(tmp_path / "log") as log:
            log.write("one\n")
            assert (tmp_path / "log").read_text() == "one\n", "it is there at once"
            log.write("zwölf\n")
            raise failure

    with pytest.raises(type(failure)):
        work()
    assert (tmp_path / "log").read_text() == "one\nzwölf\n"


def test_a_journal_on_a_full_disk_ends_with_a_whole_piece(tmp_path):
    # Guards: half a piece left by a disk that fills up, or a traceback.
    with journal(tmp_path / "log") as log:
        log.write("one\n")
        real, parts = log._file, iter([2, OSError(errno.ENOSPC, "No space left on device")])

        class Full:
            def __getattr__(self, name):
                return getattr(real, name)

            def write(self, data):
                if isinstance(count := next(parts), OSError):
                    raise count
                return real.write(data[:count])

        log._file = Full()
        with pytest.raises(UserError) as caught:
            log.write("twelve\n")
        log._file = real
    one_line(
        caught, "could not write", "No space left on device", "what was written before is whole"
    )
    assert (tmp_path / "log").read_text() == "one\n"
