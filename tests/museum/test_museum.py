"""The bug museum: each defect was read in another tool that measures curvature; none may be ours.

The first line of a test says what goes wrong elsewhere. Everything is small enough to be checked
against a dense matrix or a known spectrum.
"""

import gc
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy, squared_error
from curvlab.spectral import (
    Diagonal,
    FunctionOperator,
    LinearAxis,
    Memory,
    eigenpairs,
    lanczos,
    slq,
    trace,
)
from curvlab.spectral.basis import ROWS, Tier, block_bytes
from tests import problems, spectra
from tests.oracles import dense_mlp
from tests.oracles.score import score_eigenvalues

SIZES = (64, 4, 10)
KEY = jax.random.key(0)


def small_problem(batch=None, seed=0, predict=problems.predict):
    inputs, targets = problems.digits(40)
    batch = (inputs, targets) if batch is None else batch
    return Problem(predict, cross_entropy, problems.init(SIZES, seed), batch)


@pytest.fixture(scope="module")
def product():
    """A fixed vector and its product with the Hessian of the small problem."""
    op = Hessian(small_problem())
    vector = np.random.default_rng(0).normal(size=op.dim).astype(np.float32)
    return vector, np.asarray(op.matvec(vector))


def close(value, reference, tolerance=2e-5):
    return np.linalg.norm(value - reference) <= tolerance * np.linalg.norm(reference)


