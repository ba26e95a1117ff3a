"""Diagonals and Frobenius norms: exact where small, covered, sharpened by deflation."""

import jax
import numpy as np
import pytest
from hypothesis import given

from curvlab.core.errors import OperatorError
from curvlab.spectral import Dense, Diagonal, eigenpairs
from curvlab.spectral.diagonal import diagonal
from curvlab.spectral.frobenius import frobenius_norm
from tests.spectra import SEEDS, rotated, spectra

KEY = jax.random.key(4)
RNG = np.random.default_rng(0)
OUTLIERS = np.r_[0.01 * RNG.normal(size=290), np.geomspace(1, 100, 10)]


@given(spectra(dims=(5, 24)), SEEDS)
def test_small_operators_are_exact(eigenvalues, seed):
    op = rotated(eigenvalues, seed)
    scale = np.abs(eigenvalues).max()
    entries = diagonal(op, KEY)
    assert entries.method == "exact"
    np.testing.assert_allclose(entries.value, np.diag(op.to_dense()), atol=1e-14 * scale)
    norm = frobenius_norm(op, KEY)
    assert norm.method == "exact"
    assert norm.value == pytest.approx(np.linalg.norm(eigenvalues), abs=1e-13 * scale)
    assert norm.low <= norm.value <= norm.high


def test_diagonal_matrices_have_exact_diagonals():
    found = diagonal(Diagonal(OUTLIERS), KEY, sketch=0, noise_floor=0.0)
    np.testing.assert_allclose(found.value, OUTLIERS, atol=1e-12)
    assert found.matvecs == 16


def test_entries_are_covered_and_sharpened_by_deflation():
    op = rotated(OUTLIERS)
    truth = np.diag(op.to_dense())
    pairs = eigenpairs(op, KEY, order=60, largest=10, smallest=1)
    plain = diagonal(op, KEY, sketch=0, noise_floor=0.0)
    sketched = diagonal(op, KEY, sketch=12, noise_floor=0.0)
    deflated = diagonal(op, KEY, deflate=pairs, noise_floor=0.0)
    assert (plain.matvecs, sketched.matvecs, deflated.matvecs) == (16, 28, 16 + len(pairs.values))
    for found in (plain, sketched, deflated):
        inside = (found.low <= truth) & (truth <= found.high)
        assert inside.mean() > 0.9  # entries share vectors, so 300 of them are not 300 draws
    assert np.median(sketched.stderr) < 0.1 * np.median(plain.stderr)
    assert np.median(deflated.stderr) < 0.1 * np.median(plain.stderr)


def test_frobenius_norm_of_a_sketched_outlier():
    op = rotated(OUTLIERS)
    truth = np.linalg.norm(OUTLIERS)
    pairs = eigenpairs(op, KEY, order=60, largest=10, smallest=1)
    plain = frobenius_norm(op, KEY, sketch=0, noise_floor=0.0)
    sketched = frobenius_norm(op, KEY, noise_floor=0.0)
    deflated = frobenius_norm(op, KEY, deflate=pairs, noise_floor=0.0)
    for found in (plain, sketched, deflated):
        assert found.low <= truth <= found.high
    assert plain.high - plain.low > 20 * (sketched.high - sketched.low)
    assert deflated.matvecs == 16
    noisy = frobenius_norm(op, KEY, noise_floor=0.1)
    assert noisy.high - sketched.high == pytest.approx(0.1 * 300**0.5)


def test_too_few_vectors_and_foreign_pairs_are_refused():
    op = Dense(np.eye(100))
    foreign = eigenpairs(Diagonal(np.arange(50.0)), KEY, order=10, largest=2, smallest=1)
    for estimator in (diagonal, frobenius_norm):
        with pytest.raises(OperatorError, match=r"vectors=7\).*vectors >= 8"):
            estimator(op, KEY, vectors=7)
        with pytest.raises(OperatorError, match=r"length 50, the operator has 100"):
            estimator(op, KEY, deflate=foreign)
