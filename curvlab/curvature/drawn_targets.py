"""Problems whose targets are drawn from the network's own outputs, once, and kept as data."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.objectives import output_perturbation
from curvlab.objectives.perturbation import perturbed_target

Draw = Callable[[Array, Array], Array]


@partial(jax.jit, static_argnames=("draw", "objective"))
def _draw(
    draw: Draw,
    objective: Objective,
    params: PyTree,
    batch: Batch,
    state: PyTree,
    key: Array,
    start: Array,
) -> Array:
    outputs = objective.outputs(params, batch.inputs, state)
    # A key for each example, by its place in the data: how they are batched changes nothing.
    places = start + jnp.arange(batch.weights.shape[0])
    return jax.vmap(draw)(jax.vmap(partial(jax.random.fold_in, key))(places), outputs)


def draw_targets(problem: Problem, key: Array, draw: Draw, loss: Callable[..., Array]) -> Problem:
    """Return a problem with targets drawn from the outputs at the present parameters.

    Parameters
    ----------
    problem
        Predict, parameters and inputs. Streamed data draw the same targets in every pass, if the
        examples come in the same order (a change of order is found when an operator is made).
    key
        Key of the draw; the same key gives the same noise at every checkpoint.
    draw
        ``draw(key, output) -> target`` for one example, compared by value.
    loss
        Loss of the new problem.

    Raises
    ------
    ProblemError
        If the problem has no prediction, or its outputs are not one array.
    """
    if problem.predict is None:
        raise ProblemError(
            "Targets drawn from outputs need a prediction; this problem was made by "
            "Problem.from_loss. Use Problem(predict, loss, ...)."
        )
    require_one_output(problem)

    def redrawn() -> Iterator[Any]:
        start = 0
        for batch in problem.batches():
            with problem.precision(), exact_matmul():
                targets = _draw(
                    draw,
                    problem.objective,
                    problem.params,
                    batch,
                    problem.state,
                    key,
                    jnp.asarray(start, jnp.int32),
                )
            yield batch.inputs, targets, batch.weights
            start += batch.weights.size

    batches = redrawn if problem.streamed else list(redrawn())
    return replace(problem, loss=loss, batch=batches, weights=None)


def require_one_output(problem: Problem) -> tuple[int, ...]:
    """Return the shape of one example's output.

    Raises
    ------
    ProblemError
        If the outputs are not one array with a leading example axis.
    """
    batch = next(iter(problem.batches()))
    with problem.precision():
        outputs = jax.eval_shape(
            problem.objective.outputs, problem.params, batch.inputs, problem.state
        )
    shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
    examples = batch.weights.size
    if not hasattr(outputs, "shape") or not shapes[0] or shapes[0][0] != examples:
        raise ProblemError(
            f"This needs outputs in one array with an axis of {examples} examples in front; "
            f"predict returns {shapes}. Choose one output inside predict."
        )
    return tuple(shapes[0][1:])


def perturb_outputs(problem: Problem, key: Array) -> Problem:
    """Return the output-perturbation problem of a checkpoint.

    ``l(θ) = (1/n) Σ_i mean_c (f_θ(x_i)_c - f_θ₀(x_i)_c + ε_ic)²`` with ``ε_ic ~ N(0, 1)``, mean
    over examples and outputs, ``θ₀`` the problem's parameters and the targets ``f_θ₀ - ε`` stored
    as data.

    Parameters
    ----------
    problem
        Predict, parameters and inputs; its loss and targets are replaced.
    key
        Key of ``ε``. The same key gives the same ``ε`` at every checkpoint on the same data.

    Returns
    -------
    A problem whose expected Hessian over ``ε`` is its Gauss-Newton matrix. One forward pass.

    Raises
    ------
    ProblemError
        If the problem has no prediction, or its outputs are not one array.

    References
    ----------
    Lyle et al. 2023, *Understanding plasticity in neural networks*, case study 2.
    """
    return draw_targets(problem, key, perturbed_target, output_perturbation)
