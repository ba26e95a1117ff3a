"""Derivatives against finite differences: the product of a Hessian, the slope of a loss.

Two things make them differ: kinks (ReLU, max, abs), where curvature sits that automatic
differentiation does not see, and derivative rules that are wrong or stop the gradient.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.devices import place, replicated
from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul, float64, promote
from curvlab.core.sketch import sketch
from curvlab.core.trees import inner
from curvlab.curvature.objective import Objective
from curvlab.curvature.problem import Batch, Problem
from curvlab.curvature.selection import merge, split
from curvlab.curvature.sentinel import computes_in_float64, few_examples

Sketch = Float[np.ndarray, " buckets"]

CLOSE = 0.05
"""Relative gap up to which product and finite difference agree; float32 leaves about 0.005."""

WRONG = 0.01
"""Relative gap, in float64 on two examples, that no kink explains."""

SMALL_STEPS = (1e-6, 1e-7, 1e-8)
"""Steps in float64, relative to the parameters' norm, that cross no kink."""

EXAMINED = 1 << 25
"""Most parameters that are looked at in float64, which takes the memory of twenty vectors."""


def compare_with_gradient(
    problem: Problem,
    chosen: tuple[bool, ...],
    vector: PyTree,
    image: Sketch,
) -> tuple[str, ...]:
    """Compare a Hessian product with ``(∇L(θ + hv) - ∇L(θ - hv)) / 2h``.

    With ``h = ε^(1/3) ‖θ‖ / ‖v‖``, and other steps only if that one disagrees. Where all disagree,
    two examples are differentiated in float64 at steps so small that they cross no kink (up to
    :data:`EXAMINED` parameters).

    Parameters
    ----------
    problem
        The objective.
    chosen
        For each leaf of the parameters, whether the Hessian has rows for it.
    vector, image
        ``v``, a tree like the chosen leaves, and the :func:`~curvlab.core.sketch.sketch` of the
        product with it.

    Returns
    -------
    Nothing, or a remark with the measured gap if the difference lies in kinks. Cost: two gradients
    where both agree, six otherwise.

    Raises
    ------
    ProblemError
        If the examination in float64 finds the product wrong.
    """
    relative = float(jnp.finfo(problem.layout.dtype).eps) ** (1 / 3)
    line = _Line(problem, chosen, vector)
    gaps: list[float] = []
    for factor in (1.0, 0.25, 4.0):
        gaps.append(_distance(line.quotient(problem.gradient, relative * factor), image))
        if gaps[-1] <= CLOSE:
            return ()
    with float64():
        wrong = _gap_between_kinks(problem, chosen, vector)
    if wrong is not None and wrong > WRONG:
        raise _wrong(problem, "Hessian", "gradient", wrong)
    reason = (
        "kinks, a derivative rule of your own, or rounding in the types that the code casts to"
        if wrong is None
        else "curvature in the kinks of ReLU, max or abs, which automatic differentiation does not "
        "see"
    )
    return (
        f"a finite difference of the gradient over {relative:.1g} of the parameters' norm differs "
        f"from the product by {min(gaps):.0%} of the longer one, at the first point at which this "
        f"program was checked: {reason}",
    )


def compare_with_loss(problem: Problem, chosen: tuple[bool, ...], vector: PyTree) -> None:
    """Compare the slope of the loss along ``v`` with ``(L(θ + hv) - L(θ - hv)) / 2h``.

    For matrices made of first derivatives. On two examples in float64, at steps so small that they
    cross no kink (up to :data:`EXAMINED` parameters). Cost: seven losses of two examples.

    Raises
    ------
    ProblemError
        If they disagree.
    """
    with float64():
        small = _two_examples(problem)
        if small is None:
            return
        (batch,) = small.placed()
        line = _Line(small, chosen, promote(vector))

        def loss_and_slope(relative: float) -> tuple[Float[np.ndarray, "1"], ...]:
            with small.precision(), exact_matmul():
                both = _loss_and_slope(
                    small.objective, line.at(relative), batch, small.state, line.direction
                )
            return tuple(np.atleast_1d(np.asarray(part)) for part in both)

        slope = loss_and_slope(0.0)[1]
        quotients = [
            (loss_and_slope(step)[0] - loss_and_slope(-step)[0]) / (2 * step * line.unit)
            for step in SMALL_STEPS
        ]
        wrong = _closest(quotients, slope)
    if wrong is not None and wrong > WRONG:
        raise _wrong(problem, "derivative", "loss", wrong)


def _wrong(problem: Problem, matrix: str, function: str, gap: float) -> ProblemError:
    return ProblemError(
        f"The {matrix} of {problem.objective.name} is not the derivative of its {function}: a "
        f"finite difference misses it by {gap:.0%} in float64. A derivative rule of your own "
        "(custom_jvp, custom_vjp) is wrong, or stop_gradient hides part of the function: compute "
        "what is held constant (targets) once, and pass it as data."
    )


