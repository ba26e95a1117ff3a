"""Operators given by their entries or by a function, for tests and plain linear algebra."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral.operator import SymmetricOperator


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
            raise OperatorError(
                f"Dense expects a square matrix, got shape {host.shape}. Pass a symmetric one, "
                "such as A.T @ A for the squared singular values of A."
            )
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
