"""Whole files or none, whatever goes wrong while they are written."""

import errno
import gzip
import json
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from multistride.errors import UsageError, UserError
from multistride.files import (
    is_stream,
    journal,
    refuse_foreign,
    refuse_streams,
    replacing_directory,
    replacing_file,
    same_file,
    sha256,
    sweep,
    write_json,
)

ANY_FAILURE = [
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("no"),
    KeyboardInterrupt(),
]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def ours(directory, text="old"):
    """A directory as this package writes them, with something in it to lose."""
    directory.mkdir()
    (directory / "provenance.json").write_text('{"multistride": "0.1"}')
    (directory / "config.json").write_text(text)
    return directory


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
    ours(tmp_path / "out")
    place = tmp_path / "out" / "config.json" if replacing is replacing_file else tmp_path / "out"

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(temporary):
        (temporary if temporary.is_file() else temporary / "config.json").write_text("new")
        monkeypatch.setattr(os, verb, fail)

    with pytest.raises(UserError) as caught, replacing(place) as temporary:
        write(temporary)
    monkeypatch.undo()
    one_line(caught, str(place), "No space left on device")
    assert [path for path in names(tmp_path) if ".old." not in path] == ["out"]
    assert names(tmp_path / "out") == ["config.json", "provenance.json"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"


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
    ours(tmp_path / "out")
    with replacing_directory(tmp_path / "out") as temporary:
        (temporary / "fresh").write_text("new")
        assert names(tmp_path / "out") == ["config.json", "provenance.json"]
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
        ours(tmp_path / "out", old)
    with (
        pytest.raises(failing(failure)) as caught,
        replacing_directory(tmp_path / "out") as temporary,
    ):
        write_and_fail(temporary / "file", failure)
    if isinstance(failure, OSError):
        one_line(caught, str(tmp_path / "out"), "No space left on device", "nothing was changed")
    assert names(tmp_path) == ([] if old is None else ["out"])
    assert old is None or (tmp_path / "out" / "config.json").read_text() == old


def test_directory_whose_move_fails_is_put_back(tmp_path, monkeypatch):
    # Guards: no directory at all, neither old nor new, when only the second of two moves fails.
    ours(tmp_path / "out")
    move, calls = os.replace, []

    def second_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(*arguments)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(UserError), replacing_directory(tmp_path / "out") as temporary:
        (temporary / "file").write_text("new")
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_json_keeps_text_readable(tmp_path):
    # Guards: escaped letters, and a last line without its end.
    value = {"text": "草地 über", "list": [1, 2.5, None]}
    write_json(tmp_path / "out.json", value)
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "草地 über" in text
    assert text.endswith("}\n")


def test_json_holds_names_of_files_that_are_no_utf8(tmp_path):
    # Guards: a traceback at the end of `evaluate --output` and `distill`, and the result lost.
    write_json(tmp_path / "out.json", {"source": "v\udcff.txt"})
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"source": "v\ufffd.txt"}


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


@pytest.mark.parametrize(
    "thesis",
    [
        lambda place: (place / "thesis.txt").write_text("x"),
        lambda place: (place / "mean").mkdir(),
        lambda place: (place / ".hidden").write_text("x"),
        lambda place: (place / "provenance.json").unlink(),  # like somebody else's checkpoint
        lambda place: (place / "provenance.json").write_text("{}"),
        lambda place: (place / "provenance.json").write_text("["),
    ],
)
def test_a_directory_with_somebody_elses_files_is_refused(tmp_path, thesis):
    # Guards: `export MODEL d` deleting d/thesis.txt, or a checkpoint that was downloaded there.
    place = ours(tmp_path / "out")
    thesis(place)
    before = names(place)
    with pytest.raises(UsageError) as caught, replacing_directory(place) as temporary:
        (temporary / "new").write_text("new")
    one_line(caught, str(place), "name another directory")
    assert names(place) == before
    assert names(tmp_path) == ["out"]


def test_a_directory_that_becomes_somebody_elses_meanwhile(tmp_path):
    # Guards: a file saved into the output directory during an hour of work.
    place = ours(tmp_path / "out")
    with pytest.raises(UsageError), replacing_directory(place):
        (place / "thesis.txt").write_text("x")
    assert "thesis.txt" in names(place)


def test_a_directory_that_holds_an_input_is_refused(tmp_path):
    # Guards: `average RUN --last 2 --output RUN` deleting the run, also through a link.
    (tmp_path / "run" / "checkpoints" / "step_1").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    inputs = [tmp_path / "run" / "checkpoints" / "step_1"]
    for place in (tmp_path / "run", tmp_path / "link", tmp_path, *inputs):
        with pytest.raises(UsageError) as caught, replacing_directory(place, inputs):
            pass
        one_line(caught, "name another output")
    with replacing_directory(tmp_path / "run" / "mean", inputs):
        pass