def budget(tier, dim, rows):
    """Memory in which so many float32 rows have room in one tier, and in none that is better."""
    working, held = 6 * 4 * dim, -(-rows // ROWS) * block_bytes(dim, np.float32)
    return {
        Tier.DEVICE: Memory(working + held),
        Tier.HALF: Memory(working + held // 2),
        Tier.HOST: Memory(working, host=held),
        Tier.NONE: Memory(working),
    }[tier]


def outlier_spectrum():
    """60 % exact zeros, a bulk of both signs, ten outliers; n = 2,000."""
    rng = np.random.default_rng(1)
    bulk = rng.normal(size=790) * np.where(rng.random(790) < 0.3, -0.02, 0.1)
    return np.concatenate([np.zeros(1200), bulk, np.geomspace(1, 100, 10)])


def test_01_product_is_taken_at_the_weights(product):
    """HessFormer evaluates the product at the Lanczos vector instead of at the weights."""
    vector, image = product
    inputs, targets = problems.digits(40)
    data = (inputs.astype(np.float64), targets, SIZES, "tanh")
    at_weights = dense_mlp.hessian(problems.flat(problems.init(SIZES)), *data)
    at_vector = dense_mlp.hessian(vector.astype(np.float64), *data)
    assert close(image, at_weights @ vector)
    assert not close(image, at_vector @ vector, 0.1)


@pytest.mark.parametrize("parts", [2, 5, 8])
def test_02_result_does_not_grow_with_the_number_of_batches(product, parts):
    """hessian-spectrum sums micro-batches and never divides: eigenvalues grow with them."""
    inputs, targets = problems.digits(40)
    batch = list(zip(np.split(inputs, parts), np.split(targets, parts), strict=True))
    assert close(np.asarray(Hessian(small_problem(batch)).matvec(product[0])), product[1])


def test_03_without_a_stored_basis_no_vector_is_kept():
    """hessian-spectrum keeps all Lanczos vectors although it uses none of them again."""
    dim, held = 50_000, []
    op = Diagonal(np.linspace(-1, 1, dim, dtype=np.float32))

    def count(_):
        held.append(sum(array.nbytes for array in jax.live_arrays()))

    slq(op, KEY, order=24, memory=Memory(device=30 * dim), noise_floor=1e-6, tick=count)
    gc.collect()
    assert len(held) == 24
    assert held[-1] - held[4] <= 4 * dim  # one vector at most, where twenty would be a leak


def test_04_uneven_batches_count_by_their_examples(product):
    """hessian-eigenthings gives a last small batch the weight of a full one."""
    inputs, targets = problems.digits(40)
    cuts = [0, 17, 34, 40]
    batch = [(inputs[a:b], targets[a:b]) for a, b in itertools.pairwise(cuts)]
    assert close(np.asarray(Hessian(small_problem(batch)).matvec(product[0])), product[1])


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_05_product_is_linear_in_the_length_of_the_vector(product, factor):
    """hessian-eigenthings steps by ε v in its finite difference, whatever the norm of v."""
    vector, image = product
    scaled = np.asarray(Hessian(small_problem()).matvec(factor * vector))
    assert close(scaled / np.float32(factor), image)


def test_06_gauss_newton_is_symmetric():
    """A finite-difference Jacobian with an exact transpose gives an asymmetric matrix."""
    op = GaussNewton(small_problem())
    u, v = np.random.default_rng(3).normal(size=(2, op.dim))
    left, right = (np.asarray(op.matvec(w), np.float64) for w in (v, u))
    assert abs(u @ left - v @ right) <= 1e-6 * np.linalg.norm(u) * np.linalg.norm(left)


def test_07_no_ghosts_beyond_fifty_steps():
    """hessian-eigenthings stops reorthogonalising above 50 steps; converged values come twice."""
    truth = outlier_spectrum()
    run = lanczos(Diagonal(truth.astype(np.float32)), KEY, order=160)
    assert run.orthogonality <= 1e-6
    assert score_eigenvalues(run.ritz()[0], truth)["ghosts"] == 0


def test_07_the_museum_knows_a_ghost():
    """Without reorthogonalisation the same run does have ghosts: the test above can fail."""
    truth = outlier_spectrum()
    memory = Memory(device=30 * len(truth))
    run = lanczos(Diagonal(truth.astype(np.float32)), KEY, order=160, memory=memory)
    assert run.basis is None
    assert score_eigenvalues(run.ritz()[0], truth)["ghosts"] != 0


@pytest.mark.parametrize("values", [[1.0], [-2.0, 1.0]], ids=["identity", "two points"])
def test_08_exhausted_krylov_spaces_are_exact(values):
    """curvlinops divides by β = 0 on the identity: all nodes are NaN."""
    truth = np.resize(values, 200)
    measure = slq(Diagonal(truth.astype(np.float32)), KEY, order=20, vectors=2)
    kept = measure.weights > 0
    assert np.isfinite(measure.nodes).all()
    assert np.abs(measure.nodes[kept][:, None] - np.array(values)).min(1).max() <= 1e-6
    assert measure.cdf(5.0).value == pytest.approx(1)


def test_09_weights_are_real_and_sum_to_one():
    """PyHessian takes weights from a non-symmetric eigensolver, whose vectors may be complex."""
    measure = slq(Diagonal(outlier_spectrum().astype(np.float32)), KEY, order=80, vectors=3)
    assert measure.weights.dtype == np.float64
    assert measure.weights.min() >= 0
    assert np.abs(measure.weights.sum(1) - 1).max() <= 1e-12


def test_10_vectors_have_unit_length_at_any_scale():
    """PyHessian adds 1e-6 to the norm it divides by, so no vector is ever a unit vector."""
    op = Diagonal(1e-9 * outlier_spectrum().astype(np.float32))
    run = lanczos(op, KEY, order=30, start=1e-8 * np.ones(op.dim, np.float32))
    assert run.basis is not None
    with float64():
        rows = np.asarray(run.basis.combine(np.eye(30)), np.float64)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() <= 3e-7


def test_11_stopping_does_not_spoil_the_interval():
    """PyHessian and Cockpit stop when an estimate happens to move little, and call it converged."""
    truth = np.concatenate([[1000.0], np.linspace(-1, 2, 1999)])
    op = Diagonal(truth.astype(np.float32))
    options: Any = {"sketch": 0, "tolerance": 0.2, "noise_floor": 1e-5}
    held, count = 0, 40
    for seed in range(count):
        found = trace(op, jax.random.key(seed), **options)
        assert found.method == "two-stage"
        assert found.vectors > 16  # 16 do not reach the target, so what they say decides
        held += found.low <= truth.sum() <= found.high
    assert held >= count - 6  # 38 are expected, 34 leaves room for the draw of the seeds


def test_12_density_does_not_depend_on_the_unit():
    """PyHessian's kernel width is not in units of an eigenvalue: H → c H changes the picture."""
    truth, scale = outlier_spectrum(), 1e-4
    grid = np.linspace(-1, 3, 30)

    def density(factor):
        op = Diagonal((factor * truth).astype(np.float32))
        measure = slq(op, KEY, order=16, noise_floor=factor * 1e-4)
        return measure.density(factor * grid, bandwidth=factor * 0.5, axis=LinearAxis()).value

    reference = density(1.0)
    assert np.abs(scale * density(scale) - reference).max() <= 1e-3 * reference.max()


@pytest.mark.parametrize("tier", Tier)
def test_13_decomposition_holds_in_every_mode(tier):
    """laplax without full reorthogonalisation never subtracts the previous vector."""
    truth = np.linspace(-1, 2, 300)
    single: Any = np.float32
    op = spectra.rotated(truth, dtype=single)
    run = lanczos(op, KEY, order=12, memory=budget(tier, op.dim, 12))
    assert run.tier is tier
    reference = lanczos(op, KEY, order=12)
    tolerance = {Tier.HALF: 2e-3, Tier.NONE: 1e-5}.get(tier, 1e-6)
    assert np.abs(run.diagonal - reference.diagonal).max() <= tolerance
    assert np.abs(run.offdiagonal - reference.offdiagonal).max() <= tolerance
    if run.basis is not None:
        with float64():
            rows = np.asarray(run.basis.combine(np.eye(12)), np.float64)
        small = np.diag(run.diagonal) + np.diag(run.offdiagonal, 1) + np.diag(run.offdiagonal, -1)
        gap = op.to_dense().astype(np.float64) @ rows.T - rows.T @ small
        assert np.abs(gap[:, :-1]).max() <= tolerance
        assert np.linalg.norm(gap[:, -1]) == pytest.approx(run.residual, rel=1e-2)


def test_14_a_failure_leaves_the_configuration_alone():
    """laplax switches float64 on for the process and back only if nothing was raised."""
    before = (jax.config.read("jax_enable_x64"), jnp.ones(1).dtype)

    def fails(vector):
        raise FloatingPointError("broken product")

    with pytest.raises(FloatingPointError):
        lanczos(FunctionOperator(fails, 50), KEY, order=5)
    nan = FunctionOperator(lambda vector: vector * jnp.nan, 50)
    with pytest.raises(OperatorError):
        lanczos(nan, KEY, order=5)
    assert (jax.config.read("jax_enable_x64"), jnp.ones(1).dtype) == before


def test_14_every_pair_says_whether_it_converged():
    """laplax returns all R Ritz pairs of R steps as if they had converged."""
    op = Diagonal(np.geomspace(1e-3, 1, 400).astype(np.float32))
    pairs = eigenpairs(op, KEY, largest=10, smallest=0, order=14)
    assert not pairs.converged.all()
    assert (pairs.converged == (pairs.residuals <= pairs.tolerance * pairs.values.max())).all()


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.HALF, Tier.HOST])
def test_15_rows_are_orthonormal_in_every_setting(tier):
    """matfree's forward and adjoint settings of reorthogonalisation look swapped."""
    op = Diagonal(outlier_spectrum().astype(np.float32))
    run = lanczos(op, KEY, order=60, memory=budget(tier, op.dim, 60))
    assert run.tier is tier
    assert run.basis is not None
    with float64():
        rows = np.asarray(run.basis.combine(np.eye(60)), np.float64)
    gap = np.abs(rows @ rows.T - np.eye(60)).max()
    assert gap <= (2e-2 if tier is Tier.HALF else 1e-6)
    assert abs(run.orthogonality - gap) <= 0.5 * gap + 3e-7


