"""The exceptions that the command line turns into exit codes."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RESUMABLE = 75


class UserError(Exception):
    """Wrong use or wrong input; the message says what, where and what to do. Exit code 2."""


class InUse(UserError):
    """Another process is at work there."""


class Interrupted(BaseException):
    """Stopped early on a signal with everything done so far on disk. Exit code 75.

    Like KeyboardInterrupt it is no ``Exception``: it arrives wherever the program is, and the many
    ``except Exception`` of libraries (and ours, which record a bad row) must not take it for their own.
    """


class RankLost(Exception):
    """Another rank died or cannot be reached; what was written is whole. Exit code 1."""