def test_an_empty_directory_and_a_link_are_written_to(tmp_path):
    # Guards: `mkdir out` beforehand refused; a link to another disk replaced by a directory here.
    (tmp_path / "far").mkdir()
    (tmp_path / "out").symlink_to("far")
    with replacing_directory(tmp_path / "out") as temporary:
        (temporary / "new").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "far") == ["new"]


def test_a_symbolic_link_is_followed(tmp_path):
    # Guards: a link turned into a file, and what it named left as it was.
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to("real/file")
    (tmp_path / "dangling").symlink_to("real/other")
    for name in ("link", "dangling"):
        with replacing_file(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"
    assert (tmp_path / "real" / "other").read_text() == "new"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(UserError) as caught, replacing_file(tmp_path / "round"):
        pass
    one_line(caught, "round")


def test_permissions_of_a_replaced_file_stay(tmp_path):
    # Guards: a private file that others can read after it was written again.
    (tmp_path / "out").write_text("old")
    (tmp_path / "out").chmod(0o600)
    write_json(tmp_path / "out", 1)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in directories")
def test_a_pipe_is_written_through(tmp_path):
    # Guards: a pipe or /dev/null replaced by a plain file.
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with replacing_file(tmp_path / "pipe") as temporary:
        temporary.write_bytes(b"text" * 100_000)
    reader.join(10)
    assert read == [b"text" * 100_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    before = os.stat("/dev/null")
    with replacing_file("/dev/null") as temporary:
        temporary.write_text("x")
    assert os.stat("/dev/null").st_ino == before.st_ino


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/stdout")
def test_dev_stdout_is_appended_to(tmp_path):
    # Guards: `--output /dev/stdout >> log` emptying the log.
    code = "from multistride.files import replacing_file\n"
    code += "with replacing_file('/dev/stdout') as t: t.write_text('new\\n')"
    (tmp_path / "log").write_text("old\n")
    with open(tmp_path / "log", "ab") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "old\nnew\n"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout == b"new\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/stdout")
@pytest.mark.parametrize("redirection", [">", ">>"])
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_what_follows_dev_stdout_stands_behind_it(tmp_path, redirection, name):
    # Guards: results that the next line of a script, or one of stderr, is written over.
    if name.startswith("/proc") and not Path("/proc/self/fd").exists():
        pytest.skip("this system has no /proc")
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = "from multistride.files import journal, replacing_file\n"
    code += f"with replacing_file({name!r}) as t: t.write_text('some results\\n')\n"
    code += f"with journal(__import__('pathlib').Path({name!r})) as j: j.write('a trace\\n')"
    (tmp_path / "code.py").write_text(code)
    script = f"(echo first; $PYTHON code.py; echo last; echo error >&2) {redirection} log 2>&1"
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(script, shell=True, cwd=tmp_path, env=environment, check=True)
    lines = ["first", "some results", "a trace", "last", "error"]
    assert (tmp_path / "log").read_text().splitlines() == lines


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/fd")
def test_a_descriptor_that_is_not_open_is_named():
    # Guards: "standard output is closed" for another one.
    said = "/dev/fd/987 is not open for writing"
    with pytest.raises(UserError, match=said), replacing_file("/dev/fd/987") as temporary:
        temporary.write_text("x")
    with pytest.raises(UserError, match=said), journal(Path("/dev/fd/987")):
        pass


@pytest.mark.parametrize(("suffix", "library"), [("gz", gzip), ("xz", lzma)])
def test_names_say_what_is_compressed(tmp_path, suffix, library):
    # Guards: a plain file called x.gz, which readers call corrupt; one that is compressed twice.
    place = tmp_path / f"out.json.{suffix}"
    write_json(place, {"a": 1})
    with library.open(place, "rt") as file:
        assert json.load(file) == {"a": 1}
    with replacing_file(place) as temporary:
        temporary.write_bytes(library.compress(b"packed"))
    with library.open(place) as file:
        assert file.read() == b"packed"
    assert names(tmp_path) == [place.name]
    with pytest.raises(UsageError, match="is not compressed"), journal(place):
        pass
    with library.open(place) as file:
        assert file.read() == b"packed"


def test_a_long_name(tmp_path):
    # Guards: a temporary name that is longer than a name may be, where the name itself fits.
    write_json(tmp_path / ("x" * 250), 1)
    assert names(tmp_path) == ["x" * 250]


KILLED = """
import os, signal, sys
from multistride.files import replacing_file, replacing_directory
place = sys.argv[2]
if sys.argv[1] == "exchange":
    real = os.replace
    def replace(source, target):
        if os.path.basename(str(source)).startswith(".out.new."):
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
    os.replace = replace
with (replacing_file if sys.argv[1] == "file" else replacing_directory)(place) as temporary:
    if sys.argv[1] != "exchange":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kills of this kind")
@pytest.mark.parametrize("where", ["file", "directory", "exchange"])
def test_what_a_killed_process_left_is_swept(tmp_path, where):
    # Guards: hidden files that kills leave for ever, and an old directory lost in the moment when
    # it had been moved away and the new one was not yet there.
    if where == "exchange":
        ours(tmp_path / "out")
    subprocess.run([sys.executable, "-c", KILLED, where, str(tmp_path / "out")], check=False)
    assert any(name.startswith(".out.") for name in names(tmp_path))
    (tmp_path / ".out.secret12").write_text("a person's")
    if where == "exchange":
        assert "out" not in names(tmp_path)
        sweep(tmp_path, "out")
        assert (tmp_path / "out" / "config.json").read_text() == "old"
    else:
        with (replacing_file if where == "file" else replacing_directory)(tmp_path / "out"):
            sweep(tmp_path)  # what a live process writes stays
    assert names(tmp_path) == [".out.secret12", "out"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in directories")
def test_pipes_are_refused_where_inputs_are_read_twice(tmp_path):
    # Guards: `distill --source <(...)` saying "is empty", or waiting for ever.
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError) as caught:
        refuse_streams([None, tmp_path / "missing", tmp_path / "pipe"], "it is read twice")
    one_line(caught, str(tmp_path / "pipe"), "it is read twice", "write it to a file")


def test_files_below_dev_are_files(tmp_path, monkeypatch):
    # /dev/shm holds files as any directory does; a new one was refused, an old one appended to.
    monkeypatch.setattr("multistride.files._STANDARD", (str(tmp_path / "stdout"),))
    shared = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(dir=shared)) if os.access(shared, os.W_OK) else tmp_path
    try:
        for text in ("old\n", "new\n"):
            with replacing_file(place / "x.txt") as temporary:
                temporary.write_text(text)
        assert (place / "x.txt").read_text() == "new\n"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    link = tmp_path / "link"
    link.symlink_to("stdout")
    assert is_stream(link)  # as a link to /dev/stdout, whatever that is now
    assert not is_stream(tmp_path / "other")


def test_one_file_under_two_names(tmp_path):
    # A loop of links was a traceback, and a hard link was taken for another file.
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "loop").symlink_to("loop")
    assert same_file(tmp_path / "a", tmp_path / "b")
    assert not same_file(tmp_path / "a", tmp_path / "loop")
    with pytest.raises(UserError) as caught, replacing_file(tmp_path / "loop"):
        pass
    one_line(caught, str(tmp_path / "loop"))


@pytest.mark.parametrize("name", ["-", "x.bz2", "x.ZST", "x.tgz"])
def test_names_that_promise_something_else(tmp_path, monkeypatch, name):
    # A file called "-" appeared, and plain text under the name of a compressed file.
    monkeypatch.chdir(tmp_path)
    for write in (replacing_file, journal):
        with pytest.raises(UsageError) as caught, write(Path(name)):
            pass
        one_line(caught, name)
    assert names(tmp_path) == []


def test_suffixes_in_capitals_are_compressed_too(tmp_path):
    with replacing_file(tmp_path / "x.GZ") as temporary:
        temporary.write_text("text\n")
    assert gzip.decompress((tmp_path / "x.GZ").read_bytes()) == b"text\n"


def test_a_model_is_not_replaced_by_data_nor_data_by_a_model(tmp_path):
    # `export MODEL data` deleted prepared data, which this package had written after all.
    model, data = ours(tmp_path / "model"), tmp_path / "data"
    data.mkdir()
    (data / "prepare.json").write_text('{"data_hash": "0"}')
    refuse_foreign(model, "model")
    refuse_foreign(data, "data")
    for directory, kind in ((model, "data"), (data, "model")):
        with pytest.raises(UsageError) as caught:
            refuse_foreign(directory, kind)
        one_line(caught, str(directory), "name another directory")


def test_a_full_disk_that_numpy_meets(tmp_path):
    # Guards: a full disk told as a fault of standard output, since NumPy's error has no number.
    expected = pytest.raises(UserError, match=r"could not write .*data: No space left on device")
    with expected, replacing_directory(tmp_path / "data"):
        raise OSError("7226 requested and 4032 written")
    assert not (tmp_path / "data").exists()


def test_a_file_in_a_directory_that_is_not_in_place_yet(tmp_path):
    # Guards: the name of a temporary directory in a message, where there is nothing any more.
    with (
        pytest.raises(UserError) as caught,
        replacing_directory(tmp_path / "data") as place,
        replacing_file(place / "tokenizer.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    one_line(caught, f"could not write {tmp_path / 'data' / 'tokenizer.json'}: No space left")
