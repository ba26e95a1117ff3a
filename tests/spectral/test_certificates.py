"""Certificates where they are easily lost: tiny scales, cut couplings, pairs that are not there."""

import jax
import numpy as np
import pytest

from curvlab.spectral import Diagonal, Memory, eigenpairs, lanczos, slq
from curvlab.spectral.basis import Tier

KEY = jax.random.key(5)


@pytest.mark.parametrize("scale", [1e-10, 1e-18, 1e-24])
def test_squares_of_small_curvature_do_not_vanish(scale):
    # In float32 the squares of entries below 1e-19 are zero: Lanczos would end at once, "exactly".
    values = (scale * np.linspace(0, 1, 2000)).astype(np.float32)
    measure = slq(Diagonal(values), KEY, order=20)
    assert measure.orders.tolist() == [20]
    for share in (0.25, 0.5, 0.75):
        found = measure.cdf(share * scale)
        assert found.low <= share <= found.high
        assert found.high - found.low < 0.2


def test_small_bulk_beside_an_outlier_is_still_bracketed():
    bulk = (1e-17 * np.linspace(0, 1, 2000)).astype(np.float32)
    values = np.append(bulk, np.float32(1e-14))
    measure = slq(Diagonal(values), KEY, order=30)
    for share in (0.25, 0.75):
        found = measure.cdf(share * 1e-17)
        assert found.low <= share <= found.high


def test_a_coupling_cut_at_rounding_level_does_not_make_the_rest_certain():
    # A shifted matrix: 1 % of the eigenvalues stick out by less than Lanczos can see.
    values = np.ones(5000, np.float32)
    values[:50] += np.float32(3e-5)
    for seed in range(5):
        measure = slq(Diagonal(values), jax.random.key(seed), order=10)
        found = measure.cdf(1 + 1e-5)
        assert found.low <= 0.99 <= found.high
        band = measure.cdf_band(np.array([1 + 1e-5, 1 + 2e-5]))
        assert (band.low <= 0.99).all()


def test_exhausted_spaces_stay_sharp():
    values = np.repeat([0.0, 1.0, 4.0], [300, 150, 50])
    measure = slq(Diagonal(values), jax.random.key(0), order=20, vectors=3)
    assert measure.orders.max() == 3
    found = measure.cdf(0.5)
    assert found.bracket_high - found.bracket_low < 1e-9
    assert found.low <= 0.6 <= found.high
    assert measure.moment(9).bracket_high - measure.moment(9).bracket_low < 1e-3


def test_steps_after_a_breakdown_do_not_count_for_the_miss_bound():
    values = np.ones(5000, np.float32)
    values[:50] += np.float32(3e-5)
    pairs = eigenpairs(Diagonal(values), KEY, order=60, largest=1, smallest=0)
    assert pairs.miss[0] == 1.0


def test_a_deflated_run_says_nothing_about_pairs_that_have_not_converged():
    values = np.append(np.linspace(0, 0.3, 199), 1.0)
    rough = eigenpairs(Diagonal(values), KEY, order=3, largest=1, smallest=0, verify=80)
    assert not rough.converged[0]
    assert np.isnan(rough.miss).all()
    sharp = eigenpairs(Diagonal(values), KEY, largest=1, smallest=0, verify=80)
    assert sharp.miss[0] < 1e-4


def test_given_start_vectors_are_not_kept_in_half_precision():
    dim, order = 6000, 20
    op = Diagonal(np.linspace(0, 1, dim).astype(np.float32))
    basis = 32 * 4 * 8192  # whole blocks of 16 padded rows
    memory = Memory(6 * 4 * dim + basis // 2, host=basis)
    assert lanczos(op, KEY, order=order, memory=memory).tier is Tier.HALF
    start = np.ones(dim, np.float32)
    assert lanczos(op, KEY, order=order, memory=memory, start=start).tier is Tier.HOST
