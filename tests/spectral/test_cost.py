"""What estimates say they spent is what they spent."""

from typing import Any

import jax
import numpy as np
import pytest

from curvlab.spectral import (
    check,
    diagonal,
    eigenpairs,
    expectation_trace,
    frobenius_norm,
    log_determinant,
    slq,
    trace,
    xnystrace,
    xtrace,
)
from curvlab.spectral.operator import SymmetricOperator

KEY = jax.random.key(3)
DIM = 400


class Counted(SymmetricOperator):
    """A diagonal matrix that counts its products and those of its reference."""

    def __init__(self, dtype: Any = np.float32, dim: int = DIM):
        super().__init__(dim, dtype, "counted", positive_semidefinite=True)
        self.values = np.geomspace(1e-3, 1, dim).astype(dtype)
        self.calls = 0
        self.twin: Any = None if dtype == np.float64 else Counted(np.float64, dim)

    def product(self, vector) -> Any:
        self.calls += 1
        return self.values * vector

    def reference(self):
        return self.twin


PAIRS = eigenpairs(Counted(), KEY, largest=3, smallest=0, tolerance=1e-4)

ESTIMATORS: dict[str, Any] = {
    "eigenpairs": lambda op: eigenpairs(op, KEY, largest=2, smallest=1, order=20),
    "eigenpairs, verified": lambda op: eigenpairs(op, KEY, largest=2, smallest=0, verify=15),
    "slq": lambda op: slq(op, KEY, order=8, vectors=2),
    "slq, deflated": lambda op: slq(op, KEY, order=8, deflate=PAIRS),
    "slq without a basis": lambda op: slq(op, KEY, order=8, memory=14 * 4 * DIM),
    "slq of a target": lambda op: slq(op, KEY, tolerance=0.3),
    "slq of all": lambda op: slq(op, KEY, tolerance=0.01),
    "trace": lambda op: trace(op, KEY),
    "trace of pairs": lambda op: trace(op, KEY, deflate=PAIRS),
    "trace of a target": lambda op: trace(op, KEY, tolerance=0.1, vectors=8),
    "trace of all": lambda op: trace(op, KEY, tolerance=1e-6),
    "xtrace": lambda op: xtrace(op, KEY),
    "xnystrace": lambda op: xnystrace(op, KEY),
    "diagonal": lambda op: diagonal(op, KEY),
    "diagonal of pairs": lambda op: diagonal(op, KEY, deflate=PAIRS, noise_floor=1e-7),
    "diagonal of all": lambda op: diagonal(op, KEY, vectors=DIM),
    "frobenius_norm": lambda op: frobenius_norm(op, KEY),
    "frobenius_norm of all": lambda op: frobenius_norm(op, KEY, vectors=DIM),
    "expectation_trace": lambda op: expectation_trace(op, np.cos, KEY, order=5, vectors=8),
    "log_determinant": lambda op: log_determinant(op, KEY, shift=0.1, order=5, vectors=8),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_product_is_counted_where_it_belongs(name):
    op = Counted()
    found = ESTIMATORS[name](op)
    cost = found.cost
    assert (cost.checks, cost.products) == (3, op.calls - 3)
    assert cost.references == op.twin.calls
    assert (cost.references > 0) == (not name.endswith((" of pairs", "deflated")))
    assert cost.products == found.matvecs
    # The second time the operator has passed, and the estimate is the same.
    again = ESTIMATORS[name](op).cost
    assert (again.checks, again.products) == (0, cost.products)
    assert op.calls == 3 + 2 * cost.products


def test_what_was_spent_is_said():
    op = Counted()
    said = str(slq(op, KEY, order=8).cost)
    assert said.startswith("12 products (nan gradients) + 3 of the check + 4 of the reference, ")
    assert "of the check" not in str(slq(op, KEY, order=8).cost)
    assert "of the reference" not in str(trace(op, KEY, noise_floor=1e-7).cost)
    alone: Any = trace(Counted(np.float64), KEY)  # products without a second opinion
    assert alone.cost.references == 0
    assert "(5 products, 2 of the reference)" in str(check(op, KEY))
