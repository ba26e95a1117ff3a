"""The training log ``metrics.jsonl``: one JSON object per line, appended while training.

A line without its end is the trace of a killed process: readers skip it, the next writer cuts it
off. Rows of the same step are merged, later ones winning.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from curvlab.core.errors import RunError
from curvlab.runs.files import storing, sync, write_atomic

if TYPE_CHECKING:
    import xarray

Row = tuple[int, dict[str, float]]


def append_row(path: Path, step: int, scalars: Mapping[str, Any]) -> None:
    """Append one row.

    Raises
    ------
    RunError
        If a value is not a scalar number.
    StorageError
        If the file system refuses; a partly written line is cut off again.
    """
    row: dict[str, Any] = {"step": int(step)}
    for name, value in scalars.items():
        if name == "step" or np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "biuf":
            raise RunError(
                f"Cannot log {name!r}: expected a real number beside the step, found "
                f"{type(value).__name__} {value!r}. Reduce it to a scalar or rename it."
            )
        row[name] = _to_json(np.asarray(value).item())
    line = f"{json.dumps(row, allow_nan=False)}\n".encode()
    with storing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                written = os.write(descriptor, line)
                while written < len(line):
                    written += os.write(descriptor, line[written:])
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def sync_metrics(path: Path) -> None:
    """Force the rows logged so far onto the disk."""
    if path.is_file():
        with storing(path):
            sync(path)


def cut_partial_line(path: Path) -> None:
    """Remove a last line that a killed process has not finished; the caller holds the lock."""
    if not path.is_file():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with storing(path):
            os.truncate(path, data.rfind(b"\n") + 1)


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows beyond ``step``, in one step.

    Raises
    ------
    RunError
        If a line is not a row.
    StorageError
        If the file system refuses.
    """
    lines = _lines(path)
    kept = [line for line, (found, _) in lines if found <= step]
    if len(kept) < len(lines):
        write_atomic(path, b"".join(kept))


def read_rows(path: Path) -> list[Row]:
    """Return the finished rows in the order in which they were logged.

    Raises
    ------
    RunError
        If the file is not a regular file or a finished line is not a row.
    """
    return [row for _, row in _lines(path)]


def read_metrics(path: Path) -> "xarray.Dataset":
    """Return the log as a dataset over ``step``, with NaN where a step has no value.

    Returns
    -------
    xarray.Dataset
        One float64 variable per logged name.
    """
    import xarray

    merged: dict[int, dict[str, float]] = {}
    for step, scalars in read_rows(path):
        merged.setdefault(step, {}).update(scalars)
    steps = sorted(merged)
    names = sorted({name for scalars in merged.values() for name in scalars})
    columns = {
        name: ("step", np.array([merged[step].get(name, math.nan) for step in steps], np.float64))
        for name in names
    }
    return xarray.Dataset(columns, coords={"step": np.array(steps, np.int64)})


def _lines(path: Path) -> list[tuple[bytes, Row]]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RunError(
                f"Cannot read {path}: expected a regular file, found a device or a directory. "
                "Move it away."
            )
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    finished = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    return [(line, _parse(path, number, line)) for number, line in enumerate(finished, 1)]


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        scalars = cast(dict[str, Any], json.loads(line))
        step = int(scalars.pop("step"))
        return step, {name: float(value) for name, value in scalars.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"Cannot read line {number} of {path}: expected a JSON object of numbers with a step, "
            f"found {line[:60]!r} ({error}). Remove the line or restore the file from a copy."
        ) from error


def _to_json(value: int | float) -> int | float | str:
    # JSON has no word for NaN and infinity; float() reads the texts back.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
