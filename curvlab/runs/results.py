"""Results of diagnostics as netCDF files, one per diagnostic, step, probe set and key.

The key is a hash of settings, probe set and code version made by the caller; a file that exists for
a key holds its final content, so an interrupted analysis goes on where it stopped. Files are built
in memory and placed atomically, hence an HDF5 error never meets the disk.
"""

import io
import json
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curvlab.core.errors import CheckpointError, RunError
from curvlab.runs.files import Lock, remove_stale, storing, visible, write_atomic
from curvlab.runs.layout import Layout, check_name, check_step, parse_step, step_name

if TYPE_CHECKING:
    import xarray

_KEY_DIGITS = 12
_FILE = re.compile(rf"([^-]+)-(\d{{9,}})-(.+)-([0-9a-f]{{{_KEY_DIGITS}}})\.nc")
# netCDF attributes are numbers and texts; anything else is kept as JSON behind this mark.
_JSON_MARK = "json:"


@dataclass(frozen=True)
class ResultFile:
    """Where a stored result lies and what it is about.

    Attributes
    ----------
    diagnostic, step, probe_set, key
        As given when it was written; the key cut to 12 digits.
    path
        The netCDF file.
    """

    diagnostic: str
    step: int
    probe_set: str
    key: str
    path: Path


def result_path(layout: Layout, diagnostic: str, step: int, probe_set: str, key: str) -> Path:
    """Return the file of a result.

    Raises
    ------
    RunError
        If a name or the key cannot be part of a file name.
    """
    check_name("probe set", probe_set)
    if "-" in check_name("diagnostic", diagnostic):
        raise RunError(f"{diagnostic!r} cannot name a diagnostic: use '_' in place of '-'.")
    if not re.fullmatch(rf"[0-9a-f]{{{_KEY_DIGITS},}}", key):
        raise RunError(
            f"{key!r} cannot be the key of a result: expected at least {_KEY_DIGITS} hexadecimal "
            "digits. Pass a hash of settings, probe set and code version."
        )
    name = f"{diagnostic}-{step_name(check_step(step))}-{probe_set}-{key[:_KEY_DIGITS]}.nc"
    return layout.results / name


def list_results(layout: Layout) -> tuple[ResultFile, ...]:
    """Return all stored results, sorted by diagnostic, step and probe set."""
    found: list[ResultFile] = []
    for path in visible(layout.results):
        match = _FILE.fullmatch(path.name)
        step = parse_step(match[2]) if match else None
        if match and step is not None:
            found.append(ResultFile(match[1], step, match[3], match[4], path))
    return tuple(found)


def write_result(path: Path, layout: Layout, dataset: "xarray.Dataset") -> None:
    """Write a dataset to a result file, replacing an older one in one step.

    Raises
    ------
    RunError
        If the dataset holds something that netCDF cannot.
    StorageError
        If the file system refuses; an older file is then untouched.
    """
    data = to_netcdf(dataset)
    with storing(layout.results):
        layout.results.mkdir(exist_ok=True)
    lock = Lock(layout.results_lock, wait=True)
    try:
        remove_stale(layout.results)
        write_atomic(path, data)
    finally:
        lock.release()


def discard_results_after(layout: Layout, step: int) -> None:
    """Delete the results of checkpoints beyond ``step``."""
    for result in list_results(layout):
        if result.step > step:
            with storing(result.path):
                result.path.unlink(missing_ok=True)


def to_netcdf(dataset: "xarray.Dataset") -> bytes:
    """Return a dataset as the bytes of a netCDF file.

    Raises
    ------
    RunError
        If the dataset holds something that netCDF cannot.
    """
    plain = dataset.drop_encoding()
    plain.attrs = _encode(dataset.attrs)
    for name in plain.variables:
        plain[name].attrs = _encode(plain[name].attrs)
    try:
        return bytes(plain.to_netcdf(engine="h5netcdf"))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise RunError(
            f"Cannot store the dataset with variables {sorted(map(str, dataset.variables))} as "
            f"netCDF: {error}. Use numbers, texts and booleans."
        ) from error


def read_netcdf(path: Path) -> "xarray.Dataset | None":
    """Read a netCDF file into memory; None if it does not exist.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    import xarray

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        dataset = xarray.load_dataset(io.BytesIO(data), engine="h5netcdf")
    except Exception as error:
        raise _unreadable(path, error) from error
    dataset = dataset.drop_encoding()
    dataset.attrs = _decode(dataset.attrs)
    for name in dataset.variables:
        dataset[name].attrs = _decode(dataset[name].attrs)
    return dataset


def read_attributes(path: Path) -> dict[Hashable, Any]:
    """Return the attributes of a result without its numbers, which takes a tenth of the time.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    import h5netcdf

    try:
        with h5netcdf.File(path, "r") as file:
            return _decode(dict(file.attrs))
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Cannot read {path}: expected a netCDF file, found {path.stat().st_size} bytes that give "
        f"{type(error).__name__}: {str(error)[:200]}. Delete the file and run the analysis again."
    )


def _encode(attributes: dict[Any, Any]) -> dict[Hashable, Any]:
    return {name: _encode_value(name, value) for name, value in attributes.items()}


def _encode_value(name: Hashable, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _JSON_MARK + json.dumps(value) if not value or value.startswith("json:") else value
    if type(value) in (int, float) or (isinstance(value, np.ndarray) and value.dtype.kind in "iuf"):
        return value
    try:
        return _JSON_MARK + json.dumps(value)
    except TypeError as error:
        raise RunError(f"Attribute {name!r} cannot be stored: {error}. Use plain data.") from error


def _decode(attributes: dict[Any, Any]) -> dict[Hashable, Any]:
    return {name: _decode_value(value) for name, value in attributes.items()}


def _decode_value(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str) and value.startswith(_JSON_MARK):
        return json.loads(value.removeprefix(_JSON_MARK))
    return value