def test_16_convergence_is_relative_to_the_eigenvalue():
    """JAX's lobpcg multiplies its tolerance by 10 n: in float32 everything converges at 4e5."""
    dim = 400_000
    values = np.random.default_rng(0).random(dim, dtype=np.float32)
    values[:3] = 1.5, 1.4999, 1.4998  # cannot be told apart in a few steps
    pairs = eigenpairs(Diagonal(values), KEY, largest=3, smallest=0, order=8, tolerance=1e-6)
    for vector, value, claimed in zip(pairs.vectors, pairs.values, pairs.residuals, strict=True):
        true = np.linalg.norm(values * vector - value * vector)
        assert claimed == pytest.approx(true, rel=1e-3)
    assert not pairs.converged.any()


def test_17_the_scale_of_the_loss_is_part_of_the_result():
    """Two libraries differ by a factor of two because nobody stores which loss was meant."""
    inputs = np.eye(3, 5, dtype=np.float32)
    targets = np.zeros((3, 1), np.float32)

    def predict(params, rows):
        return rows @ params

    loss = Problem(predict, squared_error, jnp.ones((5, 1)), (inputs, targets))
    op = Hessian(loss)
    np.testing.assert_allclose(np.diag(op.to_dense()), [2 / 3] * 3 + [0, 0], rtol=1e-6)
    for part in ("Hessian", "mean squared_error", "3 examples", "5 parameters", "no penalty"):
        assert part in op.estimand
    assert op.estimand in slq(op, KEY, order=2).moment(1).estimand