class _Line:
    """The line ``θ + h v`` through the chosen leaves of the parameters."""

    def __init__(self, problem: Problem, chosen: tuple[bool, ...], vector: PyTree):
        self._problem, self._chosen = problem, chosen
        free, fixed = split(problem.params, chosen)
        with float64():
            lengths = [float(inner(tree, tree)) ** 0.5 for tree in (free, vector)]
        self.unit = (lengths[0] or 1.0) / lengths[1]
        with problem.precision():
            direction = jax.tree.map(lambda v, leaf: v.astype(leaf.dtype), vector, free)
            self.direction = merge(direction, jax.tree.map(jnp.zeros_like, fixed))

    def sketch(self, tree: PyTree) -> Sketch:
        """Return the sketch of the chosen leaves."""
        part, _ = split(tree, self._chosen)
        mesh = self._problem.mesh
        return sketch(part if mesh is None else place(part, replicated(mesh)))

    def quotient(self, gradient: Callable[[PyTree], PyTree], relative: float) -> Sketch:
        """Return the central difference of a gradient with ``h = relative × ‖θ‖ / ‖v‖``."""
        # In sketches, so that one gradient is held at a time.
        with self._problem.precision():
            ahead = self.sketch(gradient(self.at(relative)))
            behind = self.sketch(gradient(self.at(-relative)))
        return (ahead - behind) / (2 * relative * self.unit)

    def at(self, relative: float) -> PyTree:
        """Return the parameters at ``θ + relative × ‖θ‖ / ‖v‖ × v``."""
        return _moved(self._problem.params, self.direction, relative * self.unit)

    def product(self, map_: Callable[[PyTree, PyTree], PyTree]) -> Sketch:
        """Return the image of ``v`` under ``map_(params, direction)``."""
        return self.sketch(map_(self._problem.params, self.direction))


@jax.jit
def _moved(params: PyTree, direction: PyTree, step: Array | float) -> PyTree:
    return jax.tree.map(lambda leaf, v: leaf + jnp.asarray(step, leaf.dtype) * v, params, direction)


@partial(jax.jit, static_argnames="objective")
def _gradient_and_product(
    objective: Objective, params: PyTree, batch: Batch, state: PyTree, direction: PyTree
) -> tuple[PyTree, PyTree]:
    def gradient(point: PyTree) -> PyTree:
        return jax.grad(objective.total)(point, batch, state)

    return jax.jvp(gradient, (params,), (direction,))


@partial(jax.jit, static_argnames="objective")
def _loss_and_slope(
    objective: Objective, params: PyTree, batch: Batch, state: PyTree, direction: PyTree
) -> tuple[Array, Array]:
    return jax.jvp(lambda point: objective.total(point, batch, state), (params,), (direction,))


def _gap_between_kinks(problem: Problem, chosen: tuple[bool, ...], vector: PyTree) -> float | None:
    """Return the smallest gap on two examples in float64; None if it cannot be told."""
    small = _two_examples(problem)
    if small is None:
        return None
    (batch,) = small.placed()

    def both(params: PyTree, direction: PyTree) -> tuple[PyTree, PyTree]:
        with exact_matmul():
            return _gradient_and_product(small.objective, params, batch, small.state, direction)

    zero = jax.tree.map(jnp.zeros_like, small.params)
    line = _Line(small, chosen, promote(vector))
    image = line.product(lambda params, direction: both(params, direction)[1])
    quotients = [
        line.quotient(lambda params: both(params, zero)[0], relative) for relative in SMALL_STEPS
    ]
    return _closest(quotients, image)


def _two_examples(problem: Problem) -> Problem | None:
    """Return two examples in float64, None for many parameters or code that casts to less."""
    if problem.layout.dim > EXAMINED:
        return None
    small = replace(
        problem, batch=[few_examples(problem, 2)], weights=None, penalty=None
    ).promoted()
    if not computes_in_float64(small):
        return None
    # Somewhere beside θ: zero biases and blank inputs put units exactly on their kinks.
    return replace(small, params=_beside(small.params))


def _closest(quotients: list[Sketch], image: Sketch) -> float | None:
    """Return the smallest gap to any quotient; None if no two steps agree with each other."""
    apart = min(_distance(*pair) for pair in itertools.combinations(quotients, 2))
    if apart > WRONG:  # rounding: nearly nothing is left of the gradient of fitted examples
        return None
    return min(_distance(quotient, image) for quotient in quotients)


def _beside(params: PyTree) -> PyTree:
    """Return parameters moved by a hundredth of their root mean square (or of one, if zero)."""
    leaves, tree = jax.tree.flatten(params)
    size = float(np.sqrt(np.mean([np.mean(np.square(leaf)) for leaf in leaves]))) or 1.0
    rng = np.random.default_rng(0)
    moved = [leaf + 0.01 * size * rng.normal(size=leaf.shape) for leaf in leaves]
    return jax.tree.unflatten(tree, moved)


def _distance(found: Sketch, expected: Sketch) -> float:
    """Return ``‖found - expected‖`` relative to the longer of the two; 0 if both are zero."""
    longest = max(np.linalg.norm(found), np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected) / longest) if longest else 0.0
