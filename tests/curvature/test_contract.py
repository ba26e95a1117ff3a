"""The contract that every operator passes, on a tiny network with weights and a penalty.

One case is one way to make an operator from a problem, with its matrix by formula. A new operator
is a new line in ``CASES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.precision import float64
from curvlab.curvature import (
    CurvatureOperator,
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    GradientCovariance,
    Hessian,
    Metric,
    MonteCarloFisher,
    Problem,
    ResidualCurvature,
    TangentKernel,
)
from curvlab.curvature.metric import InMetric
from curvlab.objectives import cross_entropy
from tests.oracles import dense_curvature as dense
from tests.oracles.dense_curvature import Oracle

CROSS_ENTROPY = Oracle("cross_entropy")
LENGTHS = jax.tree.map(lambda leaf: 0.3 + np.abs(leaf), dense.init(7))
METRIC = Metric(LENGTHS, "drawn metric")
PART = ("head", "hidden_1/bias")
KEY = 5


def in_metric(matrix: np.ndarray, index: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return ``P^-1/2 A P^-1/2`` for some rows."""
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(LENGTHS)])
    root = 1 / np.sqrt(flat)[index]
    return root[:, None] * matrix * root


def part(matrix: np.ndarray, *paths: str) -> np.ndarray:
    """Return a principal block."""
    index = dense.rows(*paths)
    return matrix[np.ix_(index, index)]


def kept(*paths: str) -> np.ndarray:
    """Return 1 for the entries of some parameters, 0 for the others."""
    return np.isin(np.arange(len(dense.NAMES)), dense.rows(*paths)).astype(float)


