"""Eigenpairs: containment, clusters, multiplicities, convergence flags."""

import jax
import numpy as np
import pytest
from hypothesis import given

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, eigenpairs, lanczos
from tests.spectra import SEEDS, rotated, spectra

KEY = jax.random.key(1)


def check_certificates(pairs, eigenvalues):
    """Every cluster holds at least as many true eigenvalues as it has pairs."""
    slack = 1e-13 * np.abs(eigenvalues).max()  # accuracy of the oracle itself
    for cluster in np.unique(pairs.clusters):
        members = pairs.clusters == cluster
        low, high = pairs.low[members].min(), pairs.high[members].max()
        inside = (low - slack <= eigenvalues) & (eigenvalues <= high + slack)
        assert inside.sum() >= members.sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(eigenvalues=spectra(dims=(24,)), seed=SEEDS)
def test_intervals_hold_eigenvalues_whatever_the_spectrum(dtype, eigenvalues, seed):
    op = rotated(eigenvalues, seed, dtype)
    truth = np.linalg.eigvalsh(op.to_dense().astype(np.float64))
    for order in (8, 24):
        pairs = eigenpairs(op, KEY, order=order, largest=3, smallest=3)
        check_certificates(pairs, truth)
        assert (np.diff(pairs.values) <= 0).all()
        gram = pairs.vectors @ pairs.vectors.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-10)


@given(spectra(dims=(24,)), SEEDS)
def test_full_order_finds_both_ends_with_multiplicities(eigenvalues, seed):
    pairs = eigenpairs(rotated(eigenvalues, seed), KEY, order=24, largest=4, smallest=4)
    expected = np.r_[eigenvalues[::-1][:4], eigenvalues[:4][::-1]]
    scale = np.abs(eigenvalues).max()
    np.testing.assert_allclose(pairs.values, expected, atol=1e-11 * scale)
    assert pairs.converged.all()


def test_residuals_are_those_of_explicit_products():
    eigenvalues = np.linspace(-1, 5, 300)
    pairs = eigenpairs(Diagonal(eigenvalues), KEY, order=30, largest=3, smallest=2)
    explicit = np.linalg.norm(
        pairs.vectors * eigenvalues - pairs.values[:, None] * pairs.vectors, axis=1
    )
    np.testing.assert_allclose(pairs.residuals, explicit, atol=1e-13)
    assert not pairs.converged.all()  # order 30 of 300 with a flat spectrum
    assert pairs.matvecs == 30 + 5 + 4


def test_close_eigenvalues_form_a_cluster_and_far_ones_do_not():
    eigenvalues = np.r_[np.linspace(-0.1, 0.1, 200), 1.0, 1.0 + 1e-9, 3.0]
    op = Diagonal(eigenvalues.astype(np.float32))
    pairs = eigenpairs(op, KEY, order=60, largest=3, smallest=0)
    assert pairs.clusters[0] != pairs.clusters[1]
    assert pairs.low[0] <= 3.0 <= pairs.high[0]


def test_a_given_krylov_run_saves_its_products():
    op = Diagonal(np.linspace(-1, 5, 300))
    run = lanczos(op, KEY, order=30)
    pairs = eigenpairs(op, KEY, order=30, largest=2, smallest=2, krylov=run, noise_floor=1e-15)
    assert pairs.matvecs == 4
    np.testing.assert_allclose(pairs.values[0], run.ritz()[0][-1], rtol=1e-12)


def test_a_given_krylov_run_that_is_too_short_is_refused():
    op = Diagonal(np.repeat([1.0, 2.0], 20))
    with pytest.raises(OperatorError, match="has 2 steps on dimension 40; 4 pairs"):
        eigenpairs(op, KEY, order=10, largest=2, smallest=2, krylov=lanczos(op, KEY, order=10))


def test_ends_and_bad_requests():
    op = Diagonal(np.linspace(-1, 5, 40))
    only_bottom = eigenpairs(op, KEY, order=40, largest=0, smallest=2)
    np.testing.assert_allclose(only_bottom.values, np.linspace(-1, 5, 40)[1::-1], atol=1e-12)
    with pytest.raises(OperatorError, match="between 1 and order=4"):
        eigenpairs(op, KEY, order=4, largest=3, smallest=2)
    with pytest.raises(OperatorError, match="dimension 40"):
        eigenpairs(op, KEY, order=41)
    with pytest.raises(OperatorError, match="no parameter tree"):
        only_bottom.tree(0)


def test_a_verified_end_finds_what_one_krylov_space_cannot_see():
    # One start vector sees a repeated eigenvalue once; runs on the deflated operator see the rest.
    eigenvalues = np.r_[np.linspace(0, 1, 400), 3.0, 3.0, 3.0, 2.0]
    op = Diagonal(eigenvalues)
    # (A long run does too: rounding errors hold all of them.)
    plain = eigenpairs(op, KEY, largest=4, smallest=0, order=14)
    np.testing.assert_allclose(plain.values[:2], [3.0, 2.0], rtol=1e-4)
    assert plain.values[2] < 1.01
    assert 0 < plain.miss[0] <= 1
    assert np.isnan(plain.miss[1:]).all()
    found = eigenpairs(op, KEY, largest=4, smallest=0, verify=60)
    np.testing.assert_allclose(found.values, [3.0, 3.0, 3.0, 2.0], rtol=1e-6)
    assert (found.miss < 1e-3).all()
    assert found.matvecs > plain.matvecs


