"""Symmetric linear operators on flat vectors: the only thing the estimators know of a matrix.

Curvature matrices of networks live in :mod:`curvlab.curvature`; here are the base class and the two
operators with explicit entries that tests and users of plain linear algebra need.
"""

import abc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num
from scipy.sparse.linalg import LinearOperator
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.core.precision import exact_matmul, float64

DENSE_LIMIT = 20_000
"""Largest dimension for :meth:`SymmetricOperator.to_dense` (3.2 GB in float64)."""


class SymmetricOperator(abc.ABC):
    """A real symmetric matrix given by its products.

    Subclasses call this constructor and supply :meth:`product`.

    Parameters
    ----------
    dim
        Number of rows.
    dtype
        Dtype in which products are computed.
    estimand
        What the matrix is, for reports.
    positive_semidefinite
        Whether no eigenvalue is negative by construction.
    """

    def __init__(self, dim: int, dtype: Any, estimand: str, *, positive_semidefinite: bool = False):
        self.dim = int(dim)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.estimand = estimand
        self.positive_semidefinite = positive_semidefinite

    @abc.abstractmethod
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """Return ``A v`` for a vector of this operator's dtype, in :meth:`precision`."""

    def reference(self) -> "SymmetricOperator | None":
        """Return the same matrix computed independently: in float64, or in another order.

        It measures the noise of the products (:meth:`noise_floor`); ``None`` where there is no
        second way.
        """
        return None

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which products of this dtype can be computed."""
        return float64() if self.dtype == np.float64 else nullcontext()

    def matvec(self, vector: Float[Any, " dim"]) -> Float[Array, " dim"]:
        """Return ``A v``; one product.

        Raises
        ------
        OperatorError
            If the vector's length is not :attr:`dim`.
        """
        if np.shape(vector) != (self.dim,):
            raise OperatorError(
                f"matvec expects a vector of shape ({self.dim},), got {np.shape(vector)}. "
                "Flatten the tree with the operator's layout first."
            )
        with self.precision(), exact_matmul():
            return self.product(jnp.asarray(vector, self.dtype))

    def matmat(self, rows: Float[Any, "vectors dim"]) -> Float[np.ndarray, "vectors dim"]:
        """Return ``A v`` for each row ``v``, on the host; as many products as rows."""
        return np.stack([np.asarray(self.matvec(row)) for row in rows])

    def to_dense(self) -> Float[np.ndarray, "dim dim"]:
        """Return the symmetrised matrix on the host; ``dim`` products.

        Raises
        ------
        OperatorError
            If the dimension exceeds :data:`DENSE_LIMIT`.
        """
        if self.dim > DENSE_LIMIT:
            raise OperatorError(
                f"to_dense() of an operator with {self.dim} rows would hold "
                f"{self.dim**2 * 8 / 2**30:.0f} GiB; the limit is {DENSE_LIMIT} rows. "
                "Use slq() or eigenpairs()."
            )
        dense = self.matmat(np.eye(self.dim, dtype=self.dtype))
        return (dense + dense.T) / 2

    def to_scipy(self) -> LinearOperator:
        """Return the operator for ``scipy.sparse.linalg`` (products go through the host)."""
        new: Any = LinearOperator  # SciPy's stubs do not know how its constructor dispatches
        return new(
            shape=(self.dim, self.dim),
            matvec=lambda vector: np.asarray(self.matvec(np.ravel(vector))),
            dtype=self.dtype,
        )

    def noise_floor(self, key: Array, *, vectors: Iterable[Any] = (), directions: int = 2) -> float:
        """Measure the noise of the products, ``η = max ‖A v - A_ref v‖ / ‖v‖``.

        The maximum is over ``directions`` random vectors and the given ones (pass the extreme Ritz
        vectors), but at least ``4 ε max ‖A v‖ / ‖v‖`` with the unit roundoff ``ε``. Without a
        reference (operators given by a matrix or a function) this least value is all there is: it
        is right for products that are exact to rounding.

        Parameters
        ----------
        key
            Key of the random directions.
        vectors
            Further directions of shape ``(dim,)``.
        directions
            Number of random directions.

        Returns
        -------
        ``η`` in units of an eigenvalue. Cost: one product and one product of the reference for each
        direction (a float64 product costs about three float32 ones).

        Raises
        ------
        OperatorError
            If a product is not finite.
        """
        trial = [
            *(
                np.asarray(random_vector(jax.random.fold_in(key, i), self.dim))
                for i in range(directions)
            ),
            *(np.asarray(vector) for vector in vectors),
        ]
        reference = self.reference()
        worst = 0.0
        for vector in trial:
            rounded = np.asarray(vector, self.dtype)
            product = np.asarray(self.matvec(rounded), np.float64)
            length = np.linalg.norm(np.asarray(rounded, np.float64))
            gap = 4 * float(jnp.finfo(self.dtype).eps) * float(np.linalg.norm(product) / length)
            if reference is not None:
                other = np.asarray(reference.matvec(rounded), np.float64)
                gap = max(gap, float(np.linalg.norm(product - other) / length))
            if not np.isfinite(gap + float(np.abs(product).sum())):
                raise OperatorError(
                    f"A product of {self.estimand} is not finite. Check the parameters and the "
                    "data for NaN or overflow."
                )
            worst = max(worst, gap)
        return worst


@partial(jax.jit, static_argnames="dim")
def random_vector(key: Array, dim: int) -> Float[Array, " dim"]:
    """Draw ``g ~ N(0, I)`` in float32, whatever the operator's precision.

    Operators of both precisions thus see the same directions.
    """
    return jax.random.normal(key, (dim,), jnp.float32)


def _entries(values: Any, name: str) -> Float[np.ndarray, "..."]:
    """Return real floating-point entries; integers become float64."""
    host = np.asarray(values)
    if host.dtype.kind in "iub":
        host = host.astype(np.float64)
    if not jnp.issubdtype(host.dtype, jnp.floating) or not np.isfinite(host).all():
        raise OperatorError(
            f"{name} expects finite real entries, got dtype {host.dtype}"
            f"{'' if host.dtype.kind == 'c' else ' with NaN or infinity'}. Clean the array first."
        )
    return host


class Dense(SymmetricOperator):
    """A symmetric matrix with explicit entries.

    Parameters
    ----------
    matrix
        Square symmetric array; its dtype is the operator's.
    name
        Name in reports.

    Raises
    ------
    OperatorError
        If the array is not square or not symmetric.
    """

    def __init__(self, matrix: Num[Any, "dim dim"], *, name: str = "matrix"):
        host = _entries(matrix, "Dense")
        if host.ndim != 2 or host.shape[0] != host.shape[1] or not host.shape[0]:
            raise OperatorError(f"Dense expects a square matrix, got shape {host.shape}.")
        gap = float(np.abs(host - host.T).max())
        if not gap <= 1e-5 * float(np.abs(host).max()):
            raise OperatorError(
                f"Dense expects a symmetric matrix; max|A - A^T| is {gap:.3g} beside max|A| "
                f"{float(np.abs(host).max()):.3g}. Symmetrise it, or use its singular values."
            )
        super().__init__(len(host), host.dtype, f"{name} ({len(host)} x {len(host)})")
        with float64():
            self._matrix = jnp.asarray((host + host.T) / 2)

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return jnp.matmul(self._matrix, vector)


class Diagonal(SymmetricOperator):
    """A diagonal matrix: the cheapest operator with a spectrum that is known.

    Parameters
    ----------
    entries
        The eigenvalues.
    name
        Name in reports.
    """

    def __init__(self, entries: Num[Any, " dim"], *, name: str = "diagonal"):
        host = _entries(entries, "Diagonal")
        super().__init__(len(host), host.dtype, f"{name} ({len(host)} x {len(host)})")
        with float64():
            self._entries = jnp.asarray(host)

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self._entries * vector


class FunctionOperator(SymmetricOperator):
    """A symmetric matrix given by a function ``v -> A v``.

    Parameters
    ----------
    function
        The product, on vectors of shape ``(dim,)``.
    dim, dtype
        Dimension and dtype of the vectors.
    name
        Name in reports.
    positive_semidefinite
        Whether the caller promises that no eigenvalue is negative.
    """

    def __init__(
        self,
        function: Callable[[Float[Array, " dim"]], Float[Array, " dim"]],
        dim: int,
        dtype: Any = np.float32,
        *,
        name: str = "operator",
        positive_semidefinite: bool = False,
    ):
        super().__init__(
            dim, dtype, f"{name} ({dim} x {dim})", positive_semidefinite=positive_semidefinite
        )
        self._function = function

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self._function(vector)
