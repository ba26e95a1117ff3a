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
        Operator products for the estimate, those of the noise floor included; what estimates of one
        operator are compared by.
    checks
        Further products with which the operator was checked beforehand: none where its program had
        passed before. What they are compared with (a few gradients; a product of
        each part, for combinations and metrics) is in the seconds alone.
    references
        Products of the reference, in float64 or another order, for the noise floor.
    gradients
        ``products`` in gradients of the data, by counted operations; NaN where the operator is no
        derivative. Without the linearisation of data in memory, which is made once; where the
        Jacobian of the outputs is kept it takes a backward pass for each output.
    seconds
        Wall time, compilation included.
    bytes
        Held by the Krylov bases.
    """

    products: int
    checks: int
    references: int
    gradients: float
    seconds: float
    bytes: int

    def __str__(self) -> str:
        counts = [f"{self.products} products ({self.gradients:.0f} gradients)"]
        counts += [f"{self.checks} of the check"] if self.checks else []
        counts += [f"{self.references} of the reference"] if self.references else []
        return f"{' + '.join(counts)}, {self.seconds:.1f} s, {self.bytes / 2**20:.0f} MiB of basis"


class Stopwatch:
    """Measures the wall time from its making, for a :class:`Cost`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def cost(
        self, op: SymmetricOperator, products: int, nbytes: int, *, checks: int, references: int
    ) -> Cost:
        """Return what was spent since then."""
        seconds = time.perf_counter() - self._start
        gradients = products * op.gradients_per_product()
        return Cost(products, checks, references, gradients, seconds, nbytes)
