"""Probe sets: the frozen batches on which curvature and features are measured.

A probe set is a JSON file that names arrays by the SHA-256 of their ``.npy`` files, so inputs
shared by many tasks are stored once and every byte can be checked. Arrays come back as NumPy
arrays.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from curvlab.core.errors import CheckpointError, RunError
from curvlab.runs.files import sha256_of, storing, to_json, visible, write_atomic
from curvlab.runs.layout import Layout, check_name
from curvlab.runs.leaves import encode
from curvlab.runs.manifests import Finding

ROLES = ("current", "next")
_ADVICE = "Restore the file from a copy; results measured on other data would not be comparable."


@dataclass(frozen=True)
class ProbeSet:
    """A batch with a name and a content hash.

    Attributes
    ----------
    name
        Such as ``"task-003"``.
    inputs, targets
        Pytrees of arrays with a leading example axis.
    hash
        SHA-256 of structure, dtypes, shapes and values.
    """

    name: str
    inputs: PyTree
    targets: PyTree
    hash: str

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(np.shape(jax.tree.leaves(self.inputs)[0])[0])


class ProbeSets:
    """The probe sets of a run by name, read and verified when asked for."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def __getitem__(self, name: str) -> ProbeSet:
        return read_probe_set(self._layout, name)

    def __iter__(self) -> Iterator[str]:
        return iter(probe_set_names(self._layout))

    def __len__(self) -> int:
        return len(probe_set_names(self._layout))

    def __contains__(self, name: object) -> bool:
        return name in probe_set_names(self._layout)

    def hash(self, name: str) -> str:
        """Return the content hash without reading the arrays."""
        return str(_read(self._layout, name)["hash"])


def probe_set_names(layout: Layout) -> tuple[str, ...]:
    """Return the names of the stored probe sets."""
    files = (path for path in visible(layout.probe_sets) if path.is_file())
    return tuple(path.stem for path in files if path.suffix == ".json")


def write_probe_set(layout: Layout, name: str | None, inputs: PyTree, targets: PyTree) -> str:
    """Store a batch and return its name; storing the same one again changes nothing.

    Parameters
    ----------
    layout
        The run; the caller holds its lock.
    name
        None for a name made from the content.
    inputs, targets
        Pytrees (dicts, lists, tuples, None) of arrays with one leading example axis.

    Returns
    -------
    str
        The name.

    Raises
    ------
    RunError
        If the batch is empty or uneven, or another one is stored under this name.
    StorageError
        If the file system refuses.
    """
    files: dict[str, bytes] = {}
    body = {
        "inputs": _describe(inputs, "inputs", files),
        "targets": _describe(targets, "targets", files),
    }
    _check_examples(name or "without a name", body)
    digest = hashlib.sha256(to_json(body)).hexdigest()
    name = check_name("probe set", name or f"probe-{digest[:12]}")
    if name in ROLES:
        raise RunError(
            f"A probe set cannot be called {name!r}: checkpoints use that word for a role. Choose "
            "a name such as 'task-003'."
        )
    if name in probe_set_names(layout):
        stored = _read(layout, name)["hash"]
        if stored != digest:
            raise RunError(
                f"Asked to store probe set {name!r} with hash {digest[:12]} in {layout.root}, "
                f"found one with hash {str(stored)[:12]} under that name. Choose another name."
            )
    with storing(layout.arrays):
        layout.arrays.mkdir(parents=True, exist_ok=True)
    for digest_of_file, data in files.items():
        path = layout.arrays / f"{digest_of_file}.npy"
        if not path.is_file() or path.stat().st_size != len(data):
            write_atomic(path, data)
    path = _path(layout, name)
    if not path.is_file():
        write_atomic(path, to_json({"hash": digest, **body}))
    return name


def read_probe_set(layout: Layout, name: str) -> ProbeSet:
    """Read a probe set and verify every array of it.

    Raises
    ------
    RunError
        If there is none of that name.
    CheckpointError
        If a file is missing or altered.
    """
    data = _read(layout, name)
    inputs, targets = (_map(data[part], lambda leaf: _load(layout, leaf)) for part in data["parts"])
    return ProbeSet(name, inputs, targets, str(data["hash"]))


