"""Batches of examples: what counts as one, and arrays too large for the device cut into them.

How batches are read again and again, padded and sent to devices: :mod:`curvlab.curvature.source`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from curvlab.core.errors import ProblemError
from curvlab.core.trees import path_name


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Examples along the leading axis of every leaf, and a weight for each."""

    inputs: PyTree
    targets: PyTree
    # As every pytree it may hold descriptions of arrays too, for instance while JAX lowers.
    weights: PyTree


class Batches:
    """Arrays cut into batches of ``size`` examples, read anew in every pass over the data.

    For data that should not lie on the device as a whole: NumPy arrays, or memory-mapped files
    (``np.load(path, mmap_mode="r")``) larger than memory. No more than two batches are on the
    device at a time.

    Parameters
    ----------
    inputs, targets
        Pytrees of arrays with a leading example axis.
    size
        Examples in a batch; the last one may have fewer and counts as many as it has.
    weights
        One non-negative weight per example.

    Raises
    ------
    ProblemError
        If the arrays differ in length or hold no example, or ``size`` is below 1.

    Examples
    --------
    >>> data = Batches(np.zeros((10, 3)), np.zeros(10), size=4)
    >>> [batch.weights.size for batch in data]
    [4, 4, 2]
    """

    def __init__(self, inputs: PyTree, targets: PyTree, *, size: int, weights: Any = None):
        if size < 1:
            raise ProblemError(f"Batches(size={size}) asks for empty batches. Use size >= 1.")
        self.size = size
        self.whole = as_batch((inputs, targets) if weights is None else (inputs, targets, weights))

    def __len__(self) -> int:
        return -(-len(self.whole.weights) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.whole.weights), self.size):
            part = slice(start, start + self.size)
            yield jax.tree.map(lambda leaf, part=part: leaf[part], self.whole)


def as_batch(item: Any) -> Batch:
    """Return ``(inputs, targets)`` or ``(inputs, targets, weights)`` as a checked batch.

    Arrays stay where they are, on the host or on a device.

    Raises
    ------
    ProblemError
        If lengths differ, there is no example, or a weight is negative or not finite.
    """
    if isinstance(item, Batch):
        return item
    if not isinstance(item, tuple) or len(item) not in (2, 3):
        length = f" of length {len(item)}" if hasattr(item, "__len__") else ""
        raise ProblemError(
            "A batch has to be a tuple (inputs, targets) or (inputs, targets, weights); got "
            f"{type(item).__name__}{length}. Put the arrays of each batch into one tuple, and "
            "several batches into a list."
        )
    inputs, targets = (jax.tree.map(_as_array, part) for part in item[:2])
    sizes = {
        f"{side}/{path_name(path)}".rstrip("/"): leaf.shape[0] if leaf.ndim else None
        for side, part in (("inputs", inputs), ("targets", targets))
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }
    found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
    if not sizes or None in sizes.values() or len(set(sizes.values())) != 1:
        raise ProblemError(
            f"Every array of a batch needs the same number of examples on its leading axis; found "
            f"{found or 'no array'}. Check how inputs and targets were cut."
        )
    examples: Any = next(iter(sizes.values()))
    if examples == 0:
        raise ProblemError(
            f"A batch needs at least one example; this one has none ({found}). Leave empty batches "
            "out, or check the filter that emptied it."
        )
    weights = np.ones(examples, np.float32) if len(item) == 2 else np.asarray(item[2])
    weights = weights if weights.dtype.kind == "f" else weights.astype(np.float32)
    if weights.shape != (examples,) or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ProblemError(
            f"Weights must be finite and non-negative, one for each of {examples} examples; got "
            f"shape {weights.shape} with minimum {weights.min(initial=np.inf)}. Check length and "
            "sign."
        )
    return Batch(inputs, targets, weights)


def check_like(batch: Batch, first: Batch, index: int) -> None:
    """Refuse a batch whose arrays differ from the first one's in more than their length.

    Raises
    ------
    ProblemError
        Naming the batch and the first array that differs.
    """
    found, expected = _describe(batch), _describe(first)
    if found != expected:
        name = next(n for n in {**expected, **found} if found.get(n) != expected.get(n))
        raise ProblemError(
            f"Batch {index} is not like batch 0: {name} is {found.get(name, 'missing')} there and "
            f"{expected.get(name, 'missing')} in batch 0 (without the example axis). Give all "
            "batches the same arrays."
        )


def _describe(batch: Batch) -> dict[str, str]:
    return {
        f"{side}/{path_name(path)}".rstrip("/"): f"{leaf.dtype}{list(leaf.shape[1:])}"
        for side, part in (("inputs", batch.inputs), ("targets", batch.targets))
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }


def _as_array(leaf: Any) -> Array | np.ndarray:
    return leaf if isinstance(leaf, jax.Array | np.ndarray) else np.asarray(leaf)
