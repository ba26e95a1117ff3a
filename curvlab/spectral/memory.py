"""How much memory a Krylov basis may take, and which tier follows from it."""

import os
from dataclasses import dataclass

import jax
import numpy as np

from curvlab.core.errors import OperatorError
from curvlab.spectral.basis import Tier

SHARE = 0.5
"""Share of what is free that a basis may take when nobody says how much."""

WORKING_VECTORS = 6
"""Vectors that Lanczos holds beside its basis: two of the recurrence, the product, temporaries."""


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
    def free(cls) -> "Memory":
        """Return half of what is free now; on a CPU, host and device are the same memory."""
        device = jax.local_devices()[0]
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        stats = device.memory_stats() if device.platform != "cpu" else None
        if not stats or "bytes_limit" not in stats:
            return cls(int(SHARE * available))
        left = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return cls(int(SHARE * left), int(SHARE * available))

    def tier(self, dim: int, dtype: np.dtype, rows: int) -> Tier:  # type: ignore[type-arg]
        """Return the best tier for ``rows`` vectors of length ``dim``.

        In the order device, half precision, host, none: half precision costs little accuracy,
        while rows on the host cross the bus at every step.

        Raises
        ------
        OperatorError
            If not even the working vectors fit.
        """
        vector = dim * np.dtype(dtype).itemsize
        working = WORKING_VECTORS * vector
        if working > self.device:
            raise OperatorError(
                f"Lanczos on {dim} rows needs {working / 2**20:.1f} MiB for its working vectors "
                f"alone; the memory budget is {self.device / 2**20:.1f} MiB. Raise memory=, or "
                "restrict the operator to a block of parameters."
            )
        if working + rows * vector <= self.device:
            return Tier.DEVICE
        if working + rows * vector / 2 <= self.device:
            return Tier.HALF
        if rows * vector <= self.host:
            return Tier.HOST
        return Tier.NONE
