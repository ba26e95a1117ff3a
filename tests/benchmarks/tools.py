"""What a tool can be asked in a benchmark; each one overrides what it offers.

A tool lives in its own process and environment (`worker`). Flat vectors that cross the boundary are
in the order of `problems.Arrays`. `products` counts every product of the operator, whoever asks.
"""

from typing import Any, ClassVar

import numpy as np

from tests.benchmarks.problems import Arrays

NOT_OFFERED = "not offered"


class Absent(Exception):
    """The tool does not offer this; the message is the reason that the table shows."""


class Tool:
    """Base of all tools: everything is absent until overridden."""

    absent: ClassVar[dict[str, str]] = {}

    def __init__(self, arrays: Arrays):
        self.arrays = arrays
        self.products = 0
        self.counting = False
        self.warm: set[str] = set()  # products that have been computed before

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise Absent(self.absent.get(name, NOT_OFFERED))

    @property
    def is_matrix(self) -> bool:
        """Whether the problem is an explicit symmetric matrix instead of a network."""
        return self.arrays.spec["kind"] == "matrix"

    # Methods a tool may have; all times are taken by the worker around these calls.
    #
    # loss_and_gradient() -> (float, flat gradient)
    # gradient()                     one gradient of the mean loss, evaluated
    # product(v), gauss_newton(v), empirical_fisher(v)    one product with a prepared operator
    # spectrum(order, vectors, seed) from the bare problem to a spectral measure: dict of arrays
    # ritz(budget, seed)             all eigenvalue estimates from `budget` products
    # top(count, order, seed)        the largest `count` eigenvalues, tool's own way
    # trace(budget, seed)            dict(value, low, high)


def measure(nodes: Any, weights: Any) -> dict[str, Any]:
    """Return nodes and weights of several start vectors as one measure."""
    nodes, weights = np.asarray(nodes, np.float64), np.asarray(weights, np.float64)
    return {"nodes": nodes.ravel(), "weights": (weights / len(nodes)).ravel()}
