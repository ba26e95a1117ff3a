"""curvlab, and SciPy's ARPACK on curvlab's products."""

import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import linalg
from scipy.sparse.linalg import ArpackNoConvergence

from curvlab.core.precision import float64
from curvlab.curvature import EmpiricalFisher, GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import Dense, eigenpairs, lanczos, slq, trace
from tests.benchmarks.curvlab_networks import as_tree, flat_order, predict_of, state_of
from tests.benchmarks.curvlab_questions import OwnQuestions
from tests.benchmarks.problems import Arrays
from tests.benchmarks.tools import Tool

eigsh: Any = linalg.eigsh  # SciPy is untyped: `tol` would be an int, as its default 0 is

OPERATORS = {"hessian": Hessian, "ggn": GaussNewton, "empirical_fisher": EmpiricalFisher}


class CurvlabProducts(Tool):
    """The products of this library, whoever uses them."""

    def __init__(self, arrays: Arrays):
        super().__init__(arrays)
        if self.is_matrix:
            self._operators = {"hessian": self.fresh()}
            self._order = np.arange(arrays.dim)
            return
        with float64():
            self._tree = as_tree(arrays)
        self._order = flat_order(arrays)
        self._operators: dict[str, Any] = {}

    def problem(self) -> Problem:
        spec, inputs = self.arrays.spec, self.arrays.inputs
        batch = (inputs, np.asarray(self.arrays.targets, np.int32))
        return Problem(
            predict_of(spec), cross_entropy, self._tree, batch, state=state_of(self.arrays)
        )

    def fresh(self, matrix: Any = Hessian) -> Any:
        """Return a new operator: nothing linearised, no noise floor known."""
        with float64():
            if self.is_matrix:
                op: Any = Dense(self.arrays.inputs, name=self.arrays.spec.get("name", "matrix"))
            else:
                op = matrix(self.problem())
        if self.counting:
            inner = op.product

            def counted(vector: Any) -> Any:
                self.products += 1
                return inner(vector)

            op.product = counted
        return op

    def _operator(self, name: str) -> Any:
        if name not in self._operators:
            self._operators[name] = self.fresh(OPERATORS[name])
        return self._operators[name]

    def loss_and_gradient(self) -> tuple[float, np.ndarray]:
        problem = self._operator("hessian").problem
        with float64():  # outside, flattening would round to float32
            flat = np.asarray(problem.layout.ravel(problem.gradient()))
        return problem.value(), flat[self._order]

    def gradient(self) -> None:
        jax.block_until_ready(self._operator("hessian").problem.gradient())

    def _inward(self, vector: np.ndarray) -> np.ndarray:
        inward = np.empty_like(vector)
        inward[self._order] = vector
        return inward

    def product(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(self._operator("hessian").matvec(self._inward(vector)))[self._order]

    def gauss_newton(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(self._operator("ggn").matvec(self._inward(vector)))[self._order]

    def empirical_fisher(self, vector: np.ndarray) -> np.ndarray:
        op = self._operator("empirical_fisher")
        return np.asarray(op.matvec(self._inward(vector)))[self._order]

    def matmul_rate(self) -> float:
        """Return the floating-point operations per second of a large float32 matrix product."""
        size = 2048
        left = jax.random.normal(jax.random.key(0), (size, size))
        multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
        jax.block_until_ready(multiply(left))
        start = time.perf_counter()
        for _ in range(2):
            jax.block_until_ready(multiply(left))
        return 2 * 2 * size**3 / (time.perf_counter() - start)

    def bare_product(self, which: str = "hessian") -> Any:
        """Return a product on device arrays, for timing without transfers."""
        op = self._operator(which)
        vector = jax.random.normal(jax.random.key(0), (op.dim,))
        return lambda: jax.block_until_ready(op.matvec(vector))


class Curvlab(OwnQuestions, CurvlabProducts):
    """This library, called as its documentation says."""

    def spectrum(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        found = slq(self.fresh(), jax.random.key(seed), order=order, vectors=vectors)
        grid = found.grid
        band = found.cdf_band(grid)  # the band belongs to the answer
        shares = found.vector_weights[:, None] * found.weights
        return {
            "nodes": found.nodes.ravel(),
            "weights": shares.ravel(),
            "products": found.matvecs,
            "band_width": float((band.high - band.low).mean()),
        }

    def quadrature(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        """Return the measure alone: all products go to Lanczos steps."""
        found = slq(
            self._operator("hessian"),
            jax.random.key(seed),
            order=order,
            vectors=vectors,
            noise_floor=0.0,
        )
        shares = found.vector_weights[:, None] * found.weights
        return {"nodes": found.nodes.ravel(), "weights": shares.ravel()}

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        order = min(budget, self.arrays.dim)
        op, key = self._operator("hessian"), jax.random.key(seed)
        run = lanczos(op, key, order=order)
        if not run.breakdown_step:
            return run.ritz()[0]
        # An exhausted space has one copy of each eigenvalue: eigenpairs() goes on. It spends six of
        # the products that are left on residuals.
        left = order - run.order - 6
        return eigenpairs(op, key, order=left, largest=5, smallest=1, noise_floor=0.0).values

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        """Let it stop by its own residuals; `order` is not used."""
        pairs = eigenpairs(
            self.fresh(),
            jax.random.key(seed),
            largest=count,
            smallest=0,
            tolerance=0.01,
            noise_floor=0.0,
        )
        return {
            "values": pairs.values,
            "products": pairs.matvecs,
            "converged": bool(pairs.converged.all()),
        }

    def trace(self, budget: int, seed: int) -> dict[str, Any]:
        """Half of the products for a Krylov space, half for the rest."""
        op = self._operator("hessian")
        vectors = budget // 2
        found = trace(
            op, jax.random.key(seed), sketch=budget - vectors, vectors=vectors, noise_floor=0.0
        )
        return {"value": found.value, "low": found.low, "high": found.high}


class Arpack(CurvlabProducts):
    """SciPy's ``eigsh`` on curvlab's products."""

    absent: ClassVar[dict[str, str]] = dict.fromkeys(
        ("spectrum", "quadrature", "trace"), "eigenvalues only"
    )

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        op = self._operator("hessian").to_scipy()
        start = np.random.default_rng(seed).normal(size=self.arrays.dim).astype(op.dtype)
        # With this tolerance ARPACK stops after one factorisation: `ncv` products, after one for
        # the start vector.
        size = min(budget, self.arrays.dim) - 1
        return eigsh(
            op, k=min(10, size - 1), which="BE", ncv=size, tol=1e12, v0=start, maxiter=1,
            return_eigenvectors=False,
        )  # fmt: skip

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        """Let ARPACK converge to 1 % with its default subspace; `order` is not used."""
        self.counting, before = True, self.products
        op = self.fresh().to_scipy()
        start = np.random.default_rng(seed).normal(size=self.arrays.dim).astype(op.dtype)
        try:
            values = eigsh(op, k=count, which="LA", tol=1e-2, v0=start)[0]
        except ArpackNoConvergence as error:
            values = error.eigenvalues
        self.counting = False
        return {"values": np.sort(values)[::-1], "products": self.products - before}
