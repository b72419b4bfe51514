"""Errors that a user can act on, and their exit codes on the command line.

Every message is one line with three parts: what was given, what is allowed, what to do.

| exit code | meaning |
| --: | --- |
| 0 | success; also if the program that reads stdout (`| head`) has seen enough |
| 1 | run-time failure: disk full, stdout closed, out of memory |
| 2 | usage or configuration, or a request the checkpoint was not trained for |
| 3 | an optional extra is missing |
| 4 | bad data or a bad checkpoint; some lines have no result |
| 5 | a required quality or speed was missed |
| 130 | stopped by Ctrl-C, SIGTERM or SIGHUP; the same command resumes where it can |
"""

from __future__ import annotations


class UserError(Exception):
    """A failure that the user can act on; the command line prints one line and no traceback."""

    exit_code = 1


class UsageError(UserError):
    """A wrong option, a wrong configuration, or a request the checkpoint was not trained for."""

    exit_code = 2


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    exit_code = 3


class DataError(UserError):
    """Bad text, a bad data directory, or a bad checkpoint."""

    exit_code = 4


class GateError(UserError):
    """A quality or speed that was required (`bench --require`) was missed."""

    exit_code = 5


class Interrupted(UserError):
    """The user stopped the run; the message says how to resume it."""

    exit_code = 130


def shown(setting: object) -> str:
    """Return a setting as a message names it: not as Python writes it."""
    if setting is None:
        return "not set"
    if isinstance(setting, bool):
        return "on" if setting else "off"
    return str(setting)
