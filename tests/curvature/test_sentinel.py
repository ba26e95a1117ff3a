"""What makes a spectrum meaningless is found before the first Lanczos step, and named."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, ProblemError
from curvlab.curvature import EmpiricalFisher, GaussNewton, Hessian, Problem
from curvlab.curvature.sentinel import remarks
from curvlab.objectives import cross_entropy
from curvlab.spectral import FunctionOperator
from curvlab.spectral.soundness import verify
from tests import problems

KEY = jax.random.key(0)
INPUTS, TARGETS = problems.digits(40)
PARAMS = problems.trained(60)


class Network:
    """The MLP of the other tests with any hidden unit; compared by identity."""

    def __init__(self, unit):
        self.unit = unit

    def __call__(self, params, inputs):
        hidden = inputs
        for weight, bias in params[:-1]:
            hidden = self.unit(hidden @ weight + bias)
        return hidden @ params[-1][0] + params[-1][1]


def hessian(unit=jnp.tanh, loss=cross_entropy, **changes):
    settings: dict[str, Any] = {"batch": (INPUTS, TARGETS), "params": PARAMS, **changes}
    return Hessian(Problem(Network(unit), loss, **settings))


def test_blocks_with_penalty_agree_with_the_difference_of_their_gradient():
    op = hessian(penalty=lambda params: 0.1 * sum(jnp.sum(w**2) for w, _ in params))
    assert verify(op.block("1"), KEY).notes == ()


def test_kinks_are_a_remark_with_the_measured_gap():
    op = hessian(jax.nn.relu)
    (note,) = verify(op, KEY).notes
    assert "kinks of ReLU" in note
    percent = int(note.split("product by ")[1].split("%")[0])
    # The same difference, by hand.
    vector = np.asarray(jax.random.normal(jax.random.key(7), (op.dim,)), np.float64)
    layout = op.layout
    point = np.asarray(layout.ravel(PARAMS), np.float64)
    step = np.finfo(np.float32).eps ** (1 / 3) * np.linalg.norm(point) / np.linalg.norm(vector)
    ends = [
        np.asarray(
            layout.ravel(op.problem.gradient(layout.unravel(jnp.asarray(end, jnp.float32)))),
            np.float64,
        )
        for end in (point + step * vector, point - step * vector)
    ]
    product = np.asarray(op.matvec(vector.astype(np.float32)), np.float64)
    quotient = (ends[0] - ends[1]) / (2 * step)
    longer = max(np.linalg.norm(quotient), np.linalg.norm(product))
    assert percent / 100 == pytest.approx(np.linalg.norm(quotient - product) / longer, abs=0.25)
    assert percent > 10


@jax.custom_jvp
def wrong_slope(x):
    return jnp.sin(x)


@wrong_slope.defjvp
def _(primals, tangents):
    return jnp.sin(primals[0]), tangents[0] * jax.lax.stop_gradient(jnp.cos(primals[0]))


def test_derivatives_that_are_none_of_the_function():
    with pytest.raises(ProblemError, match=r"not the derivative of its gradient.*\d+%"):
        verify(hessian(wrong_slope), KEY)


@pytest.mark.parametrize("matrix", [GaussNewton, EmpiricalFisher])
def test_first_derivatives_that_are_none_of_the_function(matrix):
    @jax.custom_jvp
    def doubled(x):
        return jnp.sin(x)

    doubled.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), 2 * tangents[0]))
    problem = Problem(Network(doubled), cross_entropy, PARAMS, (INPUTS, TARGETS))
    with pytest.raises(ProblemError, match=r"derivative .* not the derivative of its loss.*\d+%"):
        verify(matrix(problem), KEY)
    kinked = Problem(Network(jax.nn.relu), cross_entropy, PARAMS, (INPUTS, TARGETS))
    assert not any("difference" in note for note in verify(matrix(kinked), KEY).notes)


@pytest.mark.long
def test_targets_computed_inside_the_loss():
    def temporal_difference(outputs, targets):
        bootstrapped = jax.lax.stop_gradient(0.9 * jax.nn.logsumexp(outputs, axis=1))
        return (outputs[:, 0] - bootstrapped) ** 2

    with pytest.raises(ProblemError, match=r"stop_gradient.*\(targets\) once"):
        verify(hessian(loss=temporal_difference), KEY)


def test_normalisation_on_batch_statistics():
    def normalised(x):
        return jnp.tanh((x - x.mean(0)) / (x.std(0) + 1e-3))

    with pytest.raises(ProblemError, match=r"depends on the others in its batch.*running"):
        hessian(normalised)


@pytest.mark.parametrize("coupled", [lambda x: jnp.cumsum(x, 0), lambda x: x - x[:1]])
def test_examples_that_depend_on_earlier_ones(coupled):
    with pytest.raises(ProblemError, match=r"depends on the others in its batch"):
        hessian(coupled)


def test_normalisation_of_each_example_passes():
    def normalised(x):
        return jnp.tanh((x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-3))

    hessian(normalised)


def test_casts_and_quick_products_are_reported():
    def low(x):
        return jnp.tanh(x.astype(jnp.bfloat16)).astype(jnp.float32)

    found = verify(hessian(low), KEY)
    assert any("computes in bf16 inside" in note for note in found.notes)
    assert found.noise_floor > 1e-6  # the casts, which no other order of summation shows

    def quick(x):
        return jnp.tanh(jnp.dot(x, jnp.eye(32), precision="default"))

    (note,) = remarks(hessian(quick).problem)
    assert "2 matrix products of the loss set a precision of their own" in note


def test_a_rule_for_one_direction_only_is_explained():
    @jax.custom_vjp
    def unit(x):
        return jnp.tanh(x)

    unit.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))
    problem = Problem(Network(unit), cross_entropy, PARAMS, (INPUTS, TARGETS))
    with pytest.raises(ProblemError, match="custom_jvp"):
        GaussNewton(problem).matvec(np.ones(problem.layout.dim))


def test_the_example_that_is_not_finite_is_named():
    spoilt = INPUTS.copy()
    spoilt[25, 3] = np.nan
    parts = [(spoilt[:20], TARGETS[:20]), (spoilt[20:], TARGETS[20:])]
    for batch in (parts, lambda: iter(parts)):
        with pytest.raises(ProblemError, match=r"In batch 1, 1 of 20 .*example 5 \(nan\): the inp"):
            hessian(batch=batch)


class Augmented:
    """Data that can be iterated again, as a loader can, and are others every time."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return self.batches()


