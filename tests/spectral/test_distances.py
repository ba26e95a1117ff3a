"""Distances of spectra with their null, angles of subspaces, matched eigenpairs."""

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.spectral import Dense, Diagonal, SpectralMeasure, eigenpairs, slq
from curvlab.spectral.distances import wasserstein
from curvlab.spectral.subspaces import match_eigenpairs, principal_angles
from tests.spectra import spectra

KEY, OTHER = jax.random.key(9), jax.random.key(10)
BULK = np.linspace(-1, 1, 190)


@given(spectra(dims=(24,)), spectra(dims=(24,)))
def test_distance_of_known_spectra_is_the_mean_change_of_sorted_eigenvalues(one, two):
    first, second = (SpectralMeasure.from_eigenvalues(values) for values in (one, two))
    found = wasserstein(first, second, fresh=first)
    truth = np.abs(np.sort(one) - np.sort(two)).mean()
    assert truth == pytest.approx(scipy.stats.wasserstein_distance(one, two))
    assert found.distance.value == pytest.approx(truth, rel=1e-6)
    assert found.distance.method == "exact"
    assert found.null.value == 0


@settings(max_examples=6)
@given(st.integers(0, 10**6))
def test_distance_of_measured_spectra_is_covered_and_common_vectors_beat_the_null(seed):
    key = jax.random.key(seed)
    small = 1.0 + 0.02 * np.sin(np.arange(190))
    ops = [Diagonal(BULK), Diagonal(BULK * small)]
    one, two = (slq(op, key, order=12, vectors=2, noise_floor=0.0) for op in ops)
    fresh = slq(ops[0], jax.random.key(seed + 1), order=12, vectors=2, noise_floor=0.0)
    found = wasserstein(one, two, fresh=fresh)
    truth = np.abs(np.sort(BULK) - np.sort(BULK * small)).mean()
    assert found.distance.low <= truth <= found.distance.high
    assert found.distance.value < found.null.value  # the start vectors cancel


def test_a_large_change_is_told_from_the_null():
    one, two = (slq(Diagonal(v), KEY, order=10, vectors=2) for v in (BULK, BULK + 1))
    fresh = slq(Diagonal(BULK), OTHER, order=10, vectors=2)
    found = wasserstein(one, two, fresh=fresh)
    assert found.above_null
    assert found.distance.value == pytest.approx(1, rel=1e-3)
    assert not wasserstein(one, one, fresh=fresh).above_null


def test_unpaired_measures_and_stale_nulls_are_refused():
    one, two = (slq(Diagonal(BULK), key, order=5, vectors=2) for key in (KEY, OTHER))
    with pytest.raises(OperatorError, match="different start vectors"):
        wasserstein(one, two, fresh=two)
    with pytest.raises(OperatorError, match="fresh= from other start vectors"):
        wasserstein(one, one, fresh=one)
    with pytest.raises(OperatorError, match="one dimension, got 190, 10"):
        wasserstein(one, slq(Diagonal(np.arange(10.0)), KEY, order=5), fresh=two)


def rotate(matrix, i, j, angle):
    turn = np.eye(len(matrix))
    turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return turn @ matrix @ turn.T


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.3, np.pi / 2])
def test_angles_are_those_by_which_the_matrix_was_turned(angle):
    matrix = np.diag(np.r_[10.0, 8.0, -6.0, 0.1 * np.linspace(-1, 1, 47)])
    first = eigenpairs(Dense(matrix), KEY, order=50, largest=3, smallest=2)
    second = eigenpairs(Dense(rotate(matrix, 2, 30, angle)), KEY, order=50, largest=3, smallest=2)
    found = principal_angles(first, second, count=3)
    np.testing.assert_allclose(found.radians, [0, 0, angle], atol=1e-9)
    assert found.error < 1e-9
    with pytest.raises(OperatorError, match=r"count=9\) needs that many pairs"):
        principal_angles(first, second, count=9)


def test_angles_without_a_known_gap_say_that_they_may_be_anything():
    pairs = eigenpairs(Diagonal(BULK), KEY, order=20, largest=2, smallest=0)
    assert principal_angles(pairs, pairs, count=2).error == np.pi / 2


def test_eigenvalues_that_cross_keep_their_identity():
    values = np.r_[10.0, 8.0, 5.0, 0.1 * np.linspace(-1, 1, 47)]
    crossed = np.r_[7.0, 9.0, 5.0, 0.1 * np.linspace(-1, 1, 47)]
    first, second = (
        eigenpairs(Diagonal(v), KEY, order=40, largest=3, smallest=0) for v in (values, crossed)
    )
    found = match_eigenpairs(first, second)
    np.testing.assert_array_equal(found.first, [0, 1, 2])
    np.testing.assert_array_equal(found.second, [1, 0, 2])
    np.testing.assert_allclose(found.overlaps, 1, atol=1e-9)


def test_inside_a_cluster_the_span_is_what_counts():
    values = np.r_[5.0, 5.0, 3.0, np.zeros(40)]
    ops = [Diagonal(values), Dense(rotate(np.diag(values), 0, 1, 0.7))]
    first, second = (
        eigenpairs(op, key, order=20, largest=3, smallest=0)
        for op, key in zip(ops, (KEY, OTHER), strict=True)
    )
    found = match_eigenpairs(first, second)
    np.testing.assert_allclose(found.cluster_overlaps, 1, atol=1e-6)


def test_vectors_that_turned_away_are_left_unmatched():
    first = eigenpairs(Diagonal(np.r_[5.0, np.zeros(40)]), KEY, order=10, largest=1, smallest=0)
    second = eigenpairs(Diagonal(np.r_[np.zeros(40), 5.0]), KEY, order=10, largest=1, smallest=0)
    assert len(match_eigenpairs(first, second).first) == 0
    with pytest.raises(OperatorError, match="one dimension, got 41 and 190"):
        match_eigenpairs(first, eigenpairs(Diagonal(BULK), KEY, order=9, largest=1, smallest=1))
