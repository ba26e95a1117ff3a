"""Pytrees as Orbax checkpoints: the only module that talks to Orbax.

Leaves go in as NumPy arrays, so a checkpoint depends on no device and holds no path; what they were
before is kept in Orbax's own metadata. Any Orbax user can open the result with a PyTree handler.
Atomic placement, manifests and the choice of items are for :mod:`curvlab.runs.checkpoints`.
"""

import gc
import hashlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from curvlab.core.errors import CheckpointError, RunError
from curvlab.core.trees import path_name
from curvlab.runs.files import os_error_code, require_room, storage_error
from curvlab.runs.leaves import Kind, as_jax, decode, encode

_ROOM_BESIDE_ARRAYS = 64 * 1024
_STRAGGLER_SECONDS = 0.2


@cache
def _handler() -> Any:
    # Importing Orbax takes a second; one handler serves the process.
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler(use_ocdbt=True)


@dataclass(frozen=True)
class _Failure:
    """What remains of an exception of Orbax: keeping the exception would keep its tasks alive."""

    code: int | None
    text: str


def _guarded(action: Callable[[], Any]) -> Any:
    """Return what ``action`` returns, or a :class:`_Failure`, without a word from Orbax.

    After a failed write its threads report to an event loop that has ended, and tasks nobody awaits
    complain when they are collected; all of it says what the one error raised here says.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def ignore_closed_loop(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, RuntimeError):
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = ignore_closed_loop
    try:
        try:
            return action()
        except Exception as error:
            failure = _Failure(os_error_code(error), f"{type(error).__name__}: {error}")
        time.sleep(_STRAGGLER_SECONDS)
        gc.collect()
        return failure
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        sys.unraisablehook = hook


def save_tree(directory: Path, tree: PyTree) -> str:
    """Store a pytree in a new directory and return a hash of its content.

    Parameters
    ----------
    directory
        Must not exist; its parent must.
    tree
        Any pytree of arrays, typed keys, Python numbers and strings.

    Returns
    -------
    str
        SHA-256 over names, kinds, dtypes, shapes and bytes of the leaves, equal for equal trees
        (the bytes of Orbax's files differ from one save to the next).

    Raises
    ------
    RunError
        If a leaf cannot be stored or two leaves have the same name.
    StorageError
        If the file system refuses.
    """
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) for path, _ in with_paths]
    _check_names(names)
    encoded = [encode(leaf, name) for name, (_, leaf) in zip(names, with_paths, strict=True)]
    digest = hashlib.sha256()
    kinds: dict[str, Any] = {}
    for name, (array, kind) in zip(names, encoded, strict=True):
        digest.update(f"{name}\0{kind}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if kind != Kind():
            kinds[name] = kind.to_json()
    # Orbax refuses a tree without leaves; the metadata says that the placeholder stands for one.
    stored = (
        jax.tree_util.tree_unflatten(treedef, [array for array, _ in encoded])
        if encoded
        else {"empty": np.zeros((1,), np.uint8)}
    )
    require_room(directory.parent, sum(a.nbytes for a, _ in encoded) + _ROOM_BESIDE_ARRAYS)
    _save(directory, stored, {"leaves": kinds, "empty": not encoded})
    return digest.hexdigest()


def _check_names(names: list[str]) -> None:
    # Orbax joins the parts of a path by dots.
    dotted = [name.replace("/", ".") for name in names]
    if len(set(dotted)) < len(dotted):
        twice = sorted({name for name in dotted if dotted.count(name) > 1})
        raise RunError(
            f"Cannot store a tree in which two leaves are called {twice[0]!r} (a '/' or '.' inside "
            "a key looks like nesting). Rename one of them."
        )


def _save(directory: Path, stored: PyTree, metadata: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp
    from etils import epath

    target = epath.Path(directory.absolute())

    def save() -> None:
        target.mkdir()
        handler = _handler()
        handler.save(target, args=ocp.args.PyTreeSave(stored, custom_metadata=metadata))
        handler.finalize(target)

    failure = _guarded(save)
    if isinstance(failure, _Failure):
        reason = "" if failure.code else f"Orbax found {failure.text}"
        raise storage_error(directory, failure.code, reason)


def load_tree(directory: Path, template: PyTree | None = None) -> PyTree:
    """Return the pytree stored in a directory.

    Parameters
    ----------
    directory
        What :func:`save_tree` has filled.
    template
        A tree of arrays, ``jax.ShapeDtypeStruct``, numbers or strings with the wanted structure;
        names, shapes and dtypes must agree. Without it containers come back as Orbax knows them:
        named tuples and dataclasses as dicts, tuples as lists, ``optax.EmptyState`` as None.

    Raises
    ------
    CheckpointError
        If the content cannot be read or does not fit the template.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    source = epath.Path(directory.absolute())

    def restore() -> tuple[Any, dict[str, Kind]]:
        handler = _handler()
        metadata = handler.metadata(source).custom_metadata
        raw = handler.restore(source, args=ocp.args.PyTreeRestore())
        kinds = {name: Kind.from_json(data) for name, data in metadata["leaves"].items()}
        return {} if metadata["empty"] else raw, kinds

    found = _guarded(restore)
    if isinstance(found, _Failure):
        raise CheckpointError(
            f"Cannot read {directory}: expected a tree that curvlab stored, found "
            f"{found.text[:300]}. Restore the directory from a copy, or remove this checkpoint."
        )
    stored, kinds = found

    def back(path: Any, array: Any) -> Any:
        name = path_name(path)
        return decode(np.asarray(array), kinds.get(name, Kind()), f"{directory.name}/{name}")

    if template is None:
        return jax.tree_util.tree_map_with_path(back, stored)
    leaves = jax.tree_util.tree_flatten_with_path(stored)[0]
    return fit({path_name(path): back(path, array) for path, array in leaves}, template, directory)


def fit(found: dict[str, Any], template: PyTree, directory: Path) -> PyTree:
    """Arrange named leaves like ``template`` after checking names, shapes and dtypes.

    Raises
    ------
    CheckpointError
        At the first name, shape or dtype that differs.
    """
    wanted, treedef = jax.tree_util.tree_flatten_with_path(template)
    names = [path_name(path) for path, _ in wanted]
    absent = sorted(set(names) - found.keys())
    surplus = sorted(found.keys() - set(names))
    if absent or surplus:
        raise _misfit(
            directory,
            absent[0] if absent else surplus[0],
            f"{len(names)} leaves, among them {absent[:3]}" if absent else f"{len(names)} leaves",
            f"{len(found)} leaves, among them {surplus[:3]}" if surplus else f"{len(found)} leaves",
        )
    leaves = [
        _conform(found[name], leaf, directory, name)
        for name, (_, leaf) in zip(names, wanted, strict=True)
    ]
    return jax.tree_util.tree_unflatten(treedef, leaves)


def _conform(value: Any, like: Any, directory: Path, name: str) -> Any:
    """Return ``value`` with the type of ``like``; shapes and dtypes must be equal already."""
    if isinstance(like, bool | int | float | complex | str) and not isinstance(like, np.generic):
        plain = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
        if type(plain) is not type(like):
            raise _misfit(directory, name, type(like).__name__, type(plain).__name__)
        return plain
    expected = f"{like.dtype} of shape {tuple(like.shape)}"
    dtype = getattr(value, "dtype", type(value).__name__)
    actual = f"{dtype} of shape {tuple(np.shape(value))}"
    if expected != actual:
        raise _misfit(directory, name, expected, actual)
    if isinstance(like, np.ndarray):
        return np.asarray(value)
    if isinstance(like, np.generic):
        return np.asarray(value)[()]
    return value if isinstance(value, jax.Array) else as_jax(np.asarray(value), name)


def _misfit(directory: Path, name: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{directory} does not fit the expected structure at {name!r}: expected {expected}, found "
        f"{found}. Use the network, optimiser and settings the checkpoint was written with."
    )
