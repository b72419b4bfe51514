"""Commands as forks of a process that has imported what they need.

A command is a process with streams, signals and an exit code of its own; most of the second or two
that a new interpreter takes is importing PyTorch. Here one process imports it all, and forks for
every command. What depends on a new interpreter (streams, start-up, imports) is tested elsewhere
with new ones.

The other end of the socket sends arguments, directory and environment as JSON with the three
standard streams, and receives the process number, then the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

SIZE = 1 << 20


class Forks:
    """The end of the socket that asks for commands."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SIZE)
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        assert self.socket.recv(SIZE) == b"ready"

    def run(
        self,
        arguments: list[str],
        data: bytes,
        cwd: str | os.PathLike[str] | None,
        environment: dict[str, str],
        timeout: float,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end, with `data` on its standard input."""
        ours, theirs = zip(*(os.pipe()[:: 1 if number else -1] for number in range(3)), strict=True)
        message = {"arguments": arguments, "cwd": str(cwd or os.getcwd()), "env": environment}
        socket.send_fds(self.socket, [json.dumps(message).encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        read: list[bytes] = [b"", b""]
        threads = [
            threading.Thread(target=_write, args=(ours[0], data)),
            *(
                threading.Thread(target=_read, args=(ours[1 + index], read, index))
                for index in range(2)
            ),
        ]
        for thread in threads:
            thread.start()
        process = int(self.socket.recv(SIZE))
        killer = threading.Timer(timeout, os.kill, (process, signal.SIGKILL))
        killer.start()
        code = int(self.socket.recv(SIZE))
        killer.cancel()
        for thread in threads:
            thread.join()
        if code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(arguments, timeout, *read)
        return subprocess.CompletedProcess(arguments, code, *read)

    def close(self) -> None:
        """End the process that forks."""
        self.socket.close()
        self.process.wait(60)


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as pipe:
        try:
            pipe.write(data)
        except BrokenPipeError:  # a command need not read what it is given
            pipe.detach()
            return


def _read(descriptor: int, into: list[bytes], index: int) -> None:
    with open(descriptor, "rb") as pipe:
        into[index] = pipe.read()


def serve(number: int) -> None:
    """Fork for every command that is asked for, until the other end is closed."""
    asked = socket.socket(fileno=number)
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SIZE)
    asked.send(b"ready")
    while True:
        message, streams, _, _ = socket.recv_fds(asked, SIZE, 3)
        if not message:
            return
        process = os.fork()
        if process == 0:
            asked.close()
            _become(json.loads(message), streams)
        for stream in streams:
            os.close(stream)
        asked.send(str(process).encode())
        asked.send(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])).encode())


def _become(message: dict[str, Any], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, "w" if number else "r", closefd=False)  # noqa: SIM115, open until it ends
        for number in range(3)
    )
    os.chdir(message["cwd"])
    os.environ.clear()
    os.environ.update(message["env"])
    sys.argv = ["multistride", *message["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    import importlib

    from multistride.cli import main

    for name in (
        "torch",
        "onnxruntime",
        "accelerate",
        "multistride.loading",
        "multistride.engines.int8.engine",
        "multistride.evaluate.run",
        "multistride.train.loop",
    ):
        importlib.import_module(name)
    serve(int(sys.argv[1]))
