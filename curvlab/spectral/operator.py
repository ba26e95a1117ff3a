"""Symmetric linear operators on flat vectors: the only thing the estimators know of a matrix.

Here is the base class. Operators made of others, such as the results of its algebra, live in
:mod:`curvlab.spectral.derived`, operators with explicit entries in :mod:`curvlab.spectral.explicit`
and curvature matrices of networks in :mod:`curvlab.curvature`.
"""

import abc
import copy
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree
from scipy.sparse.linalg import LinearOperator

from curvlab.core.devices import place
from curvlab.core.errors import OperatorError
from curvlab.core.precision import exact_matmul

DRAWN = 1 << 20
"""Entries of a random vector that are drawn at a time."""

BLOCK = 4
"""Vectors for which streamed data are read once."""

if TYPE_CHECKING:
    from curvlab.spectral.derived import Combination

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
        What the matrix is, for reports; or a function that says it, called when it is first asked.
    positive_semidefinite
        Whether no eigenvalue is negative by construction.
    """

    def __init__(
        self,
        dim: int,
        dtype: Any,
        estimand: str | Callable[[], str],
        *,
        positive_semidefinite: bool = False,
    ):
        self.dim = int(dim)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._estimand = estimand
        self.positive_semidefinite = positive_semidefinite
        self._x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    @property
    def estimand(self) -> str:
        """What the matrix is, for reports."""
        if not isinstance(self._estimand, str):
            self._estimand = self._estimand()
        return self._estimand

    @abc.abstractmethod
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """Return ``A v`` for a vector of this operator's dtype, in :meth:`precision`."""

    def reference(self) -> "SymmetricOperator | None":
        """Return the same matrix computed independently: in float64, or in another order.

        It measures the noise of the products (:meth:`noise_floor`); ``None`` where there is no
        second way.
        """
        return None

    def sharding(self) -> NamedSharding | None:
        """Return how Krylov vectors are spread over several devices, if products are."""
        return None

    def program(self) -> Hashable | None:
        """Return what alone decides whether products are linear and symmetric, if something does.

        Operators that share it (one matrix at several checkpoints) are verified once.
        """
        return None

    def cross_check(self, vector: PyTree, image: Float[np.ndarray, " buckets"]) -> tuple[str, ...]:
        """Compare the product with a vector with what else is known of the matrix.

        Parameters
        ----------
        vector
            A vector as :meth:`unflatten` returns it.
        image
            The :func:`~curvlab.core.sketch.sketch` of the product with it.

        Returns
        -------
        Remarks that belong beside a spectrum. What forbids one is an error.
        """
        del vector, image
        return ()

    def gradients_per_product(self) -> float:
        """Return the operations of a product in those of a gradient; NaN if there is none."""
        return float("nan")

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which products are traced and computed, whatever the caller's."""
        return jax.enable_x64(self._x64 or self.dtype == np.float64)

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
            return self.product(self._cast(vector))

    def _cast(self, vector: Float[Any, " dim"]) -> Float[Array, " dim"]:
        """Return a vector as products take it: of this dtype, on all their devices."""
        return self._placed(jnp.asarray(vector, self.dtype))

    def _placed(self, array: Array) -> Array:
        """Return an array whole on every device of the products."""
        spread = self.sharding()
        return (
            array if spread is None else place(array, NamedSharding(spread.mesh, PartitionSpec()))
        )

    def unflatten(self, vector: Float[Any, " dim"]) -> PyTree:
        """Return a flat vector in the form in which :meth:`add_product` takes it; here the same."""
        with self.precision():
            return self._cast(vector)

    def flatten(self, vector: PyTree) -> Float[Array, " dim"]:
        """Return a vector that :meth:`unflatten` made flat again."""
        return vector

    def add_product(self, total: PyTree, vector: PyTree) -> PyTree:
        """Return ``total + A v``, in the memory of ``total``; both as :meth:`unflatten` made them.

        Here by way of a flat product; operators on trees need no flat copies.

        Raises
        ------
        OperatorError
            If the product has another shape than the vector.
        """
        image = self.matvec(self.flatten(vector))
        if np.shape(image) != (self.dim,):
            raise OperatorError(
                f"A product of {self.estimand} has shape {np.shape(image)}, not ({self.dim},). "
                "Return one flat vector as long as the argument."
            )
        return _added(total, self.unflatten(image))

    def __add__(self, other: "SymmetricOperator") -> "Combination":
        return self.combination([(1.0, self), (1.0, other)])

    def __sub__(self, other: "SymmetricOperator") -> "Combination":
        return self.combination([(1.0, self), (-1.0, other)])

    def __mul__(self, factor: SupportsFloat) -> "Combination":
        return self.combination([(float(factor), self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: SupportsFloat) -> "Combination":
        return self.combination([(1 / float(divisor), self)])

    def __neg__(self) -> "Combination":
        return self.combination([(-1.0, self)])

    def shift(self, c: float) -> "Combination":
        """Return ``A + c I``."""
        return self.combination([(1.0, self)], shift=c)

    def combination(
        self, terms: "Sequence[tuple[float, SymmetricOperator]]", *, shift: float = 0.0
    ) -> "Combination":
        """Return a linear combination of operators like this one; the algebra goes through here."""
        from curvlab.spectral.derived import Combination

        return Combination(terms, shift=shift)

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

    def roundoff(self) -> float:
        """Return the unit roundoff of the products."""
        return float(jnp.finfo(self.dtype).eps)

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
            gap = 4 * self.roundoff() * float(np.linalg.norm(product) / length)
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


Op = TypeVar("Op", bound=SymmetricOperator)


def forgetful_copy(op: Op) -> Op:
    """Return a copy of an operator without what was computed once and kept."""
    other = copy.copy(op)
    for kind in type(op).__mro__:
        for name, value in vars(kind).items():
            if isinstance(value, cached_property):
                vars(other).pop(name, None)
    return other


@partial(jax.jit, donate_argnames="total")
def _added(total: PyTree, image: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, total, image)


@partial(jax.jit, static_argnames="dim")
def random_vector(key: Array, dim: int) -> Float[Array, " dim"]:
    """Draw ``g ~ N(0, I)`` in float32, whatever the operator's precision.

    Operators of both precisions thus see the same directions. In pieces: the generator takes three
    times the memory of what it draws.
    """
    if dim <= DRAWN:
        return jax.random.normal(key, (dim,), jnp.float32)

    def write(piece: Array, vector: Array) -> Array:
        drawn = jax.random.normal(jax.random.fold_in(key, piece), (DRAWN,), jnp.float32)
        return jax.lax.dynamic_update_slice(vector, drawn, (piece * DRAWN,))  # the last one ends it

    return jax.lax.fori_loop(0, -(-dim // DRAWN), write, jnp.zeros(dim, jnp.float32))
