"""Checks that run before any spectrum: the loss is finite, and the same every time."""

import re
from collections.abc import Hashable

import jax
import numpy as np

from curvlab.core.errors import ProblemError
from curvlab.curvature.problem import Batch, Problem

SAMPLE = 8
"""Examples on which the loss is evaluated eagerly, twice."""


_verified: set[Hashable] = set()
"""Combinations of functions and shapes that passed; like jit's cache, it only saves work."""

_float64: dict[Hashable, bool] = {}


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
    few, key = _few(problem)
    if key in _verified:
        return
    with problem.precision():
        first, second = (
            float(problem.objective.total(problem.params, few, problem.state)) for _ in range(2)
        )
    if first != second and not (np.isnan(first) and np.isnan(second)):
        raise _not_deterministic(problem, first, second)
    _verified.add(key)


def computes_in_float64(problem: Problem) -> bool:
    """Whether the loss of a promoted problem is float64 throughout, with no cast inside.

    Traces the loss of a few examples (once for each combination of functions and shapes) and looks
    for narrower floats in the program. Call it inside :func:`curvlab.core.precision.float64`.
    """
    few, key = _few(problem)
    if key not in _float64:
        try:
            program = jax.make_jaxpr(problem.objective.total)(problem.params, few, problem.state)
            _float64[key] = not re.search(r"\b(bf16|f16|f32|f8\w*)\[", str(program))
        except TypeError:  # code that insists on one dtype
            _float64[key] = False
    return _float64[key]


def _few(problem: Problem) -> tuple[Batch, Hashable]:
    """Return some examples, and a key for the functions and shapes they exercise."""
    few: Batch = jax.tree.map(lambda leaf: leaf[:SAMPLE], next(iter(problem.batches())))
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(few))
    return few, (problem.objective, problem.layout, shapes)


def _not_deterministic(problem: Problem, first: float, second: float) -> ProblemError:
    return ProblemError(
        f"Two evaluations of the mean {problem.objective.name} on the same parameters and data "
        f"gave {first!r} and {second!r}. Switch dropout off, fix the random key in `state`, and "
        "let the data iterator return the same examples every time."
    )