@pytest.mark.parametrize("loader", [lambda batches: batches, Augmented], ids=["function", "object"])
def test_the_batch_that_changed_is_named(loader):
    draws = itertools.count()

    def changing():
        for index in range(3):
            part = slice(10 * index, 10 * index + 10)
            noise = 1e-6 * next(draws) if index == 1 else 0.0
            yield INPUTS[part] + np.float32(noise), TARGETS[part]

    with pytest.raises(ProblemError, match=r"differ from batch 1 on.*no random augmentation"):
        hessian(batch=loader(changing))


def test_an_iterator_that_is_spent_after_one_reading():
    once = iter([(INPUTS, TARGETS)])
    with pytest.raises(ProblemError, match="can be read only once"):
        hessian(batch=once)
    with pytest.raises(ProblemError, match="can be read only once"):
        hessian(batch=((x, y) for x, y in [(INPUTS, TARGETS)]))
    shared = iter([(INPUTS[:20], TARGETS[:20]), (INPUTS[20:], TARGETS[20:])])
    with pytest.raises(ProblemError, match=r"no batch|the second time 0|no example"):
        hessian(batch=lambda: shared)


def test_batches_of_different_structure():
    parts = [(INPUTS[:20], TARGETS[:20]), (INPUTS[20:, :60], TARGETS[20:])]
    with pytest.raises(ProblemError, match=r"Batch 1 .* inputs is float32\[60\] there and float3"):
        hessian(batch=parts)
    with pytest.raises(ProblemError, match=r"Batch 1 is not like batch 0"):
        hessian(batch=lambda: iter(parts))
    named = [({"x": INPUTS}, TARGETS), ({"y": INPUTS}, TARGETS)]
    with pytest.raises(ProblemError, match="inputs/x is missing there"):
        Problem(lambda p, x: 0, cross_entropy, PARAMS, named)


def test_examples_of_weight_zero_may_hold_anything():
    spoilt, weights = INPUTS.copy(), np.ones(40)
    spoilt[[0, 7]], weights[[0, 7]] = np.nan, 0
    kept = weights > 0
    op = hessian(batch=(spoilt, TARGETS, weights))
    plain = hessian(batch=(INPUTS[kept], TARGETS[kept]))
    vector = np.asarray(jax.random.normal(KEY, (op.dim,)))
    np.testing.assert_allclose(op.matvec(vector), plain.matvec(vector), atol=1e-6)
    assert np.isnan(op.problem.losses()).sum() == 2


def test_asymmetric_operators_are_refused_through_the_same_door():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(30, 30)), jnp.float32)
    with pytest.raises(OperatorError, match="not symmetric"):
        verify(FunctionOperator(lambda v: matrix @ v, 30), KEY)


def test_checkpoints_of_one_run_are_verified_once():
    products = []

    class Recorded(Hessian):
        def product(self, vector):
            products.append(1)
            return super().product(vector)

    network = Network(jnp.tanh)
    for steps in (0, 20, 40):
        params = problems.trained(steps)
        op = Recorded(Problem(network, cross_entropy, params, (INPUTS, TARGETS)))
        assert verify(op, KEY).notes == ()  # smooth: the difference of the gradient agrees
    assert len(products) == 3


def test_units_exactly_on_their_kinks_are_not_taken_for_a_wrong_derivative():
    # Zero biases and blank frames, as at the start of a game: every ReLU sits at its kink.
    inputs = np.array(INPUTS)
    inputs[:4] = 0
    params = [(weight, np.zeros_like(bias)) for weight, bias in PARAMS]
    op = hessian(jax.nn.relu, params=params, batch=(inputs, TARGETS))
    (note,) = verify(op, KEY).notes
    assert "kinks of ReLU" in note
