"""The loss itself along a direction or on a plane, beside what derivatives at the point predict.

Derivatives describe an infinitesimal step. Automatic differentiation does not see the curvature in
the kinks of a ReLU, and training takes steps of finite length: here the loss is evaluated at them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.devices import place, replicated
from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul, float64
from curvlab.core.trees import TreeLayout
from curvlab.curvature.hessian import Hessian
from curvlab.curvature.objective import batch_losses
from curvlab.curvature.problem import Problem
from curvlab.curvature.sentinel import computes_in_float64

PARALLEL = 1e-4
"""Angle in radians below which two directions span no plane; float32 differences leave 1e-6."""


@dataclass(frozen=True, eq=False)
class LossSlice:
    """The loss at ``θ + t u`` for ``t = -r, 0, r`` and every radius ``r``, with ``‖u‖ = 1``.

    Attributes
    ----------
    radii
        Distances ``r`` in parameter space, ascending.
    positions
        ``t`` of each loss: ``-radii`` backwards, zero, ``radii``.
    losses
        ``L(θ + t u)``, a mean over examples summed in float64.
    slope, curvature
        ``gᵀu`` and ``uᵀHu`` by automatic differentiation at ``θ``.
    noise
        Rounding error of a loss: the largest difference from a float64 evaluation at the point and
        at the smallest radius (from another order of the examples, if there is no float64). NaN for
        scalar losses without float64.
    estimand
        What is averaged over what.
    """

    radii: Float[np.ndarray, " radii"]
    positions: Float[np.ndarray, " points"]
    losses: Float[np.ndarray, " points"]
    slope: float
    curvature: float
    noise: float
    estimand: str

    @property
    def value(self) -> float:
        """``L(θ)``."""
        return float(self.losses[len(self.radii)])

    @property
    def prediction(self) -> Float[np.ndarray, " points"]:
        """``L(θ) + t gᵀu + t² uᵀHu / 2`` at the positions."""
        return self.value + self.positions * (self.slope + self.positions * self.curvature / 2)

    @property
    def finite_curvature(self) -> Float[np.ndarray, " radii"]:
        """``(L(θ + r u) + L(θ - r u) - 2 L(θ)) / r²`` at each radius."""
        middle = len(self.radii)
        sides = self.losses[middle + 1 :] + self.losses[:middle][::-1]
        return (sides - 2 * self.value) / self.radii**2

    @property
    def finite_curvature_error(self) -> Float[np.ndarray, " radii"]:
        """``4 noise / r²``: how far rounding can move :attr:`finite_curvature`."""
        return 4 * self.noise / self.radii**2

    @property
    def gap(self) -> Float[np.ndarray, " radii"]:
        """Finite curvature minus ``uᵀHu`` at each radius.

        For a smooth loss it vanishes like ``r²``. What remains at the smallest radii, beyond
        :attr:`finite_curvature_error`, is curvature that automatic differentiation does not see.
        """
        return self.finite_curvature - self.curvature


@dataclass(frozen=True, eq=False)
class LossPlane:
    """The loss at ``θ + x u + y w`` on a square grid, with orthonormal ``u`` and ``w``.

    Attributes
    ----------
    positions
        Coordinates of the grid along either direction, in units of parameter distance.
    losses
        One row for each ``y``, one column for each ``x``.
    centre
        ``θ`` as a flat vector.
    basis
        ``u`` and ``w``: the first direction, and what of the second is orthogonal to it.
    layout
        How parameters lie in flat vectors.
    estimand
        What is averaged over what.
    """

    positions: Float[np.ndarray, " points"]
    losses: Float[np.ndarray, "points points"]
    centre: Float[np.ndarray, " dim"]
    basis: Float[np.ndarray, "2 dim"]
    layout: TreeLayout
    estimand: str

    def project(self, params: PyTree) -> tuple[float, float, float]:
        """Return where other parameters lie: ``x``, ``y`` and their distance from the plane.

        Unless that distance is zero, their loss is not the one that the plane shows there.

        Raises
        ------
        ProblemError
            If they are not parameters of the same network.
        """
        step = _flatten(self.layout, params, "parameters") - self.centre
        x, y = self.basis @ step
        return float(x), float(y), float(np.linalg.norm(step - np.array([x, y]) @ self.basis))


def loss_along(
    problem: Problem, direction: PyTree, radii: Sequence[float] | Array | np.ndarray
) -> LossSlice:
    """Evaluate the loss on both sides of the parameters along a direction.

    Parameters
    ----------
    problem
        The objective and the point ``θ``. Its ``state`` is held constant.
    direction
        A flat vector (an eigenvector) or a tree like the parameters (an update, the difference to
        another checkpoint), of any length; it is normalised to ``u``.
    radii
        Positive distances ``‖δθ‖``; each is taken on both sides.

    Returns
    -------
    Losses, their quadratic prediction, and the curvature at each radius beside ``uᵀHu``. Cost: two
    forward passes for each radius and one for ``θ``, three in float64 for the noise, one gradient,
    one product with the Hessian. Streamed data are read once for all radii.

    Raises
    ------
    ProblemError
        If the direction is zero, not finite or not like the parameters, or a radius not positive.
    """
    distances, unit = _distances(radii), _unit(problem, direction)
    positions = _both_sides(distances)
    losses = _losses(problem, unit[None], positions[:, None])
    middle = len(distances)
    near = slice(middle - 1, middle + 2)
    return LossSlice(
        distances,
        positions,
        losses,
        slope=float(_flatten(problem.layout, _whole(problem, problem.gradient())) @ unit),
        curvature=float(np.asarray(Hessian(problem).matvec(unit), np.float64) @ unit),
        noise=_noise(problem, unit, positions[near], losses[near]),
        estimand=problem.estimand,
    )


def loss_plane(
    problem: Problem,
    first: PyTree,
    second: PyTree,
    radii: Sequence[float] | Array | np.ndarray,
) -> LossPlane:
    """Evaluate the loss on the plane that two directions span through the parameters.

    Parameters
    ----------
    problem
        The objective and the point ``θ``. Its ``state`` is held constant.
    first, second
        Flat vectors or trees like the parameters, of any length: two eigenvectors, or differences
        to two other checkpoints. They are made orthonormal, the first one keeping its direction.
    radii
        Positive distances; the grid has them on both sides of ``θ`` in both directions.

    Returns
    -------
    The losses with the axes. Cost: ``(2 radii + 1)²`` forward passes. Streamed data are read once.

    Raises
    ------
    ProblemError
        If a direction is zero, not finite or not like the parameters, both are parallel, or a
        radius is not positive.
    """
    distances, u, v = _distances(radii), _unit(problem, first), _unit(problem, second)
    rest = v - (v @ u) * u
    angle = float(np.linalg.norm(rest))
    if angle < PARALLEL:
        raise ProblemError(
            f"A plane needs two different directions; these are parallel up to {angle:.1g} "
            "radians. Choose another second direction, or use loss_along."
        )
    rest -= (rest @ u) * u  # the first pass leaves rounding, which a small angle magnifies
    basis = np.stack([u, rest / np.linalg.norm(rest)])
    positions = _both_sides(distances)
    y, x = np.meshgrid(positions, positions, indexing="ij")
    losses = _losses(problem, basis, np.stack([x.ravel(), y.ravel()], axis=1))
    return LossPlane(
        positions,
        losses.reshape(x.shape),
        _flatten(problem.layout, _whole(problem, problem.params)),
        basis,
        problem.layout,
        problem.estimand,
    )


def _losses(
    problem: Problem,
    basis: Float[np.ndarray, "directions dim"],
    coordinates: Float[np.ndarray, "points directions"],
) -> Float[np.ndarray, " points"]:
    """Return ``L(θ + coordinates · basis)`` of each point, reading the data once."""
    totals = np.zeros(len(coordinates))
    with problem.precision(), exact_matmul():
        axes = jnp.asarray(basis, problem.layout.dtype)
        axes = axes if problem.mesh is None else place(axes, replicated(problem.mesh))

        def at(point: Float[np.ndarray, " directions"]) -> PyTree:
            return _moved(problem.params, axes, jnp.asarray(point, axes.dtype), problem.layout)

        for batch in problem.placed():
            weights = np.asarray(_whole(problem, batch.weights), np.float64)
            for index, point in enumerate(coordinates):
                losses = batch_losses(problem.objective, at(point), batch, problem.state)
                # Differences between points are tiny: in float32 the sum would drown them.
                totals[index] += weights @ np.asarray(_whole(problem, losses), np.float64)
        means = totals / problem.total_weight
        if problem.penalty is not None:
            means += [float(problem.penalty(at(point))) for point in coordinates]
    return means


@partial(jax.jit, static_argnames="layout")
def _moved(
    params: PyTree, axes: Float[Array, "directions dim"], point: Array, layout: TreeLayout
) -> PyTree:
    return layout.unravel(layout.ravel(params) + point @ axes)


def _noise(
    problem: Problem,
    unit: Float[np.ndarray, " dim"],
    positions: Float[np.ndarray, " points"],
    losses: Float[np.ndarray, " points"],
) -> float:
    """Return the largest difference of losses from those of the reference."""
    reference = _reference(problem)
    if reference is problem:
        return float("nan")
    return float(np.abs(_losses(reference, unit[None], positions[:, None]) - losses).max())


def _reference(problem: Problem) -> Problem:
    """Return the problem in float64, or where that does not help with examples reordered."""
    if problem.layout.dtype != np.float64:
        with float64():
            promoted = problem.promoted()
            if computes_in_float64(promoted):
                return promoted
    return problem.reordered()


def _distances(radii: Sequence[float] | Array | np.ndarray) -> Float[np.ndarray, " radii"]:
    distances = np.asarray(radii, np.float64)
    if distances.ndim != 1 or not distances.size or not (np.isfinite(distances).all()):
        raise ProblemError(
            f"radii must be a list of finite distances, got shape {distances.shape}. Pass for "
            "example numpy.geomspace(0.01, 1, 9)."
        )
    if not (distances > 0).all():
        raise ProblemError(
            f"radii must be positive, got {distances.min():g}. Zero and the negative side are "
            "added: leave them out."
        )
    return np.unique(distances)


def _both_sides(distances: Float[np.ndarray, " radii"]) -> Float[np.ndarray, " points"]:
    return np.concatenate([-distances[::-1], [0.0], distances])


def _unit(problem: Problem, direction: PyTree) -> Float[np.ndarray, " dim"]:
    """Return a direction as a flat vector of length one."""
    vector = _flatten(problem.layout, direction, "direction")
    length = float(np.linalg.norm(vector))
    if not (np.isfinite(length) and length > 0):
        raise ProblemError(
            f"A direction needs a positive finite length, got {length}. Two equal checkpoints have "
            "no direction between them."
        )
    return vector / length


def _flatten(
    layout: TreeLayout, tree: PyTree, what: str = "parameters"
) -> Float[np.ndarray, " dim"]:
    """Return a flat vector, or a tree like the parameters, as a float64 vector on the host."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = tuple(np.shape(leaf) for leaf in leaves)
    if shapes != ((layout.dim,),) and (treedef, shapes) != (layout.treedef, layout.shapes):
        found = f"shape {shapes[0]}" if len(shapes) == 1 else f"a tree of {len(shapes)} arrays"
        raise ProblemError(
            f"The {what} must be a flat vector of {layout.dim} entries or a tree like the "
            f"parameters ({len(layout.shapes)} arrays), got {found} with "
            f"{sum(map(np.size, leaves))} entries. A vector of a block needs zeros for the other "
            "parameters."
        )
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


def _whole(problem: Problem, tree: PyTree) -> PyTree:
    """Return arrays that every process holds whole, and so can be read on the host."""
    return tree if problem.mesh is None else place(tree, replicated(problem.mesh))