def test_18_nothing_is_unrolled(compilations):
    """spectral-density unrolls steps, laplax batches, into one program that takes minutes."""
    traces = 0

    def predict(params, inputs):
        nonlocal traces
        traces += 1
        return problems.predict(params, inputs)

    inputs, targets = problems.digits(40)
    batch = list(zip(np.split(inputs, 4), np.split(targets, 4), strict=True))

    def analyse(batch, order):
        lanczos(Hessian(small_problem(batch, 0, predict)), KEY, order=order)

    analyse(batch[:2], 20)
    before = traces, len(compilations)
    assert min(before) > 0
    analyse(4 * batch, 5)  # eight times as many batches
    analyse(batch[:2], 40)  # eight times as many steps as in the line above
    assert (traces, len(compilations)) == before


def test_19_products_ask_for_full_precision(product):
    """On accelerators JAX multiplies matrices in TF32 or bfloat16 unless told otherwise."""
    op = Hessian(small_problem())
    with jax.default_matmul_precision("bfloat16"):
        program = str(jax.make_jaxpr(lambda v: op.matvec(v))(product[0]))
    found = re.findall(r"dot_general\[(.*?)preferred_element_type", program, re.DOTALL)
    assert found
    assert all("HIGHEST" in settings for settings in found)


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.NONE])
def test_20_recurrence_is_float64_and_vectors_stay_on_the_device(tier):
    """Tools that call ARPACK send a float32 vector through the host in every product."""
    dim, seen = 1_000_000, []
    rng = np.random.default_rng(0)
    values, start = rng.random(dim, np.float32), rng.normal(size=dim).astype(np.float32)

    def product(vector):
        seen.append(vector)
        return values * vector

    op = FunctionOperator(product, dim)
    run = lanczos(op, KEY, order=1, start=start, memory=budget(tier, dim, 1))
    assert run.tier is tier
    assert all(isinstance(vector, jax.Array) and vector.dtype == np.float32 for vector in seen)
    # Rounding of the entries averages out over a million of them. That of a sum in float32, at
    # least once at its end, would not: 3e-8 on average.
    shares, exact = start.astype(np.float64) ** 2, values.astype(np.float64)
    shares /= shares.sum()
    mean = shares @ exact
    assert run.diagonal[0] == pytest.approx(mean, rel=1e-9)
    assert run.residual == pytest.approx((shares @ (exact - mean) ** 2) ** 0.5, rel=1e-9)
