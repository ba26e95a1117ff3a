"""The loss at a finite distance: exact where it is known, beside derivatives that may miss some."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import ProblemError
from curvlab.core.precision import float64
from curvlab.curvature import Batches, Problem, loss_along, loss_plane
from tests import problems

RNG = np.random.default_rng(0)
RADII = np.array([0.05, 0.2, 1.0])


def half_square(outputs, targets):
    return 0.5 * ((outputs - targets) ** 2).sum(axis=1)


def linear(params, inputs):
    return inputs @ params["weight"] + params["bias"]


def linear_problem(penalty=None):
    """Return a quadratic objective, its data, and its Hessian by hand."""
    inputs, targets = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 2))
    params = {"bias": RNG.normal(size=2), "weight": RNG.normal(size=(4, 2))}
    extended = np.concatenate([np.ones((30, 1)), inputs], axis=1)  # bias first, as in the vector
    matrix = np.kron(extended.T @ extended / 30, np.eye(2))
    single = [jax.tree.map(np.float32, tree) for tree in (params, inputs, targets)]
    return Problem(linear, half_square, single[0], (single[1], single[2]), penalty=penalty), matrix


def test_a_quadratic_loss_is_what_it_predicts() -> None:
    problem, matrix = linear_problem(lambda p: 0.05 * jnp.sum(p["weight"] ** 2))
    direction = RNG.normal(size=10)
    unit = direction / np.linalg.norm(direction)
    found = loss_along(problem, 7 * direction, RADII[::-1])
    np.testing.assert_array_equal(found.positions, [-1, -0.2, -0.05, 0, 0.05, 0.2, 1])
    penalty = 0.1 * (unit[2:] ** 2).sum()
    assert found.curvature == pytest.approx(unit @ matrix @ unit + penalty, rel=1e-5)
    assert found.value == pytest.approx(problem.value(), rel=1e-6)
    np.testing.assert_allclose(found.losses, found.prediction, rtol=1e-6)
    np.testing.assert_allclose(found.finite_curvature, found.curvature, rtol=2e-4)
    assert (np.abs(found.gap) <= found.finite_curvature_error).all()
    assert 0 < found.noise < 1e-5


def test_slope_and_losses_agree_with_the_problem_moved_there() -> None:
    problem = problems.problem()
    step = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), problem.params)
    length = np.linalg.norm(problems.flat(step))
    found = loss_along(problem, step, [0.5])
    slope = problems.flat(problem.gradient()) @ problems.flat(step) / length
    assert found.slope == pytest.approx(slope, rel=1e-5)
    for position, loss in zip(found.positions, found.losses, strict=True):
        there = jax.tree.map(lambda p, s, t=position: p + t / length * s, problem.params, step)
        assert loss == pytest.approx(replace(problem, params=there).value(), rel=1e-6)


def test_the_gap_of_a_smooth_loss_vanishes_like_the_squared_radius() -> None:
    with float64():
        problem = problems.problem().promoted()
        found = loss_along(problem, RNG.normal(size=problem.layout.dim), [0.1, 0.2, 0.4])
    assert (np.abs(found.gap) > 100 * found.finite_curvature_error).all()
    np.testing.assert_allclose(found.gap[1:] / found.gap[:-1], 4, rtol=0.05)


def test_curvature_in_kinks_is_the_gap() -> None:
    # f = mean |θ - y| over a fine grid of y: a parabola within the grid, of zero second derivative.
    grid = np.linspace(-1, 1, 2000, dtype=np.float32)
    problem = Problem(
        lambda params, inputs: params["at"] + 0 * inputs,
        lambda outputs, targets: jax.nn.relu(outputs - targets) + jax.nn.relu(targets - outputs),
        {"at": jnp.zeros(())},
        (np.zeros_like(grid), grid),
    )
    found = loss_along(problem, {"at": jnp.ones(())}, [0.1, 0.3, 0.5])
    assert found.curvature == 0
    np.testing.assert_allclose(found.gap, 1, rtol=1e-2)
    assert (found.gap > 10 * found.finite_curvature_error).all()


def test_noise_is_that_of_float32() -> None:
    # A constant far above the differences: float32 cannot represent them.
    problem, _ = linear_problem()
    lifted = replace(problem, loss=lambda outputs, targets: half_square(outputs, targets) + 1e4)
    direction = RNG.normal(size=10)
    plain, found = (loss_along(each, direction, [0.01, 0.1]) for each in (problem, lifted))
    assert 1e-6 < found.noise < 1e-3
    assert plain.noise < found.noise / 100
    assert (np.abs(found.gap) <= found.finite_curvature_error).all()


def test_batching_changes_nothing_and_streams_are_read_once() -> None:
    problem = problems.problem()
    inputs, targets = problems.digits(100)
    parts = [
        (inputs[:37], targets[:37]),
        (inputs[37:64], targets[37:64]),
        (inputs[64:], targets[64:]),
    ]
    direction = RNG.normal(size=problem.layout.dim)
    plain = loss_along(problem, direction, RADII)
    listed = loss_along(replace(problem, batch=parts), direction, RADII)
    np.testing.assert_allclose(listed.losses, plain.losses, rtol=1e-6, atol=1e-7)
    weights = np.concatenate([np.ones(100, np.float32), np.zeros(5, np.float32)])
    bad = np.full((5, 64), np.nan, np.float32)
    padded = (np.concatenate([inputs, bad]), np.concatenate([targets, targets[:5]]))
    weighted = loss_along(replace(problem, batch=padded, weights=weights), direction, RADII)
    np.testing.assert_allclose(weighted.losses, plain.losses, rtol=1e-6, atol=1e-7)

    readings = []

    def stream():
        readings.append(1)
        return iter(parts)

    streamed = replace(problem, batch=stream)
    streamed.value()  # what every first use reads
    readings.clear()
    plane = loss_plane(streamed, direction, direction[::-1], RADII)
    assert len(readings) == 1
    np.testing.assert_allclose(plane.losses[3], plain.losses, rtol=1e-6, atol=1e-7)


def test_all_points_and_checkpoints_share_one_compilation(compilations) -> None:
    problem, _ = linear_problem()
    moved = replace(problem, params=jax.tree.map(lambda leaf: 2 * leaf, problem.params))
    loss_along(problem, np.ones(10), RADII)
    compilations.clear()
    loss_along(moved, np.arange(10), np.geomspace(0.01, 1, 5))
    assert not compilations


def test_a_plane_between_checkpoints_passes_through_their_losses() -> None:
    problem = problems.problem()
    others = [problems.init(problems.SIZES, seed) for seed in (0, 1)]
    steps = [problems.flat(other) - problems.flat(problem.params) for other in others]
    first = np.linalg.norm(steps[0])
    along = steps[1] @ steps[0] / first
    across = np.linalg.norm(steps[1] - along * steps[0] / first)
    plane = loss_plane(problem, steps[0], steps[1], np.array([first, abs(along), across]))
    assert plane.losses.shape == (7, 7)
    np.testing.assert_allclose(plane.basis @ plane.basis.T, np.eye(2), atol=1e-12)

    def at(x, y):
        column, row = (np.abs(plane.positions - each).argmin() for each in (x, y))
        return plane.losses[row, column]

    assert at(0, 0) == pytest.approx(problem.value(), rel=1e-6)
    for other, expected in zip(others, [(first, 0), (along, across)], strict=True):
        x, y, off = plane.project(other)
        assert (x, y) == pytest.approx(expected, abs=1e-6)
        assert off < 1e-5
        assert at(x, y) == pytest.approx(replace(problem, params=other).value(), rel=1e-5)
    assert at(along, -across) != pytest.approx(at(along, across), rel=1e-2)
    off_plane = plane.centre + 3 * plane.basis[1] + orthogonal(plane.basis, length=2)
    assert plane.project(off_plane) == pytest.approx((0, 3, 2), abs=1e-6)


def orthogonal(basis, *, length):
    vector = RNG.normal(size=basis.shape[1])
    vector -= basis.T @ (basis @ vector)
    return length * vector / np.linalg.norm(vector)


def test_scalar_losses_and_streams_work() -> None:
    problem, _ = linear_problem()
    assert problem.source.listed is not None
    inputs, targets = problem.source.listed[0].inputs, problem.source.listed[0].targets
    scalar = Problem.from_loss(
        lambda params, batch: half_square(linear(params, batch[0]), batch[1]).mean(),
        problem.params,
        (inputs, targets),
    )
    streamed = replace(problem, batch=Batches(np.asarray(inputs), np.asarray(targets), size=8))
    direction = RNG.normal(size=10)
    expected = loss_along(problem, direction, RADII).losses
    for other in (scalar, streamed):
        np.testing.assert_allclose(loss_along(other, direction, RADII).losses, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (np.zeros(10), "positive finite length, got 0"),
        (np.full(10, np.nan), "positive finite length, got nan"),
        (np.ones(9), "flat vector of 10 entries .* got shape"),
        (np.ones((5, 2)), "got shape"),
        ({"weight": np.ones((4, 2))}, "zeros for the other"),
        ({"weight": np.ones((2, 4)), "bias": np.ones(2)}, "a tree of 2 arrays with 10 entries"),
    ],
)
def test_directions_that_are_none_are_refused(direction, message) -> None:
    problem, _ = linear_problem()
    with pytest.raises(ProblemError, match=message):
        loss_along(problem, direction, RADII)


@pytest.mark.parametrize(
    ("radii", "message"),
    [
        ([], "list of finite"),
        (np.ones((1, 1)), "list of finite"),
        ([np.inf], "finite"),
        ([0.0, 1], "positive"),
    ],
)
def test_radii_that_are_none_are_refused(radii, message) -> None:
    problem, _ = linear_problem()
    with pytest.raises(ProblemError, match=message):
        loss_along(problem, np.ones(10), radii)


def test_parallel_directions_span_no_plane() -> None:
    problem, _ = linear_problem()
    with pytest.raises(ProblemError, match="parallel"):
        loss_plane(problem, np.ones(10), -2 * np.ones(10), RADII)
