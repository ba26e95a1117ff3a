"""PyHessian, curvlinops and hessian-eigenthings, called as their documentation says."""

# These packages are in the environments of the tools, not in this one.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import importlib
import sys
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from tests.benchmarks.networks_torch import Network, from_torch, tensors, to_torch
from tests.benchmarks.problems import Arrays
from tests.benchmarks.tools import Tool, measure


# Without torch here, its base class is unknown.
class Quadratic(nn.Module):  # pyright: ignore[reportUntypedBaseClass]
    """A model whose loss ``θᵀ A θ / 2`` has the Hessian ``A``: how a matrix reaches these tools."""

    def __init__(self, matrix: np.ndarray):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        tensor = torch.from_numpy(matrix)
        self.register_buffer("matrix", tensor)
        start = torch.randn(len(matrix), generator=generator, dtype=tensor.dtype)
        self.theta = nn.Parameter(start)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0, 0] * (self.theta @ (self.matrix @ self.theta)) / 2


class First(nn.Module):  # pyright: ignore[reportUntypedBaseClass]
    """A loss that returns its output."""

    reduction = "mean"

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs


class TorchTool(Tool):
    """What the PyTorch tools share: model, loss and data."""

    def __init__(self, arrays: Arrays):
        super().__init__(arrays)
        if self.is_matrix:
            self.model: nn.Module = Quadratic(arrays.inputs)
            self.loss: nn.Module = First()
            one = torch.ones(1, 1, dtype=torch.from_numpy(arrays.inputs).dtype)
            self.data = (one, torch.zeros(1, dtype=torch.int64))
        else:
            self.model = Network(arrays).eval()
            self.loss = nn.CrossEntropyLoss()
            self.data = tensors(arrays)
        self._prepared: Any = None

    def _value(self) -> torch.Tensor:
        return self.loss(self.model(self.data[0]), self.data[1])

    def pieces(self, vector: np.ndarray) -> list[torch.Tensor]:
        return [to_torch(piece) for piece in self.arrays.unflatten(vector)]

    def whole(self, pieces: Any) -> np.ndarray:
        return self.arrays.flatten([from_torch(piece) for piece in pieces])

    def flat(self, vector: np.ndarray) -> torch.Tensor:
        return torch.cat([piece.reshape(-1) for piece in self.pieces(vector)])

    def unflat(self, vector: torch.Tensor) -> np.ndarray:
        parameters = list(self.model.parameters())
        cut = torch.split(vector, [p.numel() for p in parameters])
        return self.whole([c.reshape(p.shape) for c, p in zip(cut, parameters, strict=True)])

    def loss_and_gradient(self) -> tuple[float, np.ndarray]:
        value = self._value()
        return float(value.detach()), self.whole(
            torch.autograd.grad(value, list(self.model.parameters()))
        )

    def gradient(self) -> None:
        torch.autograd.grad(self._value(), list(self.model.parameters()))