def abstract_inputs(layout: Layout, name: str) -> PyTree:
    """Return shapes and dtypes of a probe set's inputs without reading the arrays."""

    def abstract(leaf: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))

    return _map(_read(layout, name)["inputs"], abstract)


def check_probe_set(layout: Layout, name: str) -> tuple[Finding, ...]:
    """Return what is wrong with a stored probe set."""
    shown = _path(layout, name).relative_to(layout.root).as_posix()
    try:
        read_probe_set(layout, name)
    except RunError as error:
        return (Finding(shown, "altered", "the stored arrays", str(error), _ADVICE),)
    return ()


def _path(layout: Layout, name: str) -> Path:
    return layout.probe_sets / f"{name}.json"


def _read(layout: Layout, name: str) -> dict[str, Any]:
    if name not in probe_set_names(layout):
        known = ", ".join(probe_set_names(layout)) or "none"
        raise RunError(f"There is no probe set {name!r} in {layout.root}. Stored: {known}.")
    path = _path(layout, name)
    try:
        data = cast(dict[str, Any], json.loads(path.read_bytes()))
        found = hashlib.sha256(
            to_json({"inputs": data["inputs"], "targets": data["targets"]})
        ).hexdigest()
        expected = data["hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is unreadable: expected a probe set, found {error!r}. {_ADVICE}"
        ) from error
    if found != expected:
        raise CheckpointError(
            f"{path} is altered: expected hash {expected}, found {found}. {_ADVICE}"
        )
    return {**data, "parts": ("inputs", "targets")}


def _describe(tree: Any, name: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Return the JSON form of a tree and add the files of its arrays to ``files``."""
    if tree is None:
        return {"none": True}
    if isinstance(tree, Mapping):
        items = cast(Mapping[Any, Any], tree)
        if not all(isinstance(key, str) for key in items):
            raise RunError(f"The probe set's {name} have keys that are no texts. Rename them.")
        return {"dict": {k: _describe(v, f"{name}/{k}", files) for k, v in sorted(items.items())}}
    if type(tree) in (list, tuple):
        values = cast(list[Any], tree)
        nodes = [_describe(value, f"{name}/{i}", files) for i, value in enumerate(values)]
        return {type(tree).__name__: nodes}
    array, kind = encode(tree, name)
    if kind.shape is not None or array.ndim == 0:
        raise RunError(
            f"The probe set's {name} have shape {kind.shape or ()}: expected at least one example "
            "along a leading axis. Pass arrays of (examples, ...)."
        )
    stored = array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(stored), allow_pickle=False)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    files[digest] = data
    node = {"array": digest, "dtype": array.dtype.name, "shape": list(array.shape)}
    return node if kind.implementation is None else {**node, "key": kind.implementation}


def _check_examples(name: str, body: Mapping[str, Any]) -> None:
    lengths: dict[str, set[int]] = {}
    for part, node in body.items():
        leaves: list[int] = []
        _map(node, lambda leaf, leaves=leaves: leaves.append(int(leaf["shape"][0])))
        lengths[part] = set(leaves)
    if len(set().union(*lengths.values())) != 1 or not all(lengths.values()):
        raise RunError(
            f"Probe set {name!r} has inputs of {sorted(lengths['inputs'])} and targets of "
            f"{sorted(lengths['targets'])} examples: expected the same number in every array. "
            "Pass one target per input."
        )


def _map(node: Mapping[str, Any], function: Callable[[Mapping[str, Any]], Any]) -> Any:
    if "array" in node:
        return function(node)
    if "none" in node:
        return None
    if "dict" in node:
        return {key: _map(value, function) for key, value in node["dict"].items()}
    if "tuple" in node:
        return tuple(_map(value, function) for value in node["tuple"])
    return [_map(value, function) for value in node["list"]]


def _load(layout: Layout, leaf: Mapping[str, Any]) -> Any:
    path = layout.arrays / f"{leaf['array']}.npy"
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: expected an array of shape {leaf['shape']}, found no file. "
            f"{_ADVICE}"
        )
    found = sha256_of(path)
    if found != leaf["array"]:
        raise CheckpointError(
            f"{path} is altered: expected SHA-256 {leaf['array']}, found {found}. {_ADVICE}"
        )
    array = np.load(path, allow_pickle=False)
    if "key" in leaf:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=leaf["key"])
    return array.view(jnp.dtype(leaf["dtype"]))
