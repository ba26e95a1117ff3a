"""Lanczos: the decomposition identity, orthogonality, breakdown and refusals."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral import Diagonal, FunctionOperator, Memory, lanczos
from curvlab.spectral.basis import KrylovBasis
from curvlab.spectral.krylov import Krylov
from curvlab.spectral.operator import random_vector
from tests.spectra import SEEDS, rotated, spectra

KEY = jax.random.key(0)


def filled(basis):
    """Return all rows on the host."""
    with float64():
        return basis.combine(np.eye(len(basis)))


@given(spectra(), SEEDS, st.integers(1, 24), st.sampled_from([np.float32, np.float64]))
def test_decomposition_identity_holds(eigenvalues, seed, order, dtype):
    op = rotated(eigenvalues, seed, dtype)
    run = lanczos(op, KEY, order=min(order, op.dim))
    q = filled(run.basis).astype(np.float64)
    t = np.diag(run.diagonal) + np.diag(run.offdiagonal, 1) + np.diag(run.offdiagonal, -1)
    gap = op.matmat(q.astype(dtype)).astype(np.float64) - t @ q
    scale = np.abs(eigenvalues).max() or 1.0
    roundoff = 200 * float(np.finfo(dtype).eps)
    assert np.linalg.norm(gap[:-1], axis=1).max(initial=0) <= roundoff * scale
    assert abs(np.linalg.norm(gap[-1]) - run.residual) <= roundoff * scale
    assert np.abs(q @ q.T - np.eye(run.order)).max() <= roundoff
    assert run.orthogonality == pytest.approx(
        np.abs(q @ q.T - np.eye(run.order)).max(), abs=roundoff
    )


@given(spectra(), SEEDS)
def test_ritz_values_stay_inside_the_spectrum_and_extremes_are_monotone(eigenvalues, seed):
    op = rotated(eigenvalues, seed)
    runs = [lanczos(op, KEY, order=m).ritz()[0] for m in range(1, 6)]
    slack = 1e-12 * np.abs(eigenvalues).max()
    for values in runs:
        assert eigenvalues[0] - slack <= values[0]
        assert values[-1] <= eigenvalues[-1] + slack
    for fewer, more in itertools.pairwise(runs):
        assert more[0] - slack <= fewer[0]
        assert fewer[-1] <= more[-1] + slack


@given(spectra(), SEEDS)
def test_full_run_finds_every_distinct_eigenvalue_and_nothing_else(eigenvalues, seed):
    op = rotated(eigenvalues, seed)
    run = lanczos(op, KEY, order=op.dim)
    scale = np.abs(eigenvalues).max() or 1.0
    # The start vector has something of every eigenvector, so each value has to be there.
    distance = np.abs(run.ritz()[0][:, None] - eigenvalues[None, :])
    assert distance.min(0).max() <= 1e-10 * scale
    assert distance.min(1).max() <= 1e-10 * scale
    assert run.breakdown_step is not None


@pytest.mark.parametrize(
    ("eigenvalues", "steps"),
    [(np.ones(24), 1), (np.r_[np.ones(20), -2 * np.ones(4)], 2), (np.zeros(24), 1)],
    ids=["identity", "two-point", "zero"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_breakdown_is_noticed_at_the_number_of_distinct_eigenvalues(eigenvalues, steps, dtype):
    run = lanczos(rotated(eigenvalues, dtype=dtype), KEY, order=10)
    assert run.breakdown_step == steps
    assert run.order == steps
    # What was cut off is kept, so that measures can be widened by it.
    assert run.residual <= 32 * np.finfo(dtype).eps * np.abs(eigenvalues).max()


def test_restarting_run_finds_multiplicities():
    eigenvalues = np.repeat([3.0, 1.0, 0.0, -2.0], [3, 5, 10, 2])
    space = Krylov(
        rotated(eigenvalues),
        random_vector(KEY, 20),
        fresh=lambda count: random_vector(jax.random.fold_in(KEY, count), 20),
    )
    space.extend(20)
    found = np.linalg.eigvalsh(space.projection())
    np.testing.assert_allclose(found, np.sort(eigenvalues), atol=1e-12)
    q = filled(space.basis)
    np.testing.assert_allclose(q @ q.T, np.eye(20), atol=1e-12)


def test_thick_restart_keeps_the_projection_exact():
    # After each restart Q A Qᵀ is still what the space says it is: diagonal, arrow, tridiagonal.
    op = Diagonal(np.linspace(-1, 5, 200))
    space = Krylov(op, random_vector(KEY, 200))
    for _ in range(3):
        space.extend(30)
        small = np.linalg.eigh(space.projection())[1]
        space.restart(small[:, [0, 1, 28, 29]].T)
        space.extend(17)
        q = filled(space.basis)
        np.testing.assert_allclose(q @ op.matmat(q).T, space.projection(), atol=1e-12)
        np.testing.assert_allclose(q @ q.T, np.eye(17), atol=1e-12)


def test_no_ghosts_in_float32_long_after_outliers_have_converged():
    # 60 % exact zeros, a bulk and ten outliers; ghosts would repeat the outliers.
    rng = np.random.default_rng(0)
    eigenvalues = np.r_[np.zeros(1200), 0.1 * rng.normal(size=790), np.linspace(1, 10, 10)]
    run = lanczos(Diagonal(eigenvalues.astype(np.float32)), KEY, order=160)
    values = run.ritz()[0]
    assert run.orthogonality <= 1e-6
    for outlier in np.linspace(1, 10, 10):
        assert np.sum(np.abs(values - outlier) < 0.05) == 1


def test_a_pass_subtracts_the_blocks_that_rounding_does_not_explain():
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(300, 41)))[0].T
    eps = np.finfo(np.float64).eps
    with float64():
        basis = KrylovBasis(300, np.float64)
        for row in rows[:40]:
            basis.append(basis.cut(row))
        # Beside the first, the second and the third block of 16 rows.
        beside = rows[40] + 2 * eps * rows[3] + 1e-9 * rows[20] + 2 * eps * rows[37]
        found, length2 = basis.remove_from(basis.cut(beside), float(beside @ beside))
        overlaps = rows[:40] @ basis.on_host(found).reshape(-1)[:300]
        assert length2 == pytest.approx(1, abs=8 * eps)
        assert np.abs(overlaps).max() <= 8 * eps
        untouched, length2 = basis.remove_from(basis.cut(rows[40]), 1.0)
    np.testing.assert_array_equal(untouched[0, :300], rows[40])
    assert length2 == 1.0


@pytest.mark.parametrize("dim", [4096, 4097, 10_000])
def test_vectors_of_several_panels_are_joined_as_they_were_cut(dim):
    entries = np.linspace(-1, 2, dim)
    run = lanczos(Diagonal(entries), KEY, order=20)
    q = filled(run.basis)
    assert q.shape == (20, dim)
    np.testing.assert_allclose(q @ q.T, np.eye(20), atol=1e-13)
    np.testing.assert_allclose((q * entries**2) @ q.T, (q * entries) @ (q * entries).T, atol=1e-12)


def test_given_start_vector_is_used_and_said():
    start = np.zeros(24)
    start[3] = 2.0
    run = lanczos(Diagonal(np.arange(24.0)), KEY, order=5, start=start)
    assert run.diagonal.tolist() == [3.0]
    assert run.breakdown_step == 1
    assert not run.random
    assert run.start_norm2 == 4.0


def test_float32_and_float64_operators_see_the_same_start_vector():
    values = np.linspace(0, 1, 24)
    single = lanczos(Diagonal(values.astype(np.float32)), KEY, order=4)
    double = lanczos(Diagonal(values), KEY, order=4)
    np.testing.assert_allclose(single.diagonal, double.diagonal, rtol=1e-5)


def test_order_above_dimension_is_refused_with_the_way_out():
    with pytest.raises(OperatorError, match=r"order=200.*dimension 24.*to_dense"):
        lanczos(Diagonal(np.ones(24)), KEY, order=200)


def test_zero_start_vector_is_refused():
    with pytest.raises(OperatorError, match="squared norm 0"):
        lanczos(Diagonal(np.ones(24)), KEY, order=2, start=np.zeros(24))


def test_products_with_nan_are_refused_before_the_first_step():
    with pytest.raises(OperatorError, match="NaN or infinite"):
        lanczos(FunctionOperator(lambda v: v * np.nan, 24), KEY, order=3)


@pytest.mark.parametrize("vectors", [100, 5], ids=["stored", "no basis"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_turn_bad_on_the_way_are_refused_at_their_step(vectors, bad):
    values, calls = np.arange(1, 25, dtype=np.float32), itertools.count(1)

    def product(vector):  # three calls of the check, and five steps, are sound
        return values * vector * np.float32(1 if next(calls) <= 3 + 5 else bad)

    memory = Memory(vectors * values.nbytes)
    with pytest.raises(OperatorError, match=r"Lanczos step 6 is not finite\. Check the parameters"):
        lanczos(FunctionOperator(product, 24), KEY, order=10, memory=memory)
    assert next(calls) == 10
