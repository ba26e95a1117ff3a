"""matfree, laplax and traceax on the benchmark networks written with JAX's native convolution."""

# These packages are in the environments of the tools, not in this one.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from tests.benchmarks.networks_jax import mean_loss, on_device, predictor
from tests.benchmarks.problems import Arrays
from tests.benchmarks.tools import Tool, measure


class JaxTool(Tool):
    """What the JAX tools share: the product their users write, Pearlmutter's in one line."""

    def __init__(self, arrays: Arrays):
        super().__init__(arrays)
        jax.config.update("jax_enable_x64", arrays.inputs.dtype == np.float64)
        if self.is_matrix:
            self.params: Any = jnp.zeros(arrays.dim, arrays.inputs.dtype)
            self.batch = (jnp.asarray(arrays.inputs), None)
        else:
            params, *batch = on_device(arrays)
            self.params, self.batch = params, tuple(batch)
            self.loss = mean_loss(arrays.spec)
        self.flat, self.unravel = ravel_pytree(self.params)
        # Data and weights are arguments: as constants they would be folded into the program.
        self.arguments = (self.params, self.batch)
        self._compiled: dict[Any, Any] = {}

    def matvec(self, vector: Any, params: Any, batch: Any) -> Any:
        """Return the Hessian product of a flat vector."""
        if self.counting:
            jax.debug.callback(self._count)
        if self.is_matrix:
            return batch[0] @ vector
        gradient = jax.grad(self.loss)
        tangent = self.unravel(vector)
        out = jax.jvp(lambda p: gradient(p, *batch), (params,), (tangent,))[1]
        return ravel_pytree(out)[0]

    def ggn_matvec(self, vector: Any, params: Any, batch: Any) -> Any:
        """Return the Gauss-Newton product, linearised anew in each call."""
        inputs, targets = batch
        predict = predictor(self.arrays.spec)
        outputs, forward = jax.linearize(lambda p: predict(p, inputs), params)

        def of_outputs(logits: Any) -> Any:
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1)
            return -chosen.mean()

        tangent = self.unravel(vector)
        curved = jax.jvp(jax.grad(of_outputs), (outputs,), (forward(tangent),))[1]
        return ravel_pytree(jax.linear_transpose(forward, tangent)(curved)[0])[0]

    def _count(self) -> None:
        self.products += 1

    def jitted(self, key: Any, function: Any) -> Any:
        """Compile once for each setting."""
        if (key, self.counting) not in self._compiled:
            self._compiled[key, self.counting] = jax.jit(function)
        return self._compiled[key, self.counting]

    def start(self, seed: int) -> Any:
        return jax.random.normal(jax.random.key(seed), self.flat.shape, self.flat.dtype)

    def loss_and_gradient(self) -> tuple[float, np.ndarray]:
        value, gradient = jax.jit(jax.value_and_grad(self.loss))(self.params, *self.batch)
        return float(value), np.asarray(ravel_pytree(gradient)[0])

    def gradient(self) -> None:
        function = self.jitted("gradient", lambda p, b: jax.grad(self.loss)(p, *b))
        jax.block_until_ready(function(*self.arguments))

    def product(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(self.jitted("product", self.matvec)(vector, *self.arguments))

    def gauss_newton(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(self.jitted("ggn", self.ggn_matvec)(vector, *self.arguments))

    def bare_product(self, which: str = "hessian") -> Any:
        function = self.jitted(*{"hessian": ("product", self.matvec), "ggn": ("ggn", self.ggn_matvec)}[which])  # fmt: skip  # noqa: E501
        vector = self.start(0)
        return lambda: jax.block_until_ready(function(vector, *self.arguments))


class Matfree(JaxTool):
    """``matfree``: tridiagonalisation with full reorthogonalisation, XTrace."""

    def _tridiagonalise(self, order: int, vectors: int, seed: int) -> tuple[Any, Any]:
        from matfree import decomp

        tridiagonalise = decomp.tridiag_sym(order, custom_vjp=False)

        def run(start: Any, params: Any, batch: Any) -> Any:
            small = tridiagonalise(lambda v: self.matvec(v, params, batch), start).J_small
            values, rotation = jnp.linalg.eigh(small)
            return values, rotation[0] ** 2

        compiled = self.jitted(("lanczos", order), run)
        runs = [compiled(self.start(1000 * seed + i), *self.arguments) for i in range(vectors)]
        return np.array([v for v, _ in runs]), np.array([w for _, w in runs])

    def spectrum(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        return measure(*self._tridiagonalise(order, vectors, seed))

    quadrature = spectrum

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        return self._tridiagonalise(min(budget, self.arrays.dim), 1, seed)[0][0]

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        from matfree import decomp, eig

        partial = eig.eigh_partial(decomp.tridiag_sym(order, custom_vjp=False))

        def run(start: Any, params: Any, batch: Any) -> Any:
            return partial(lambda v: self.matvec(v, params, batch), start)

        values, vectors = self.jitted(("top", order), run)(self.start(seed), *self.arguments)
        jax.block_until_ready(vectors)
        return {"values": np.sort(np.asarray(values))[::-1][:count], "products": order}

    def trace(self, budget: int, seed: int) -> dict[str, Any]:
        from matfree import stochtrace

        sampler = stochtrace.sampler_normal(self.flat, num=budget // 2)
        estimate = stochtrace.estimator_leave_one_out_mean_and_sem(
            stochtrace.leave_one_out_xtrace(), sampler
        )

        def run(key: Any, params: Any, batch: Any) -> Any:
            return estimate(lambda v: self.matvec(v, params, batch), key)

        value, error = self.jitted(("trace", budget), run)(jax.random.key(seed), *self.arguments)
        half = 1.959964 * float(error)
        return {"value": float(value), "low": float(value) - half, "high": float(value) + half}


class Laplax(JaxTool):
    """``laplax``: its Hessian product and its low-rank Lanczos."""

    absent: ClassVar[dict[str, str]] = {
        "spectrum": "no density; returns Ritz values only",
        "quadrature": "no density; returns Ritz values only",
        "trace": "no trace estimator",
    }

    def _operator(self, which: str = "hessian") -> Any:
        from laplax.curv.ggn import create_ggn_mv
        from laplax.curv.hessian import create_hessian_mv

        if self.is_matrix:
            return lambda v: self.matvec(v, *self.arguments)
        predict = predictor(self.arrays.spec)
        inputs, targets = self.batch
        create = create_hessian_mv if which == "hessian" else create_ggn_mv

        # Its Gauss-Newton product maps the loss over examples, its Hessian product does not.
        def one(logits: Any, target: Any) -> Any:
            return -jax.nn.log_softmax(logits)[target]

        def together(logits: Any, targets: Any) -> Any:
            return jax.vmap(one)(logits, targets).sum()

        product = create(
            lambda input, params: predict(params, input[None])[0],  # noqa: A006
            self.params,
            {"input": inputs, "target": targets},
            together if which == "hessian" else one,
            num_curv_samples=len(inputs),
            num_total_samples=1,
        )

        def flat(vector: Any) -> Any:
            if self.counting:
                jax.debug.callback(self._count)
            return ravel_pytree(product(self.unravel(vector)))[0]

        return flat

    def product(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(jax.jit(self._operator())(vector))

    def gauss_newton(self, vector: np.ndarray) -> np.ndarray:
        return np.asarray(jax.jit(self._operator("ggn"))(vector))

    def bare_product(self, which: str = "hessian") -> Any:
        function = self.jitted(("own", which), self._operator(which))
        vector = self.start(0)
        return lambda: jax.block_until_ready(function(vector))

    def _low_rank(self, order: int, seed: int) -> np.ndarray:
        from laplax.curv.lanczos import lanczos_lowrank

        terms = lanczos_lowrank(
            self._operator(), key=jax.random.key(seed), layout=self.arrays.dim, rank=order
        )
        jax.block_until_ready(terms.U)
        return np.sort(np.asarray(terms.S))[::-1]

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        return self._low_rank(min(budget, self.arrays.dim), seed)

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        return {"values": self._low_rank(order, seed)[:count], "products": order}


class Traceax(JaxTool):
    """``traceax``: its trace estimators; XTrace is the best of them here."""

    absent: ClassVar[dict[str, str]] = {
        "spectrum": "traces only",
        "quadrature": "traces only",
        "ritz": "traces only",
        "top": "traces only",
        "gauss_newton": "traces only",
    }

    def trace(self, budget: int, seed: int) -> dict[str, Any]:
        import lineax
        import traceax

        def run(key: Any, params: Any, batch: Any) -> Any:
            operator = lineax.FunctionLinearOperator(
                lambda v: self.matvec(v, params, batch),
                jax.ShapeDtypeStruct(self.flat.shape, self.flat.dtype),
                lineax.symmetric_tag,
            )
            value, statistics = traceax.XTraceEstimator().estimate(key, operator, budget)
            return value, statistics["std.err"]

        value, error = self.jitted(("trace", budget), run)(jax.random.key(seed), *self.arguments)
        half = 1.959964 * float(error)
        return {"value": float(value), "low": float(value) - half, "high": float(value) + half}
