"""The errors curvlab raises on purpose.

Every message has three parts: what was asked, what was found, what to do. Numerical trouble that
belongs to a result (an unconverged pair, a breakdown) is data in that result and never an error.
"""

import difflib
from collections.abc import Iterable


class CurvlabError(Exception):
    """Base of every deliberate error; the command line prints it as one line and exits with 2."""


class ProblemError(CurvlabError, ValueError):
    """A loss, a batch or a set of parameters from which no curvature can be computed."""


class OperatorError(CurvlabError, ValueError):
    """A symmetric operator or an estimator setting that makes no sense."""


class RunError(CurvlabError, ValueError):
    """A run directory that is missing, is not a run, or contradicts what was asked."""


class CheckpointError(RunError):
    """A checkpoint with a missing, truncated or altered file, or with unusable content."""


class StorageError(CurvlabError, OSError):
    """The file system refused to store something (full, read-only, size limit)."""


class UnknownNameError(CurvlabError, KeyError):
    """A name that is in no registry; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        super().__init__(f"Unknown {kind} {name!r}. {hint}Known: {', '.join(known) or 'none'}.")

    def __str__(self) -> str:
        # KeyError would show the message's repr.
        return str(self.args[0])