class PyHessian(TorchTool):
    """``pyhessian.hessian`` on one resident batch: its product reuses the first backward pass."""

    absent: ClassVar[dict[str, str]] = {"gauss_newton": "Hessian only"}

    def __init__(self, arrays: Arrays):
        super().__init__(arrays)
        importlib.import_module("pyhessian.hessian")
        module: Any = sys.modules["pyhessian.hessian"]  # the package hides it behind its class
        if not hasattr(torch, "_benchmark_eig"):
            # The released density() calls torch.eig, which current torch no longer has. This is
            # the same call for a symmetric matrix, so that the rest of the tool can be measured.
            def eig(matrix: torch.Tensor, eigenvectors: bool = True) -> Any:
                values, vectors = torch.linalg.eigh(matrix)
                return torch.stack([values, torch.zeros_like(values)], 1), vectors

            torch.eig = eig
            torch._benchmark_eig = True  # type: ignore[attr-defined]
            inner = module.hessian_vector_product

            def counted(*arguments: Any) -> Any:
                _calls[0] += 1
                return inner(*arguments)

            module.hessian_vector_product = counted
        self._module = module

    def fresh(self) -> Any:
        self.model.zero_grad(set_to_none=True)
        return self._module.hessian(self.model, self.loss, data=self.data, cuda=False)

    def _operator(self) -> Any:
        self._prepared = self._prepared or self.fresh()
        return self._prepared

    def product(self, vector: np.ndarray) -> np.ndarray:
        op = self._operator()
        pieces = self.pieces(vector)
        return self.whole(self._module.hessian_vector_product(op.gradsH, op.params, pieces))

    def bare_product(self, which: str = "hessian") -> Any:
        if which != "hessian":
            return self.gauss_newton
        op = self._operator()
        pieces = [torch.randn_like(p) for p in op.params]
        return lambda: self._module.hessian_vector_product(op.gradsH, op.params, pieces)

    def spectrum(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        before = _calls[0]
        nodes, weights = self.fresh().density(iter=order, n_v=vectors)
        return {**measure(nodes, weights), "products": _calls[0] - before}

    def quadrature(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        return measure(*self._operator().density(iter=order, n_v=vectors))

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        """Power iteration with deflation: the budget is shared between five eigenvalues."""
        torch.manual_seed(seed)
        # With a negative tolerance it never stops early on a small change.
        values, _ = self._operator().eigenvalues(maxIter=budget // 5, tol=-1.0, top_n=5)
        return np.array(values)

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        """Its own stopping rule with its default settings; `order` is not used."""
        torch.manual_seed(seed)
        before = _calls[0]
        values, _ = self.fresh().eigenvalues(top_n=count)
        return {"values": np.array(values), "products": _calls[0] - before}

    def trace(self, budget: int, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        values = self._operator().trace(maxIter=budget, tol=-1.0)
        return {"value": float(np.mean(values)), "low": None, "high": None}


_calls = [0]


class Curvlinops(TorchTool):
    """``curvlinops`` operators with its Papyan-style spectra and its trace estimators."""

    def fresh(self, name: str = "hessian") -> Any:
        import curvlinops

        kinds = {
            "hessian": curvlinops.HessianLinearOperator,
            "ggn": curvlinops.GGNLinearOperator,
            "empirical_fisher": curvlinops.EFLinearOperator,
        }
        op = kinds[name](self.model, self.loss, list(self.model.parameters()), [self.data])
        inner = op._matmat

        def counted(columns: Any) -> Any:
            self.products += columns[0].shape[-1]
            return inner(columns)

        op._matmat = counted
        return op

    def _operator(self, name: str) -> Any:
        self._prepared = self._prepared or {}
        if name not in self._prepared:
            self._prepared[name] = self.fresh(name)
        return self._prepared[name]

    def product(self, vector: np.ndarray) -> np.ndarray:
        return self.unflat(self._operator("hessian") @ self.flat(vector))

    def gauss_newton(self, vector: np.ndarray) -> np.ndarray:
        return self.unflat(self._operator("ggn") @ self.flat(vector))

    def empirical_fisher(self, vector: np.ndarray) -> np.ndarray:
        return self.unflat(self._operator("empirical_fisher") @ self.flat(vector))

    def bare_product(self, which: str = "hessian") -> Any:
        op = self._operator(which)
        vector = torch.randn(self.arrays.dim)
        return lambda: op @ vector

    def spectrum(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        from curvlinops import lanczos_approximate_spectrum

        torch.manual_seed(seed)
        np.random.seed(seed)  # ARPACK's start vector, for the range of the spectrum  # noqa: NPY002
        op, before = self.fresh(), self.products
        grid, density = lanczos_approximate_spectrum(op, order, num_repeats=vectors)
        return {
            "grid": grid.numpy().astype(np.float64),
            "density": density.numpy().astype(np.float64),
            "products": self.products - before,
        }

    def quadrature(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        """Its Lanczos without its smoothing and without the products for the range."""
        from curvlinops.papyan2020traces.spectrum import fast_lanczos

        torch.manual_seed(seed)
        op = self._operator("hessian")
        runs = [fast_lanczos(op, order) for _ in range(vectors)]
        return measure(
            np.array([values.numpy() for values, _ in runs]),
            np.array([vectors[0].numpy() ** 2 for _, vectors in runs]),
        )

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        from scipy.sparse import linalg

        eigsh: Any = linalg.eigsh  # SciPy is untyped: `tol` would be an int, as its default 0
        start = np.random.default_rng(seed).normal(size=self.arrays.dim)
        op = self._operator("hessian").to_scipy()
        size = min(budget, self.arrays.dim) - 1  # ARPACK multiplies the start vector first
        return eigsh(
            op, k=min(10, size - 1), which="BE", ncv=size, tol=1e12, maxiter=1,
            v0=start.astype(op.dtype), return_eigenvectors=False,
        )  # fmt: skip

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        """`eigsh` on its SciPy form, as its documentation shows."""
        from scipy.sparse import linalg

        eigsh: Any = linalg.eigsh  # SciPy is untyped: `tol` would be an int, as its default 0
        op = self.fresh()
        before = self.products
        start = np.random.default_rng(seed).normal(size=self.arrays.dim).astype(np.float32)
        values = eigsh(op.to_scipy(), k=count, which="LA", tol=1e-2, v0=start)[0]
        return {"values": np.sort(values)[::-1], "products": self.products - before}

    def trace(self, budget: int, seed: int) -> dict[str, Any]:
        """XTrace, its best estimator."""
        from curvlinops import xtrace

        torch.manual_seed(seed)
        value = float(xtrace(self._operator("hessian"), 2 * (budget // 2)))
        return {"value": value, "low": None, "high": None}


class Eigenthings(TorchTool):
    """``hessian_eigenthings`` 1.0: operators, Lanczos, spectral density, Hutch++."""

    def fresh(self, name: str = "hessian") -> Any:
        from hessian_eigenthings import loss_fns, operators

        standard = loss_fns.standard if hasattr(loss_fns, "standard") else loss_fns
        if name == "hessian":
            op: Any = operators.HessianOperator(
                self.model, [self.data], standard.supervised_loss(self.loss)
            )
        else:
            op = operators.GGNOperator(
                self.model,
                [self.data],
                standard.supervised_forward,
                standard.supervised_loss_of_output(self.loss),
            )
        inner = op.matvec

        def counted(vector: Any) -> Any:
            self.products += 1
            return inner(vector)

        op.matvec = counted
        return op

    def _operator(self, name: str) -> Any:
        self._prepared = self._prepared or {}
        if name not in self._prepared:
            self._prepared[name] = self.fresh(name)
        return self._prepared[name]

    def product(self, vector: np.ndarray) -> np.ndarray:
        return self.unflat(self._operator("hessian").matvec(self.flat(vector)))

    def gauss_newton(self, vector: np.ndarray) -> np.ndarray:
        return self.unflat(self._operator("ggn").matvec(self.flat(vector)))

    def bare_product(self, which: str = "hessian") -> Any:
        op = self._operator(which)
        vector = torch.randn(self.arrays.dim)
        return lambda: op.matvec(vector)

    def spectrum(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.spectral_density import spectral_density

        before = self.products
        found = spectral_density(self.fresh(), num_runs=vectors, lanczos_steps=order, seed=seed)
        nodes = np.nan_to_num(found.raw_eigenvalues.numpy())
        return {**measure(nodes, found.raw_weights.numpy()), "products": self.products - before}

    def quadrature(self, order: int, vectors: int, seed: int) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.spectral_density import spectral_density

        op = self._operator("hessian")
        found = spectral_density(op, num_runs=vectors, lanczos_steps=order, seed=seed)
        return measure(np.nan_to_num(found.raw_eigenvalues.numpy()), found.raw_weights.numpy())

    def ritz(self, budget: int, seed: int) -> np.ndarray:
        from hessian_eigenthings.algorithms.lanczos import lanczos

        steps = min(budget, self.arrays.dim)
        found = lanczos(self._operator("hessian"), k=steps, max_iter=steps, which="LA", seed=seed)
        return found.eigenvalues.numpy()

    def top(self, count: int, order: int, seed: int) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.lanczos import lanczos

        before = self.products
        found = lanczos(self.fresh(), k=count, max_iter=order, which="LA", seed=seed)
        return {"values": found.eigenvalues.numpy(), "products": self.products - before}

    def trace(self, budget: int, seed: int) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.trace import trace

        found = trace(self._operator("hessian"), num_matvecs=budget, seed=seed)
        half = 1.959964 * found.stderr  # it returns a standard error; the usual reading of it
        return {
            "value": found.estimate,
            "low": found.estimate - half,
            "high": found.estimate + half,
        }
