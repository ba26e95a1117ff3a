"""Pytree leaves as plain arrays that every storage format takes, and back without a changed bit.

A leaf becomes a NumPy array plus a :class:`Kind` that says what it was: a JAX array, a NumPy array
or scalar, a typed PRNG key, a Python number or string. Where they are stored is for
:mod:`curvlab.runs.orbax_io` and :mod:`curvlab.runs.probe_sets` to decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from curvlab.core.errors import CheckpointError, RunError


@dataclass(frozen=True)
class Kind:
    """What a stored array was before.

    Attributes
    ----------
    name
        ``"jax"``, ``"numpy"``, ``"numpy_scalar"``, ``"key"``, ``"bool"``, ``"int"``, ``"float"``,
        ``"complex"`` or ``"str"``.
    implementation
        PRNG implementation of a key, such as ``"threefry2x32"``.
    shape
        Shape of an array without elements, stored as one zero because formats refuse empty ones.
    """

    name: str = "jax"
    implementation: str | None = None
    shape: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form stored in metadata, without what is at its default."""
        data: dict[str, Any] = {"kind": self.name}
        if self.implementation is not None:
            data["implementation"] = self.implementation
        if self.shape is not None:
            data["shape"] = list(self.shape)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Kind":
        """Rebuild from :meth:`to_json`."""
        shape = data.get("shape")
        return cls(
            str(data["kind"]),
            data.get("implementation"),
            None if shape is None else tuple(int(size) for size in shape),
        )


def is_key(leaf: Any) -> bool:
    """Whether a leaf (or an abstract leaf) is a typed PRNG key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def encode(leaf: Any, name: str) -> tuple[Shaped[np.ndarray, "..."], Kind]:
    """Return the array that stands for ``leaf`` and its kind.

    Raises
    ------
    RunError
        If the leaf is neither an array of numbers, nor a key, nor a Python number or string.
    """
    kind, array = _as_array(leaf, name)
    if not hasattr(jnp, array.dtype.name):  # Objects, texts, dates, long doubles, records.
        raise RunError(
            f"Cannot store {name!r}: arrays of dtype {array.dtype} are not supported. Store "
            "numbers, and keep texts and objects in the run's config."
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.size == 0:
        return np.zeros((1,), array.dtype), Kind(kind.name, kind.implementation, array.shape)
    return array, kind


def _as_array(leaf: Any, name: str) -> tuple[Kind, Shaped[np.ndarray, "..."]]:
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:
            raise RunError(
                f"Cannot store {name!r}: it is spread over several processes. Gather it first "
                "(jax.experimental.multihost_utils.process_allgather)."
            )
        if is_key(leaf):
            implementation = str(jax.random.key_impl(leaf))
            return Kind("key", implementation), np.asarray(jax.random.key_data(leaf))
        return Kind(), np.asarray(leaf)
    if isinstance(leaf, np.ndarray):
        return Kind("numpy"), np.asarray(leaf)
    if isinstance(leaf, np.generic):
        return Kind("numpy_scalar"), np.asarray(leaf)
    if isinstance(leaf, bool | float | complex):
        return Kind(type(leaf).__name__), np.asarray(leaf)
    if isinstance(leaf, int) and -(2**63) <= leaf < 2**63:
        return Kind("int"), np.asarray(leaf, np.int64)
    if isinstance(leaf, str):
        return Kind("str"), np.frombuffer(leaf.encode(), np.uint8)
    raise RunError(
        f"Cannot store {name!r}: found {type(leaf).__module__}.{type(leaf).__qualname__}, expected "
        "an array, a PRNG key, or a Python number (integers of 64 bits) or string. Convert it."
    )


def decode(array: Shaped[np.ndarray, "..."], kind: Kind, name: str) -> Any:
    """Return the leaf that :func:`encode` was given.

    Raises
    ------
    CheckpointError
        If a 64-bit JAX array is read while JAX is limited to 32 bits.
    """
    if kind.shape is not None:
        array = np.zeros(kind.shape, array.dtype)
    match kind.name:
        case "jax":
            return as_jax(array, name)
        case "key":
            return jax.random.wrap_key_data(jnp.array(array), impl=kind.implementation)
        case "numpy":
            return array
        case "numpy_scalar":
            return array[()]
        case "str":
            return array.tobytes().decode()
        case _:
            return array.item()


def as_jax(array: Shaped[np.ndarray, "..."], name: str) -> jax.Array:
    """Return a JAX array of exactly this dtype on the default device.

    Raises
    ------
    CheckpointError
        If the dtype needs 64 bits and JAX is limited to 32.
    """
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise CheckpointError(
            f"Cannot load {name!r} as it was stored: expected {array.dtype}, but JAX is limited to "
            "32 bits in this process. Set JAX_ENABLE_X64=1 (or jax.config jax_enable_x64)."
        )
    return jnp.array(array)
