"""The Krylov basis: orthonormal rows, stored so that projecting on them is a few matrix products.

A vector of length ``n`` is cut into panels of 4,096 entries. Rows are collected in blocks of shape
``(panels, 16, 4096)``: every projection has the same shape (one compilation), only filled blocks
are read, and inner products are summed over panels in float64, which keeps float32 rows orthogonal
to about 1e-7 after a single pass. (Summed in float32 alone it would be 1e-5.)

Both halves of a pass, inner products and subtraction, read the whole basis, and reading is what
they cost. The inner products are taken at every step; a block is subtracted only where they are
above :data:`NEGLIGIBLE`, which most of the time none is.

Where a block lies and in which precision is its :class:`Tier`; :mod:`curvlab.spectral.memory`
chooses it.
"""

import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from curvlab.core.devices import place
from curvlab.core.trees import inner

PANEL = 4096
ROWS = 16
HIGHEST = jax.lax.Precision.HIGHEST

NEGLIGIBLE = 4
"""Inner products with all rows of a block below this many unit roundoffs are left as they are.

Lanczos coefficients are exact to rounding while rows are orthogonal to the root of it (Simon 1984);
what is left cannot grow unseen, since every step measures it.
"""


def block_bytes(dim: int, dtype: Any) -> int:
    """Return the bytes of a block of rows of length ``dim`` on one device."""
    panel = min(PANEL, dim)
    return ROWS * -(-dim // panel) * panel * np.dtype(dtype).itemsize


class Tier(enum.StrEnum):
    """Where the rows of a Krylov basis are kept."""

    DEVICE = "device"
    """On the device in the operator's precision."""
    HALF = "half"
    """On the device in half of the operator's precision; products and recurrence are unchanged."""
    HOST = "host"
    """In the host's memory in full precision; blocks visit the device one by one."""
    NONE = "none"
    """Nowhere: plain three-term Lanczos, whose Ritz values repeat but whose measure is right."""

    @property
    def said(self) -> str:
        """What to say of it beside a result."""
        return {
            Tier.DEVICE: "basis on the device",
            Tier.HALF: "basis on the device in half precision",
            Tier.HOST: "basis on the host",
            Tier.NONE: "no basis",
        }[self]


@partial(jax.jit, static_argnames=("panels", "panel"))
def cut(vector: Array, *, panels: int, panel: int) -> Float[Array, "panels panel"]:
    """Return a flat vector in panels, zero-padded."""
    return jnp.pad(vector, (0, panels * panel - vector.size)).reshape(panels, panel)


@partial(jax.jit, static_argnames="dim")
def join(panels: Array, *, dim: int) -> Float[Array, " dim"]:
    """Return a panelled vector flat again."""
    return panels.reshape(-1)[:dim]


@jax.jit
def scale(panels: Array, factor: Array) -> Array:
    """Return ``factor × panels``, multiplied in float64 and rounded to the dtype of ``panels``."""
    return (panels.astype(jnp.float64) * factor).astype(panels.dtype)


@partial(jax.jit, donate_argnums=0)
def _write(block: Array, panels: Array, row: Array, factor: Array) -> Array:
    zero = jnp.zeros_like(row)
    stored = (panels * factor.astype(panels.dtype)).astype(block.dtype)
    return jax.lax.dynamic_update_slice(block, stored[:, None, :], (zero, row, zero))


@jax.jit
def _coefficients(block: Array, panels: Array, factor: Array) -> Float[Array, " rows"]:
    sums = jnp.einsum("prk,pk->pr", block.astype(panels.dtype), panels, precision=HIGHEST)
    return sums.astype(jnp.float64).sum(0) / factor


@jax.jit
def _subtract(block: Array, panels: Array, coefficients: Array, factor: Array) -> Array:
    # Written out row by row, XLA makes one loop of it that runs at the memory's speed on a CPU; a
    # batched product takes up to twice as long.
    weights = (coefficients / factor).astype(panels.dtype)
    for row in range(block.shape[1]):
        panels = panels - weights[row] * block[:, row].astype(panels.dtype)
    return panels


@partial(jax.jit, static_argnames="dtype")
def _combine(block: Array, weights: Array, factor: Array, *, dtype: Any) -> Array:
    # One product for each panel runs at the memory's speed on a CPU. A single one over all panels,
    # or several outputs at once, take up to ten times as long.
    each = jnp.broadcast_to((weights / factor).astype(dtype), block.shape[:2])
    return jnp.einsum("pr,prk->pk", each, block.astype(dtype), precision=HIGHEST)


@partial(jax.jit, static_argnames="dtype")
def _gram(left: Array, right: Array, factor: Array, *, dtype: Any) -> Array:
    pair = (block.astype(dtype) for block in (left, right))
    products = jnp.einsum("prk,psk->prs", *pair, precision=HIGHEST)
    return products.astype(jnp.float64).sum(0) / factor**2


class KrylovBasis:
    """Orthonormal rows of length ``dim`` that grow one by one.

    All methods must be called inside :func:`curvlab.core.precision.float64`.

    Parameters
    ----------
    dim
        Length of a row.
    dtype
        Dtype of the vectors that are projected.
    tier
        Where and in which precision rows are kept; not :attr:`Tier.NONE`.
    sharding
        How panels are spread over several devices, along their leading axis.
    """

    def __init__(
        self,
        dim: int,
        dtype: Any,
        tier: Tier = Tier.DEVICE,
        *,
        sharding: NamedSharding | None = None,
    ):
        self.dim = dim
        self.dtype = np.dtype(dtype)
        self.tier = tier
        self.panel = min(PANEL, dim)
        self.sharding = sharding
        devices = 1 if sharding is None else sharding.num_devices
        self.panels = -(-dim // (self.panel * devices)) * devices
        narrow = np.float32 if self.dtype == np.float64 else np.float16
        self.stored = np.dtype(narrow) if tier is Tier.HALF else self.dtype
        # Entries of a unit row are about 1 / √dim; a power of two brings them into float16's range.
        self._factor = jnp.asarray(
            2.0 ** np.round(np.log2(dim) / 2) if self.stored == np.float16 else 1.0
        )
        self._blocks: list[Any] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Memory held by the rows, in bytes."""
        return sum(block.nbytes for block in self._blocks)

    def cut(self, vector: Any) -> Float[Array, "panels panel"]:
        """Return a flat vector in panels, zero-padded."""
        panels = cut(jnp.asarray(vector, self.dtype), panels=self.panels, panel=self.panel)
        return panels if self.sharding is None else place(panels, self.sharding)

    def append(self, panels: Float[Array, "panels panel"]) -> None:
        """Add a row, which the caller has made orthonormal to the others."""
        row = self._length % ROWS
        shape = (self.panels, ROWS, self.panel)
        if self.tier is Tier.HOST:
            if row == 0:
                self._blocks.append(np.zeros(shape, self.stored))
            self._blocks[-1][:, row] = self.on_host(panels)
        else:
            if row == 0:
                self._blocks.append(jnp.zeros(shape, self.stored, device=self.sharding))
            index = jnp.asarray(row, jnp.int32)
            self._blocks[-1] = _write(self._blocks[-1], panels, index, self._factor)
        self._length += 1

    def remove_from(
        self, panels: Float[Array, "panels panel"], length2: float
    ) -> tuple[Float[Array, "panels panel"], float]:
        """Make a vector orthogonal to the rows: a pass of classical Gram-Schmidt.

        Parameters
        ----------
        panels
            The vector ``w``.
        length2
            Its squared length.

        Returns
        -------
        ``w - Qᵀ Q w`` (without the blocks of ``Q`` where ``Q w`` is negligible) and its squared
        length.
        """
        found = jax.device_get([_coefficients(b, panels, self._factor) for b in self._blocks])
        limit = NEGLIGIBLE * float(jnp.finfo(self.dtype).eps) * length2**0.5
        large = [i for i, values in enumerate(found) if np.abs(values).max() > limit]
        for i in large:
            panels = _subtract(self._blocks[i], panels, jnp.asarray(found[i]), self._factor)
        return panels, float(inner(panels, panels)) if large else length2

    def combine(
        self, matrix: Float[np.ndarray, "outputs rows"]
    ) -> Float[np.ndarray, "outputs dim"]:
        """Return ``matrix @ Q`` on the host: the Ritz vectors."""
        padded = np.zeros((len(matrix), len(self._blocks), ROWS))
        padded.reshape(len(matrix), -1)[:, : self._length] = matrix

        def output(weights: np.ndarray) -> np.ndarray:
            parts = [
                _combine(block, jnp.asarray(some), self._factor, dtype=self.dtype)
                for block, some in zip(self._blocks, weights, strict=True)
            ]
            return self.on_host(sum(parts[1:], parts[0])).reshape(-1)[: self.dim]

        return np.stack([output(weights) for weights in padded])

    def on_host(self, array: Any) -> np.ndarray:
        """Return an array on the host, from all devices."""
        if self.sharding is not None:
            array = place(array, NamedSharding(self.sharding.mesh, PartitionSpec()))
        return np.asarray(array)

    def orthogonality(self) -> float:
        """Return ``max |Q Qᵀ - I|`` of the stored rows, summed over panels in float64.

        On the host, of the last block of rows with all others: pairs of blocks cross the bus.
        """
        worst = 0.0
        first = max(0, len(self._blocks) - 1) if self.tier is Tier.HOST else 0
        for i, left in list(enumerate(self._blocks))[first:]:
            rows = min(ROWS, self._length - i * ROWS)
            for j, right in enumerate(self._blocks[: i + 1]):
                gram = self.on_host(_gram(left, right, self._factor, dtype=self.dtype))
                columns = min(ROWS, self._length - j * ROWS)
                off = gram - np.eye(ROWS) if i == j else gram
                worst = max(worst, float(np.abs(off[:rows, :columns]).max()))
        return worst
