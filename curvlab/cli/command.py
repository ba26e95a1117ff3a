"""What every command line of the project has in common: exit codes, errors, Ctrl-C, closed pipes.

The commands themselves are in :mod:`curvlab.cli.main`, and in the ``__main__`` modules of the
applications.
"""

import os
import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from curvlab.core.errors import CurvlabError

REFUSED = 2
"""The command could not be carried out."""
INCOMPLETE = 3
"""It was, but met damaged or unusable checkpoints."""
INTERRUPTED = 130
"""Ctrl-C."""
# What rich returns as well when nobody reads the output any more.
_UNREAD = 1


def run_command(
    app: SubcommandApp, name: str, description: str, arguments: Sequence[str] | None = None
) -> int:
    """Run a command line and return its exit code; deliberate errors become one line on stderr.

    Parameters
    ----------
    app
        The commands.
    name
        What the program is called in its help and in front of its errors.
    description
        First lines of the help.
    arguments
        The command line; that of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app.cli(prog=name, description=description, args=arguments)
        sys.stdout.flush()
        return int(code)
    except CurvlabError as error:
        return refuse(name, str(error))
    except KeyboardInterrupt:
        # Objects that the signal met half-made would complain in their destructors after this.
        sys.unraisablehook = lambda _: None
        _say("Interrupted. What was finished is stored; the same command goes on from there.")
        return INTERRUPTED
    except BrokenPipeError:
        # Otherwise the interpreter complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD


def refuse(name: str, reason: str) -> int:
    """Say in one line why the program ``name`` does nothing, and return the exit code for that."""
    _say(f"{name}: {' '.join(reason.split())}")
    return REFUSED


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
