"""What can go wrong, and the exit code each kind of failure has on the command line.

Every message is one line with three parts: what was given, what is allowed, what to do.
"""

from __future__ import annotations


class UserError(Exception):
    """A failure the person at the keyboard can act on; printed as one line, without a traceback."""

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
    """A quality or speed gate that was asked for did not hold."""

    exit_code = 5


class Interrupted(UserError):
    """The run was stopped by the user; the message says how to continue it."""

    exit_code = 130
