"""Where things lie in a run directory, and which names are allowed.

No file is read or written here, except to see whether a directory is a run.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from curvlab.core.errors import RunError

RUN_FILE = "run.json"
_STEP_DIGITS = 9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Layout:
    """The paths of one run.

    Attributes
    ----------
    root
        The run directory.
    """

    root: Path

    @property
    def run_file(self) -> Path:
        """Config, specs, versions and seed."""
        return self.root / RUN_FILE

    @property
    def lock(self) -> Path:
        """Held by the one process that trains."""
        return self.root / ".lock"

    @property
    def results_lock(self) -> Path:
        """Held for the moment in which a result is written."""
        return self.results / ".lock"

    @property
    def checkpoints(self) -> Path:
        """One directory per step, kept for analysis."""
        return self.root / "checkpoints"

    @property
    def resume(self) -> Path:
        """The newest full training state."""
        return self.root / "resume"

    @property
    def probe_sets(self) -> Path:
        """One JSON file per probe set."""
        return self.root / "probe_sets"

    @property
    def arrays(self) -> Path:
        """The arrays of all probe sets, named by their content."""
        return self.probe_sets / "arrays"

    @property
    def metrics(self) -> Path:
        """The training log, one JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """One netCDF file per diagnostic, step, probe set and key."""
        return self.root / "results"

    def checkpoint(self, step: int) -> Path:
        """Return the directory of one step's checkpoint."""
        return self.checkpoints / step_name(step)


def step_name(step: int) -> str:
    """Return a step as it is written in file names, zero-padded so that names sort by step."""
    return f"{step:0{_STEP_DIGITS}d}"


def parse_step(name: str) -> int | None:
    """Return the step that a file name stands for, or None."""
    return int(name) if re.fullmatch(rf"\d{{{_STEP_DIGITS},}}", name) else None


def check_step(step: int) -> int:
    """Return ``step`` as a Python integer.

    Raises
    ------
    RunError
        If it is negative.
    """
    if step < 0:
        raise RunError(f"Asked to store step {step}. Steps are counted from 0.")
    return int(step)


def check_name(what: str, name: str) -> str:
    """Return a name that goes into file names.

    Raises
    ------
    RunError
        If it holds characters other than letters, digits, ``.``, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise RunError(
            f"{name!r} cannot name a {what}: expected up to 100 letters, digits, '.', '_' or '-', "
            "the first one a letter or digit. Choose another name."
        )
    return name


def is_run(path: Path) -> bool:
    """Whether a directory is a run."""
    return (path / RUN_FILE).is_file()


def runs_below(path: Path) -> tuple[Path, ...]:
    """Return the runs in ``path`` (or ``path`` itself), sorted with numbers in numeric order."""
    found: list[Path] = []
    for folder, folders, files in os.walk(path):
        if RUN_FILE in files:
            found.append(Path(folder))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return tuple(sorted(found, key=_natural))


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
