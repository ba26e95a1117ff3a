"""Checks that run before any spectrum: the loss is finite, and the same every time."""

from collections.abc import Hashable

import jax
import numpy as np

from curvlab.core.errors import ProblemError
from curvlab.curvature.problem import Problem

SAMPLE = 8
"""Examples on which the loss is evaluated eagerly, twice."""


_verified: set[Hashable] = set()
"""Combinations of functions and shapes that passed; like jit's cache, it only saves work."""


def check_deterministic(problem: Problem) -> None:
    """Refuse a loss that is not finite or not a function of its arguments.

    The whole objective is evaluated twice through jit (which catches data that change and
    randomness at run time), and the loss of a few examples twice without it (which catches
    randomness drawn while tracing: dropout left on with a key from a counter, say). The second
    check runs once for each combination of functions and shapes.

    Raises
    ------
    ProblemError
        If the loss is NaN or infinite, or two evaluations differ.
    """
    first, second = problem.value(), problem.value()
    if not np.isfinite(first):
        raise ProblemError(
            f"The mean {problem.objective.name} is {first} at finite parameters. Look for an "
            "overflow or an invalid target in the data."
        )
    if not np.isclose(first, second, rtol=1e-5, atol=1e-12):
        raise _not_deterministic(problem, first, second)
    batch = next(iter(problem.batches()))
    few = jax.tree.map(lambda leaf: leaf[:SAMPLE], batch)
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(few))
    key = (problem.objective, problem.layout, shapes)
    if key in _verified:
        return
    with problem.precision():
        first, second = (
            float(problem.objective.total(problem.params, few, problem.state)) for _ in range(2)
        )
    if first != second and not (np.isnan(first) and np.isnan(second)):
        raise _not_deterministic(problem, first, second)
    _verified.add(key)


def _not_deterministic(problem: Problem, first: float, second: float) -> ProblemError:
    return ProblemError(
        f"Two evaluations of the mean {problem.objective.name} on the same parameters and data "
        f"gave {first!r} and {second!r}. Switch dropout off, fix the random key in `state`, and "
        "let the data iterator return the same examples every time."
    )
