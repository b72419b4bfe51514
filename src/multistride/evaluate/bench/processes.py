"""A benchmark's worker processes, started one by one and stopped while another has its turn.

Each contender has a process of its own, so that its memory can be told from the others', and so
that libraries which bring their own thread pools do not disturb each other. A pool may spin while
it waits (`OMP_WAIT_POLICY=ACTIVE`, which two threads need to be faster than one); so whoever has no
turn is stopped by a signal and costs nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import TracebackType

from pydantic import ValidationError

from multistride.errors import DataError, GateError, MissingExtraError, UsageError, UserError
from multistride.evaluate.bench.workers.messages import Answer, Failure, Ready, Setup, Turn

_ERRORS = {
    kind.exit_code: kind
    for kind in (UserError, UsageError, MissingExtraError, DataError, GateError)
}


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker: threads of every library, and how they wait."""
    counts = {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    waiting = {"OMP_WAIT_POLICY": "ACTIVE"} if threads > 1 else {}
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return {**inherited, **counts, **waiting, "TOKENIZERS_PARALLELISM": "false"}


class Worker:
    """One process. Use it in a `with` block, which ends it whatever happens."""

    def __init__(self, kind: str, setup: Setup) -> None:
        """Start a module of `evaluate.bench.workers`, wait until it is ready, then stop it.

        Raises what the worker raised: a `UserError` of the same kind.
        """
        self.name = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"multistride.evaluate.bench.workers.{kind}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(setup.threads),
            text=True,
            encoding="utf-8",
            process_group=0,  # Ctrl-C is for the parent, who ends the workers
        )
        try:
            self.ready = Ready.model_validate_json(
                self._said(setup.model_dump_json(exclude_unset=True))
            )
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def take(self, turn: Turn) -> Answer:
        """Let it run for one turn. Raises what the worker raised."""
        self._signal(signal.SIGCONT)
        answer = Answer.model_validate_json(self._said(turn.model_dump_json(exclude_unset=True)))
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _said(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # what it said before it ended tells more
            pass
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            raise UserError(
                f"the worker {self.name} ended with code {code} and without an answer: see above, "
                "or free memory"
            )
        try:
            failure = Failure.model_validate_json(answer)
        except ValidationError:
            return answer
        raise _ERRORS.get(failure.exit_code, UserError)(failure.message)

    def _signal(self, number: int) -> None:
        os.kill(self._process.pid, number)
