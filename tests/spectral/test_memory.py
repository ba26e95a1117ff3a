"""Memory tiers: each is chosen by its budget, and each gives the same spectrum."""

from typing import Any

import jax
import numpy as np
import pytest

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, FunctionOperator, Memory, eigenpairs, lanczos, slq
from curvlab.spectral.basis import Tier

KEY = jax.random.key(3)
DIM, ORDER = 6000, 40
RNG = np.random.default_rng(0)
VALUES = np.r_[0.1 * RNG.normal(size=DIM - 5), [1.5, 2.0, 3.0, 5.0, -2.0]].astype(np.float32)
VECTOR = 4 * DIM
WORKING = 6 * VECTOR
BLOCK = 16 * 4 * 8192  # rows come in blocks of 16, padded to panels of 4,096 entries
BASIS = 3 * BLOCK  # of 40 rows

BUDGETS = {
    Tier.DEVICE: Memory(WORKING + BASIS),
    Tier.HALF: Memory(WORKING + BASIS // 2),
    Tier.HOST: Memory(WORKING + 10, host=BASIS),
    Tier.NONE: Memory(WORKING + 10),
}
each_tier = pytest.mark.parametrize("tier", Tier)


@each_tier
def test_a_budget_forces_its_tier_and_the_tier_is_reported(tier):
    run = lanczos(Diagonal(VALUES), KEY, order=ORDER, memory=BUDGETS[tier])
    assert run.tier is tier
    held = 0 if run.basis is None else run.basis.nbytes
    measure = slq(Diagonal(VALUES), KEY, order=ORDER, memory=BUDGETS[tier])
    pairs = eigenpairs(Diagonal(VALUES), KEY, order=ORDER, memory=BUDGETS[tier])
    for found in (measure, pairs):
        assert found.tier is tier
        assert tier.said in str(found)
        assert 0 < found.orthogonality <= 4 * run.orthogonality
    stored = type(measure).from_dataset(measure.to_dataset())
    assert (stored.tier, stored.orthogonality) == (tier, measure.orthogonality)
    share = {Tier.DEVICE: 1, Tier.HALF: 0.5, Tier.HOST: 1, Tier.NONE: 0}[tier]
    assert held == BASIS * share


@pytest.mark.parametrize("missing", [0, 1])
def test_a_basis_never_exceeds_its_budget(missing):
    run = lanczos(Diagonal(VALUES), KEY, order=ORDER, memory=Memory(WORKING + BASIS - missing))
    assert run.basis is not None
    assert WORKING + run.basis.nbytes <= WORKING + BASIS - missing
    assert run.tier is (Tier.HALF if missing else Tier.DEVICE)


@each_tier
def test_every_tier_sees_the_same_measure(tier):
    exact = slq(Diagonal(VALUES.astype(np.float64)), KEY, order=ORDER, vectors=2)
    found = slq(Diagonal(VALUES), KEY, order=ORDER, vectors=2, memory=BUDGETS[tier])
    grid = np.array([-1.0, -0.15, -0.05, 0.0, 0.05, 0.15, 1.0, 4.0])
    low, high = found.bracket(grid)
    truth = np.mean(VALUES[None, :] <= grid[:, None], axis=1)
    band = found.cdf_band(grid)
    assert ((band.low <= truth) & (truth <= band.high)).all()
    # The brackets of both runs hold the same distribution function of the start vectors.
    exact_low, exact_high = exact.bracket(grid)
    assert (low <= exact_high + 1e-5).all()
    assert (exact_low <= high + 1e-5).all()
    assert found.moment(1).value == pytest.approx(exact.moment(1).value, abs=1e-6)
    assert found.moment(2).value == pytest.approx(exact.moment(2).value, rel=1e-5)


@each_tier
def test_every_tier_finds_the_outliers_once(tier):
    pairs = eigenpairs(
        Diagonal(VALUES),
        KEY,
        largest=4,
        smallest=1,
        order=80 if tier is Tier.NONE else ORDER,  # copies cost steps
        memory=BUDGETS[tier],
    )
    np.testing.assert_allclose(pairs.values, [5.0, 3.0, 2.0, 1.5, -2.0], rtol=1e-5)
    assert pairs.converged.all()
    assert (pairs.low <= [5.0, 3.0, 2.0, 1.5, -2.0]).all()
    assert (pairs.high >= [5.0, 3.0, 2.0, 1.5, -2.0]).all()


def test_orthogonality_is_that_of_the_stored_rows_or_predicted_lost():
    losses = {
        tier: lanczos(Diagonal(VALUES), KEY, order=ORDER, memory=memory).orthogonality
        for tier, memory in BUDGETS.items()
    }
    assert losses[Tier.DEVICE] <= 1e-6
    assert 0 < losses[Tier.HOST] <= losses[Tier.DEVICE]  # of the last block of rows only
    assert losses[Tier.HALF] <= 2**-11  # of float16; here single entries carry whole vectors
    # The outliers converge within these steps, which is when plain Lanczos loses everything.
    assert losses[Tier.NONE] == 1.0


def test_uniformly_weighted_ritz_values_are_refused_without_a_basis():
    measure = slq(Diagonal(VALUES), KEY, order=ORDER, memory=BUDGETS[Tier.NONE])
    with pytest.raises(OperatorError, match="without a stored basis"):
        measure.ritz_histogram(np.linspace(-1, 1, 5), bandwidth=0.1)


def test_a_budget_below_the_working_vectors_is_refused_before_any_product():
    def never(vector):
        raise AssertionError("a product")

    op = FunctionOperator(never, DIM)
    assert Memory(4 * VECTOR, host=ORDER * VECTOR).tier(DIM, op.dtype, ORDER) is Tier.NONE
    with pytest.raises(OperatorError, match=r"working vectors.*memory budget"):
        lanczos(op, KEY, order=5, memory=Memory(4 * VECTOR - 1))
    targets: Any = ({"order": 5}, {"order": 5, "vectors": 3}, {"tolerance": 0.1})
    for target in targets:
        with pytest.raises(OperatorError, match=r"working vectors.*memory budget"):
            slq(op, KEY, **target, memory=Memory(4 * VECTOR - 1))
    with pytest.raises(OperatorError, match=r"5 eigenpairs.*12 stored vectors"):
        eigenpairs(op, KEY, largest=5, smallest=0, memory=Memory(WORKING + VECTOR))


def test_adaptive_eigenpairs_restart_within_their_memory():
    rows = 16
    values = np.linspace(0, 1, DIM).astype(np.float32)
    values[-3:] = [1.2, 1.3, 1.4]
    memory = Memory(WORKING + BLOCK)
    pairs = eigenpairs(Diagonal(values), KEY, largest=4, smallest=0, memory=memory)
    assert pairs.order > 2 * rows  # restarted more than once
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values[:3], [1.4, 1.3, 1.2], rtol=1e-6)
