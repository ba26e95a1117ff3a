"""Each kind of bad input ends in one message: what was asked, what was found, what to do."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, ProblemError
from curvlab.curvature import Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import slq
from tests import problems

INPUTS, TARGETS = problems.digits(40)
PARAMS = problems.init((64, 8, 10), 0)


def make(**changes: Any) -> Problem:
    settings: dict[str, Any] = {
        "predict": problems.predict,
        "loss": cross_entropy,
        "params": PARAMS,
        "batch": (INPUTS, TARGETS),
        **changes,
    }
    return Problem(**settings)


def test_inputs_and_targets_of_different_length():
    with pytest.raises(ProblemError, match=r"inputs: 40, targets: 39.*Check how"):
        make(batch=(INPUTS, TARGETS[:39]))


def mean_loss(outputs, targets):
    return cross_entropy(outputs, targets).mean()


def test_loss_that_is_not_per_example():
    with pytest.raises(
        ProblemError, match=r"shape \(40,\); mean_loss returned a scalar.*from_loss"
    ):
        make(loss=mean_loss)
    with pytest.raises(ProblemError, match=r"returned shape \(40, 10\)"):
        make(loss=lambda outputs, targets: outputs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite(bad):
    params = [(PARAMS[0][0].at[3, 4].set(bad), PARAMS[0][1]), *PARAMS[1:]]
    with pytest.raises(ProblemError, match=r"'0/0' holds 1 of 512 values.*earlier checkpoint"):
        make(params=params)


def test_parameters_that_are_not_real_floats():
    with pytest.raises(ProblemError, match=r"'step' is int32.*`state`"):
        Hessian(
            make(
                params={"step": jnp.arange(3), "net": PARAMS},
                predict=lambda p, x: problems.predict(p["net"], x),
            )
        )


def test_loss_that_is_not_finite_at_finite_parameters():
    with pytest.raises(
        ProblemError, match=r"In batch 0, 40 of 40 values of cross_entropy .* the inputs of this"
    ):
        Hessian(make(batch=(np.full_like(INPUTS, np.inf), TARGETS)))


def test_empty_data():
    asked = "The objective is a mean over examples"
    with pytest.raises(ProblemError, match=f"{asked}, and the list holds no batch. Pass at least"):
        make(batch=[])
    with pytest.raises(ProblemError, match=rf"{asked}.* that list\(\) returned .*fresh iterator"):
        make(batch=list)
    none = r"at least one example; .* \(inputs: 0, targets: 0\)\. Leave empty batches out"
    with pytest.raises(ProblemError, match=none):
        make(batch=(INPUTS[:0], TARGETS[:0]))
    with pytest.raises(ProblemError, match=none):
        make(batch=[(INPUTS, TARGETS), (INPUTS[:0], TARGETS[:0])])
    with pytest.raises(ProblemError, match="total weight"):
        Hessian(make(weights=np.zeros(40)))


def test_weights_of_the_wrong_length_or_sign():
    with pytest.raises(ProblemError, match=r"40 examples; got shape \(39,\)"):
        make(weights=np.ones(39))
    with pytest.raises(ProblemError, match="minimum -1"):
        make(weights=-np.ones(40))


def test_batches_that_are_no_pairs():
    with pytest.raises(
        ProblemError, match=r"has to be a tuple .*got tuple of length 4\. Put the arrays of each"
    ):
        make(batch=(INPUTS, TARGETS, TARGETS, TARGETS))


def test_order_above_the_dimension():
    with pytest.raises(OperatorError, match=r"order=999999\) exceeds the operator's dimension 610"):
        slq(Hessian(make()), jax.random.key(0), order=999999)


def test_dropout_left_on_is_found_before_lanczos_starts():
    counter = itertools.count()
    products = []

    def with_dropout(params, inputs):
        products.append(1)
        mask = jax.random.bernoulli(jax.random.key(next(counter)), 0.5, (8,))
        (w0, b0), last = params
        return jnp.tanh(inputs @ w0 + b0) * mask @ last[0] + last[1]

    with pytest.raises(ProblemError, match=r"Two evaluations.*Switch dropout off"):
        Hessian(make(predict=with_dropout))


def test_randomness_at_run_time_is_found():
    rng = np.random.default_rng(0)

    def noisy(params, inputs):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        noise = jax.pure_callback(lambda: np.float32(rng.normal()), shape)
        return problems.predict(params, inputs) * (1 + noise)

    with pytest.raises(ProblemError, match="Two evaluations"):
        Hessian(make(predict=noisy))


def test_iterator_that_returns_other_data_the_second_time():
    shuffled = np.random.default_rng(0)

    def fresh():
        index = shuffled.integers(0, 40, 20)
        yield INPUTS[index], TARGETS[index]

    with pytest.raises(ProblemError, match="iterator return the same examples"):
        Hessian(make(batch=fresh))


def test_iterator_in_another_order_is_accepted():
    rng = np.random.default_rng(0)

    def fresh():
        index = rng.permutation(40)
        yield INPUTS[index], TARGETS[index]

    whole = Hessian(make())
    vector = np.ones(whole.dim, np.float32)
    np.testing.assert_allclose(
        Hessian(make(batch=fresh)).matvec(vector), whole.matvec(vector), atol=1e-5
    )


def test_subset_and_values():
    problem = make()
    mask = TARGETS < 5
    part = problem.subset(mask)
    assert part.examples == mask.sum()
    assert part.value() == pytest.approx(problem.losses()[mask].mean(), rel=1e-6)
    with pytest.raises(ProblemError, match="mask of shape"):
        problem.subset(np.ones(3, bool))


def test_gradient_is_that_of_the_mean():
    problem = make(batch=[(INPUTS[:30], TARGETS[:30]), (INPUTS[30:], TARGETS[30:])])

    def mean_loss(params):
        return cross_entropy(problems.predict(params, INPUTS), TARGETS).mean()

    for mine, reference in zip(
        jax.tree.leaves(problem.gradient()),
        jax.tree.leaves(jax.grad(mean_loss)(PARAMS)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, reference, atol=1e-7)
