"""Arrays on a mesh of devices: examples cut over its first axis, everything else on all of them.

One program runs on all devices, of one process or of several; the compiler inserts the sums over
devices. Every process holds the same host arrays (or the same memory-mapped files) and sends only
the rows that its own devices need.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the placement of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_examples(mesh: Mesh) -> NamedSharding:
    """Return the placement of batches: their leading axis over the first axis of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def over_all(mesh: Mesh) -> NamedSharding:
    """Return the placement of basis panels: their leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Send the leaves of ``tree`` to the devices of ``sharding``; those already there are re-cut.

    Across processes no data are exchanged: each reads its part of its own host copy, so all must
    hold the same.
    """
    return jax.tree.map(lambda leaf: _place(leaf, sharding), tree)


def spans_processes(sharding: NamedSharding | None) -> bool:
    """Whether arrays placed so lie on devices of several processes."""
    return sharding is not None and not sharding.is_fully_addressable


def on_mesh(leaf: Any, mesh: Mesh) -> bool:
    """Whether an array lies on exactly the devices of ``mesh``, in whatever way."""
    return isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat)


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    there = isinstance(leaf, jax.Array) and leaf.sharding.device_set == sharding.device_set
    if there or (isinstance(leaf, jax.Array) and sharding.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _place(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    # A part is read only when its device asks for it: of a memory-mapped file nothing else is.
    host = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    dtype = jax.dtypes.canonicalize_dtype(host.dtype)
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.asarray(host[index], dtype)
    )
