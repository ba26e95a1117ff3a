"""How much memory a Krylov basis may take, and which tier follows from it."""

import os
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding

from curvlab.core.devices import spans_processes
from curvlab.core.errors import OperatorError
from curvlab.spectral.basis import ROWS, Tier, block_bytes

SHARE = 0.5
"""Share of what is free that a basis may take when nobody says how much."""

WORKING_VECTORS = 6
"""Vectors that Lanczos holds beside its basis: two of the recurrence, the product, temporaries."""

BARE_VECTORS = 4
"""Vectors that it holds without one: two, beside a product and what that needs itself.

The latter is up to two: results are there before they are added (a layer with most of the
parameters gets two contributions).
"""


@dataclass(frozen=True)
class Memory:
    """Bytes that a Krylov basis may take.

    Attributes
    ----------
    device
        On the device, working vectors included.
    host
        In the host's memory; 0 to forbid it.
    """

    device: int
    host: int = 0

    @classmethod
    def of(cls, memory: "Memory | int | None", sharding: NamedSharding | None = None) -> "Memory":
        """Take a number as bytes on the device, and ``None`` as what is free.

        Rows that are spread over processes get what is free in the one with the least: all must
        decide alike.
        """
        if memory is not None:
            return memory if isinstance(memory, Memory) else cls(int(memory))
        free = cls.free()
        if not spans_processes(sharding):
            return free
        mine = np.array([free.device >> 20, free.host >> 20], np.int32)  # there is no int64
        device, host = np.asarray(process_allgather(mine)).reshape(-1, 2).min(0)
        return cls(int(device) << 20, int(host) << 20)

    def share(self, parts: int) -> "Memory":
        """Return one of equal parts, for runs that are alive at the same time."""
        return Memory(self.device // parts, self.host // parts)

    @classmethod
    def free(cls) -> "Memory":
        """Return half of what is free now; on a CPU, host and device are the same memory."""
        device = jax.local_devices()[0]
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        stats = device.memory_stats() if device.platform != "cpu" else None
        if not stats or "bytes_limit" not in stats:
            return cls(int(SHARE * available))
        left = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return cls(int(SHARE * left), int(SHARE * available))

    def rows(self, dim: int, dtype: Any, tier: Tier) -> int:
        """Return for how many vectors of length ``dim`` a tier has room, in blocks of 16 rows."""
        vector, block = dim * np.dtype(dtype).itemsize, block_bytes(dim, dtype)
        left = max(0, self.device - WORKING_VECTORS * vector)
        room = {Tier.DEVICE: left, Tier.HALF: 2 * left, Tier.HOST: self.host}.get(tier, 0)
        return ROWS * (room // block)

    def tier(self, dim: int, dtype: Any, rows: int, *, half: bool = True) -> Tier:
        """Return the best tier for ``rows`` vectors of length ``dim``.

        In the order device, half precision (unless ``half`` is False), host, none: half precision
        costs little accuracy, while rows on the host cross the bus at every step.

        Raises
        ------
        OperatorError
            If not even the working vectors fit.
        """
        vector = dim * np.dtype(dtype).itemsize
        working = BARE_VECTORS * vector
        if working > self.device:
            raise OperatorError(
                f"Lanczos on {dim} rows needs {working} bytes for its working vectors alone; the "
                f"memory budget is {self.device} bytes. Raise memory=, or "
                "restrict the operator to a block of parameters."
            )
        for tier in (Tier.DEVICE, Tier.HALF, Tier.HOST):
            if self.device < WORKING_VECTORS * vector or (tier is Tier.HALF and not half):
                continue
            if rows <= self.rows(dim, dtype, tier):
                return tier
        return Tier.NONE
