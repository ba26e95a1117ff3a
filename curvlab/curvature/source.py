"""Reading data again and again: every product needs all examples, in memory or not.

Batches of uneven size are padded with copies of weight zero, so that few compiled programs serve
all of them, exactly. One batch is read and sent while the device computes with the one before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from curvlab.core.devices import over_examples, place, replicated
from curvlab.core.errors import ProblemError
from curvlab.curvature.data import Batch, Batches, as_batch, check_like

Item = TypeVar("Item")


@dataclass(frozen=True)
class Census:
    """What a first reading of the data finds.

    Attributes
    ----------
    examples
        Number of examples.
    weight
        Sum of their weights.
    largest
        Examples in the largest batch.
    fingerprints
        One number for each batch of a stream, to compare with a second reading; empty for
        arrays, which stay what they are.
    """

    examples: int
    weight: float
    largest: int
    fingerprints: tuple[int, ...]


class Source:
    """Data that can be read any number of times.

    Parameters
    ----------
    data
        One batch, a list of batches, an iterable that can be iterated again, or a function that
        returns a fresh iterator.
    census
        What a reading would find, if known.
    same_as
        A source of the same examples in another precision or order, which has the fingerprint.
    """

    def __init__(self, data: Any, *, census: Census | None = None, same_as: "Source | None" = None):
        self._data = data
        self._same_as = same_as
        if census is not None:
            self.census = census

    @cached_property
    def listed(self) -> tuple[Batch, ...] | None:
        """The batches of data in memory; ``None`` for data that are read anew in every pass."""
        if isinstance(self._data, list):
            return tuple(map(as_batch, self._data))
        return (as_batch(self._data),) if isinstance(self._data, tuple | Batch) else None

    def batches(self) -> Iterator[Batch]:
        """Iterate over the batches as they were given, on the host or a device.

        Raises
        ------
        ProblemError
            If the data can be read only once.
        """
        if self.listed is not None:
            yield from self.listed
            return
        source: Any = self._data() if callable(self._data) else self._data
        if isinstance(source, dict) or not hasattr(source, "__iter__") or hasattr(source, "shape"):
            as_batch(source)  # fails, and says what a batch is
        if not callable(self._data) and iter(source) is source:
            raise ProblemError(
                f"A {type(source).__name__} can be read only once, and every product reads the "
                "data. Pass a function that returns a fresh iterator, or curvlab.Batches."
            )
        yield from map(as_batch, source)

    def first(self) -> Batch:
        """Return the first batch.

        Raises
        ------
        ProblemError
            If there is none.
        """
        found = next(self.batches(), None)
        if found is None:
            raise self._without_batch()
        return found

    def _without_batch(self) -> ProblemError:
        name = getattr(self._data, "__name__", type(self._data).__name__)
        found = f"the iterator that {name}() returned" if callable(self._data) else f"the {name}"
        return ProblemError(
            f"The objective is a mean over examples, and {found} holds no batch. Pass at least one "
            "(inputs, targets); a function has to return a fresh iterator each time it is called."
        )

    @cached_property
    def census(self) -> Census:
        """What a first reading of the data finds.

        Raises
        ------
        ProblemError
            If batches differ in structure, or no example counts.
        """
        examples, weight, largest = 0, 0.0, 0
        prints: list[int] = []
        first = None
        for index, batch in enumerate(self.batches()):
            first = batch if first is None else first
            check_like(batch, first, index)
            size = batch.weights.shape[0]
            examples, largest = examples + size, max(largest, size)
            weight += float(np.asarray(batch.weights, np.float64).sum())
            if self.listed is None and not isinstance(self._data, Batches):
                prints.append(fingerprint(batch))
        if not examples:
            raise self._without_batch()
        if not weight > 0:
            raise ProblemError(
                f"The {examples} examples have total weight {weight}. Give at least one of them a "
                "positive weight."
            )
        return Census(examples, weight, largest, tuple(prints))

    @cached_property
    def fingerprint(self) -> int | None:
        """A number that changes with any example or weight, but not with order or batches.

        It costs one pass over the bytes, up to half a gradient of the data; nothing for iterators,
        whose first reading took it. None where other processes hold a part of the arrays.
        """
        if self._same_as is not None:
            return self._same_as.fingerprint
        prints = self.census.fingerprints
        if not prints:
            prints = map(_fingerprint_here, self.batches())
        total = 0
        for each in prints:
            if each is None:
                return None
            total += each
        return total % 2**32

    def mapped(self, function: Callable[[Batch], list[Batch]], *, largest: int) -> "Source":
        """Return the same examples with every batch replaced by a few of at most ``largest``."""

        def pieces() -> Iterator[Batch]:
            for batch in self.batches():
                yield from function(batch)

        census = replace(self.census, largest=largest, fingerprints=())
        return Source(
            pieces if self.listed is None else list(pieces()), census=census, same_as=self
        )


def padded_size(size: int, *, largest: int, multiple: int) -> int:
    """Return the number of examples to which a batch is padded.

    The largest batch's, halved while the batch still fits: so there are at most ``log2(largest)``
    programs to compile, and less than half of the work is wasted.
    """
    padded = largest
    while -(-padded // 2) >= size and padded > 1:
        padded = -(-padded // 2)
    return -(-padded // multiple) * multiple


def fill(batch: Batch, size: int) -> Batch:
    """Return a batch of ``size`` examples with the same weighted sum of any loss.

    Examples that do not count (weight zero, and the padding) become copies of one that does: zero
    times their own NaN would be NaN.
    """
    weights = np.asarray(batch.weights)
    counted = weights > 0
    if counted.all() and weights.size == size:
        return batch
    rows = np.full(size, int(counted.argmax()))
    rows[: weights.size][counted] = np.flatnonzero(counted)
    padded = np.zeros(size, weights.dtype)
    padded[: weights.size] = weights
    inputs, targets = jax.tree.map(lambda leaf: leaf[rows], (batch.inputs, batch.targets))
    return Batch(inputs, targets, padded)


def send(batch: Batch, mesh: Mesh | None) -> Batch:
    """Start the transfer of a batch to the device, or over the devices of a mesh."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, batch)
    even = batch.weights.shape[0] % mesh.devices.shape[0] == 0
    return place(batch, over_examples(mesh) if even else replicated(mesh))


def sum_over(batches: Iterator[Item], term: Callable[[Item], PyTree]) -> PyTree:
    """Return the sum of ``term(batch)``, computing one batch while the next is read and sent.

    ``term`` only starts its work on the device. The loop waits for a term when the next one has
    been started: so the device always has work, and never holds more than two batches.
    """
    total = term(next(batches))
    for batch in batches:
        before, total = total, jax.tree.map(jnp.add, total, term(batch))
        jax.block_until_ready(before)
    return total


def fingerprint(batch: Batch) -> int:
    """Return a number that changes with any example, but not with their order."""
    leaves = [
        np.ascontiguousarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        for leaf in jax.tree.leaves(batch)
    ]
    rows = [leaf.reshape(len(leaf), -1).view(np.uint8) for leaf in leaves]
    total = 0
    for example in zip(*rows, strict=True):
        checksum = 0
        for row in example:
            checksum = crc32(row, checksum)
        total += checksum
    return total % 2**32


def _fingerprint_here(batch: Batch) -> int | None:
    here = all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(batch))
    return fingerprint(batch) if here else None


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys of random numbers."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