def test_smallest_end_is_verified_too_and_zeros_of_the_deflation_are_not_taken_for_finds():
    eigenvalues = np.r_[np.linspace(0.5, 1, 300), -2.0, -2.0, 5.0]
    found = eigenpairs(Diagonal(eigenvalues), KEY, largest=1, smallest=2, verify=50)
    np.testing.assert_allclose(found.values, [5.0, -2.0, -2.0], rtol=1e-6)
    positive = eigenpairs(Diagonal(1 + eigenvalues**2), KEY, largest=1, smallest=1, verify=50)
    np.testing.assert_allclose(positive.values, [26.0, 1.25], atol=positive.residuals[1])


def test_a_copy_at_an_end_beyond_zero_is_found():
    # Deflated pairs at zero would be the outermost values here, and hide what the run looks for.
    eigenvalues = np.r_[1.0, 1.0, 2.0, np.linspace(4, 10, 400)].astype(np.float32)
    for sign, (top, bottom) in ((1, (0, 2)), (-1, (2, 0))):
        found = eigenpairs(
            Diagonal(sign * eigenvalues), KEY, order=14, verify=60, largest=top, smallest=bottom
        )
        np.testing.assert_allclose(found.values, [sign, sign], rtol=1e-5)


def test_converged_is_relative_to_all_values_seen():
    eigenvalues = np.r_[np.linspace(1e-3, 1, 500), 100.0]
    found = eigenpairs(Diagonal(eigenvalues), KEY, largest=0, smallest=3)
    assert found.converged.all()
    assert (found.residuals <= found.tolerance * 100).all()


def test_the_miss_bound_holds_over_start_vectors():
    # The outlier sticks out by more than the gap; short runs overlook it about as often as stated.
    eigenvalues = np.r_[np.linspace(0, 1, 1000), 1.03]
    overlooked, bound = 0, np.nan
    for seed in range(20):
        pairs = eigenpairs(
            Diagonal(eigenvalues),
            jax.random.key(seed),
            largest=1,
            smallest=0,
            order=45,
            noise_floor=0.0,
        )
        overlooked += 1.03 - pairs.values[0] > pairs.gap * 1.03
        bound = pairs.miss[0]
    assert bound < 0.05
    assert overlooked <= 20 * bound


def test_targets_are_met_with_few_products():
    eigenvalues = np.r_[0.1 * np.random.default_rng(0).normal(size=3000), 1, 2, 4, 8, 16]
    loose = eigenpairs(Diagonal(eigenvalues), KEY, largest=5, smallest=0, tolerance=1e-2)
    tight = eigenpairs(Diagonal(eigenvalues), KEY, largest=5, smallest=0, tolerance=1e-8)
    for pairs in (loose, tight):
        assert pairs.converged.all()
        assert (pairs.residuals <= pairs.tolerance * 16).all()
    assert loose.order < tight.order < 120
    np.testing.assert_allclose(tight.values, [16, 8, 4, 2, 1], rtol=1e-10)


def test_a_warm_start_saves_products_and_quotes_no_miss():
    rng = np.random.default_rng(0)
    eigenvalues = np.r_[np.sort(rng.normal(size=4000)), 4.2, 4.4, 4.6]
    before = eigenpairs(Diagonal(eigenvalues), KEY, largest=3, smallest=0, tolerance=1e-4)
    later = Diagonal(1.01 * eigenvalues)
    cold = eigenpairs(later, KEY, largest=3, smallest=0, tolerance=1e-4)
    warm = eigenpairs(later, KEY, largest=3, smallest=0, tolerance=1e-4, start=before)
    assert warm.order < cold.order
    assert np.isnan(warm.miss).all()
    assert not np.isnan(cold.miss[0])
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-6)
    with pytest.raises(OperatorError, match="length 5"):
        eigenpairs(later, KEY, start=np.ones(5))


def test_forms_of_a_second_operator_split_the_eigenvalue():
    first, second = np.linspace(-1, 5, 50), np.linspace(0, 1, 50) ** 2
    pairs = eigenpairs(Diagonal(first + second), KEY, order=50, largest=2, smallest=1)
    parts = pairs.forms(Diagonal(first)) + pairs.forms(Diagonal(second))
    np.testing.assert_allclose(parts, pairs.values, atol=1e-12)


def test_pairs_tell_what_they_are():
    told = str(eigenpairs(Diagonal(np.linspace(-1, 5, 50)), KEY, order=20, largest=2, smallest=1))
    assert "largest-1" in told
    assert "smallest-1" in told
    assert "not converged" in told
