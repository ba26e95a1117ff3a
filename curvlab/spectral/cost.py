"""What an estimate took, beside what it says."""

import time
from dataclasses import dataclass

from curvlab.spectral.operator import SymmetricOperator


@dataclass(frozen=True)
class Cost:
    """What was spent on an estimate.

    Attributes
    ----------
    products
        Operator products.
    gradients
        The same in gradients of the data, by counted operations; NaN where the operator is no
        derivative.
    seconds
        Wall time, compilation included.
    bytes
        Held by the Krylov bases.
    """

    products: int
    gradients: float
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.products} products ({self.gradients:.0f} gradients), {self.seconds:.1f} s, "
            f"{self.bytes / 2**20:.0f} MiB of basis"
        )


class Stopwatch:
    """Measures the wall time from its making, for a :class:`Cost`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def cost(self, op: SymmetricOperator, products: int, nbytes: int) -> Cost:
        """Return what was spent since then."""
        seconds = time.perf_counter() - self._start
        return Cost(products, products * op.gradients_per_product(), seconds, nbytes)