def block_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix without entries between layers."""
    layer = np.array([name.split("/")[0] for name in dense.NAMES])
    return np.where(layer[:, None] == layer, matrix, 0)


def drawn_labels() -> np.ndarray:
    """Return the labels that the Monte-Carlo Fisher matrix draws."""
    batches = MonteCarloFisher(problem(), jax.random.key(KEY), samples=2).problem.batches()
    return np.concatenate([np.asarray(batch.targets) for batch in batches])


@dataclass(frozen=True)
class Case:
    """How to make an operator, and its matrix by formula."""

    make: Callable[[Problem], Any]
    matrix: Callable[[Oracle], np.ndarray]
    semidefinite: bool = True
    ordered: bool = False
    """Whether the order of the examples matters."""


CASES = {
    "hessian": Case(Hessian, lambda o: o.hessian, semidefinite=False),
    "gauss_newton": Case(GaussNewton, lambda o: o.gauss_newton),
    "fisher": Case(Fisher, Oracle.fisher),
    "monte_carlo_fisher": Case(
        lambda p: MonteCarloFisher(p, jax.random.key(KEY), samples=2),
        lambda o: o.sampled_fisher(drawn_labels()),
        ordered=True,
    ),
    "empirical_fisher": Case(EmpiricalFisher, lambda o: o.second_moment),
    "gradient_covariance": Case(GradientCovariance, lambda o: o.covariance),
    "residual": Case(ResidualCurvature, lambda o: o.residual, semidefinite=False),
    "block of hessian": Case(
        lambda p: Hessian(p).block(PART), lambda o: part(o.hessian, *PART), semidefinite=False
    ),
    "last layers of gauss_newton": Case(
        lambda p: GaussNewton(p).block(last=2), lambda o: part(o.gauss_newton, "head", "hidden_1")
    ),
    "block of covariance": Case(
        lambda p: GradientCovariance(p).block("hidden_0"), lambda o: part(o.covariance, "hidden_0")
    ),
    "block of monte_carlo_fisher": Case(
        lambda p: MonteCarloFisher(p, jax.random.key(KEY), samples=2).block("head"),
        lambda o: part(o.sampled_fisher(drawn_labels()), "head"),
        ordered=True,
    ),
    "block diagonal of hessian": Case(
        lambda p: Hessian(p).block_diagonal(),
        lambda o: block_diagonal(o.hessian),
        semidefinite=False,
    ),
    "shared block of hessian": Case(
        lambda p: Hessian(p).block_diagonal().blocks["hidden_1"],
        lambda o: part(o.hessian, "hidden_1"),
        semidefinite=False,
    ),
    "hessian in metric": Case(
        lambda p: Hessian(p).in_metric(METRIC), lambda o: in_metric(o.hessian), semidefinite=False
    ),
    "block in metric": Case(
        lambda p: Fisher(p).in_metric(METRIC).block(PART),
        lambda o: in_metric(part(o.fisher(), *PART), dense.rows(*PART)),
    ),
    "difference of operators": Case(
        lambda p: Hessian(p) - 0.5 * GaussNewton(p),
        lambda o: o.hessian - 0.5 * o.gauss_newton,
        semidefinite=False,
    ),
    **{
        f"tangent kernel, {outputs}": Case(
            lambda p, outputs=outputs: TangentKernel(p, outputs=outputs),
            lambda o, outputs=outputs: o.kernel(outputs),
            ordered=True,
        )
        for outputs in ("full", "gauss_newton", "trace", "logit-sum", "target")
    },
    "tangent kernel, block in metric": Case(
        lambda p: TangentKernel(p).in_metric(METRIC).block(PART),
        lambda o: o.kernel("full", kept(*PART) * in_metric(np.eye(o.dim)).diagonal() ** 0.5),
        ordered=True,
    ),
}


BASIC = ("fisher", "monte_carlo_fisher", "empirical_fisher", "gradient_covariance", "residual")
"""Matrices of their own; Hessian and Gauss-Newton are tested again on a trained network."""


def problem(dtype: Any = np.float64, batch: Any = None, params: Any = dense.PARAMS) -> Problem:
    """Return the tiny problem; call it in float64() for float64."""
    whole = (dense.INPUTS.astype(dtype), dense.LABELS, dense.WEIGHTS.astype(dtype))
    return Problem(
        dense.predict,
        cross_entropy,
        jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params),
        batch or whole,
        penalty=dense.penalty,
    )


@cache
def operator(name: str) -> Any:
    """Return the operator of a case in float64."""
    with float64():
        return CASES[name].make(problem())


@cache
def expected(name: str) -> np.ndarray:
    """Return the matrix of a case by its formula."""
    with float64():
        return CASES[name].matrix(CROSS_ENTROPY)


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    """Name of a case."""
    return request.param


def some(*default: str) -> Any:
    """Return a decorator for tests that compile programs of their own.

    They take the given cases, and in long runs one of each class.
    """
    kinds = [name for name in CASES if not name.startswith(("block", "tangent kernel, "))]
    kinds += ["block of hessian", "block diagonal of hessian", "tangent kernel, full"]
    rest = [name for name in kinds if name not in default]
    return pytest.mark.parametrize(
        "name", [*default, *(pytest.param(name, marks=pytest.mark.long) for name in rest)]
    )


def test_equals_its_formula_entry_by_entry(name):
    # Columns one by one, not symmetrised: an asymmetric product would show here.
    op, matrix = operator(name), expected(name)
    assert op.dim == len(matrix)
    columns = op.matmat(np.eye(op.dim))
    np.testing.assert_allclose(columns, matrix, atol=1e-13 * np.abs(matrix).max())
    np.testing.assert_allclose(op.to_dense(), matrix, atol=1e-13 * np.abs(matrix).max())


def test_linear_and_symmetric(name):
    op = operator(name)
    u, v = np.random.default_rng(0).normal(size=(2, op.dim))
    au, av = np.asarray(op.matvec(u)), np.asarray(op.matvec(v))
    size = float(np.linalg.norm(au) + np.linalg.norm(av))
    np.testing.assert_allclose(op.matvec(u - 3e3 * v), au - 3e3 * av, atol=1e-12 * 3e3 * size)
    assert u @ av == pytest.approx(v @ au, abs=1e-13 * size * float(np.linalg.norm(v)))


def test_positive_semidefinite_where_promised(name):
    op = operator(name)
    assert op.positive_semidefinite == CASES[name].semidefinite
    if op.positive_semidefinite:
        values = np.linalg.eigvalsh(expected(name))
        assert values.min() > -1e-14 * max(1, values.max())


@some()
def test_same_outside_jit(name):
    op = operator(name)
    vector = np.random.default_rng(1).normal(size=op.dim)
    product = np.asarray(op.matvec(vector))
    with float64(), jax.disable_jit():
        plain = CASES[name].make(problem()).matvec(vector)
    np.testing.assert_allclose(plain, product, atol=1e-13 * float(np.linalg.norm(product)))


def cut(sizes: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    """Return the data in batches of some sizes."""
    ends = np.cumsum(sizes)
    arrays = (dense.INPUTS, dense.LABELS, dense.WEIGHTS)
    return [
        tuple(array[end - size : end] for array in arrays)
        for size, end in zip(sizes, ends, strict=True)
    ]


@some("gradient_covariance", "monte_carlo_fisher", "tangent kernel, full")
def test_independent_of_batches_their_order_and_their_source(name):
    vector = np.random.default_rng(2).normal(size=operator(name).dim)
    product = np.asarray(operator(name).matvec(vector))
    parts = cut((4, 4, 3))
    sources: list[Any] = [parts] if CASES[name].ordered else [parts[::-1], lambda: iter(parts)]
    if name == "monte_carlo_fisher":
        sources.append(lambda: iter(parts))
    size = float(np.linalg.norm(product))
    for source in sources:
        with float64():
            op = CASES[name].make(problem(batch=source))
        np.testing.assert_allclose(op.matvec(vector), product, atol=1e-13 * size)


@some(*BASIC)
def test_float32_products_and_their_float64_reference(name):
    op = CASES[name].make(problem(np.float32))
    matrix, reference = expected(name), op.reference()
    assert op.dtype == np.float32
    assert reference.dtype == np.float64
    assert reference.dim == op.dim
    vector = np.random.default_rng(3).normal(size=op.dim).astype(np.float32)
    exact = matrix @ vector
    scale = np.abs(matrix).max() * np.linalg.norm(vector)
    # Parameters and data are rounded to float32 in both.
    single, double = (np.asarray(which.matvec(vector), np.float64) for which in (op, reference))
    assert np.abs(single - exact).max() < 3e-6 * scale
    assert np.abs(double - exact).max() < 1e-6 * scale
    assert 0 < np.linalg.norm(single - double) < 2e-6 * scale


@some("shared block of hessian", "tangent kernel, full")
def test_float64_operators_have_a_reference_that_sums_otherwise(name):
    twin = operator(name).reference()
    if isinstance(operator(name), TangentKernel):
        assert twin is None  # another order of examples is another matrix
        return
    matrix = expected(name)
    np.testing.assert_allclose(twin.to_dense(), matrix, atol=1e-13 * np.abs(matrix).max())


@some(*BASIC)
def test_second_checkpoint_compiles_nothing(name, compilations):
    def products(seed):
        point = dense.init(seed)
        op = CASES[name].make(problem(np.float32, params=point))
        return np.asarray(op.matvec(np.ones(op.dim, np.float32)))

    first, before = products(3), len(compilations)
    second = products(4)
    assert len(compilations) == before
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["gradient_covariance", "block of hessian", "hessian in metric"])
def test_tree_products_are_flat_products(name):
    op = operator(name)
    vector = np.random.default_rng(4).normal(size=op.dim)
    with float64():
        tree = op.layout.unravel(jnp.asarray(vector))
        product = op.layout.ravel(op.matvec_tree(tree))
    np.testing.assert_allclose(product, op.matvec(vector), atol=1e-14)
    names = [name for name in dict.fromkeys(dense.NAMES) if name in op.layout.names]
    assert list(op.layout.names) == names


def test_scipy_sees_the_same_operator(name):
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(5).normal(size=operator(name).dim)
    top = eigsh(operator(name).to_scipy(), k=1, which="LA", v0=start, return_eigenvectors=False)
    assert top[0] == pytest.approx(np.linalg.eigvalsh(expected(name))[-1])


def test_report_says_which_matrix(name):
    op = operator(name)
    assert f"{dense.EXAMPLES} examples" in op.estimand
    if isinstance(op, CurvatureOperator | InMetric):
        assert "mean cross_entropy" in op.estimand
        whole = op.dim == CROSS_ENTROPY.dim
        assert (f"{op.dim} parameters" if whole else f"{op.dim} of 43 parameters") in op.estimand
        included = "penalty included" in op.estimand
        assert included == ("hessian" in name)
    if isinstance(op, InMetric):
        assert op.estimand.endswith("in the drawn metric")
