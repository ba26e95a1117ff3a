"""Operators made of others: what only their parts know holds for them too.

Here are the base class and linear combinations; further ones are :mod:`curvlab.spectral.deflated`
and, on parameters, the metrics and blocks of :mod:`curvlab.curvature`.
"""

import abc
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.core.sketch import sketch
from curvlab.spectral.operator import SymmetricOperator


class DerivedOperator(SymmetricOperator):
    """A matrix whose products are computed from products with other matrices, its parts.

    The parts' cross-checks are its own, as are their devices and their cost; it is verified again
    only where a part would be. Subclasses call this constructor, supply :meth:`remade`, and in
    :meth:`product` call the parts' ``matvec``, which sets the precision of each.

    Parameters
    ----------
    parts
        The operators that products are computed with, at least one.
    estimand
        What the matrix is, for reports, or a function that says it.
    dim
        Number of rows; by default that of the parts.
    positive_semidefinite
        Whether no eigenvalue is negative by construction.
    """

    def __init__(
        self,
        parts: Sequence[SymmetricOperator],
        estimand: str | Callable[[], str],
        *,
        dim: int | None = None,
        positive_semidefinite: bool,
    ):
        super().__init__(
            parts[0].dim if dim is None else dim,
            np.result_type(*(part.dtype for part in parts)),
            estimand,
            positive_semidefinite=positive_semidefinite,
        )
        self.parts = tuple(parts)

    @abc.abstractmethod
    def remade(self, parts: Sequence[Any]) -> SymmetricOperator:
        """Return the same construction on other parts, of the same kinds and in the same order."""

    def form(self) -> Hashable:
        """Return what the construction fixes beside its parts, if linearity can depend on it.

        Numbers that change from checkpoint to checkpoint (coefficients, metrics) do not belong
        here: products stay linear and symmetric whatever they are.
        """
        return None

    def for_parts(self, vector: Float[Array, " dim"]) -> Float[Array, " rows"]:
        """Return a vector of this operator as one of its parts."""
        return vector

    @override
    def reference(self) -> SymmetricOperator | None:
        """Return the same construction on the references of those parts that have one."""
        references = [part.reference() for part in self.parts]
        if all(reference is None for reference in references):
            return None
        pairs = zip(references, self.parts, strict=True)
        return self.remade([part if reference is None else reference for reference, part in pairs])

    @override
    def roundoff(self) -> float:
        """Return that of the coarsest part."""
        return max(part.roundoff() for part in self.parts)

    @override
    def sharding(self) -> NamedSharding | None:
        found = {part.sharding() for part in self.parts} - {None}
        return found.pop() if len(found) == 1 else None

    @override
    def program(self) -> Hashable | None:
        programs = tuple(part.program() for part in self.parts)
        if None in programs:
            return None
        return type(self), self.positive_semidefinite, self.form(), programs

    @override
    def cross_check(self, vector: PyTree, image: Float[np.ndarray, " buckets"]) -> tuple[str, ...]:
        """Return the remarks of all parts, each on its own product with the vector."""
        del image
        with self.precision():
            given = np.asarray(self.for_parts(self.flatten(vector)))
        remarks: list[str] = []
        for part in self.parts:
            own = given.astype(part.dtype)
            remarks += part.cross_check(part.unflatten(own), sketch(part.matvec(own)))
        return tuple(dict.fromkeys(remarks))

    @override
    def gradients_per_product(self) -> float:
        """Return the sum over the parts; NaN if one of them is no derivative."""
        return sum(part.gradients_per_product() for part in self.parts)

    def constant(self, values: np.ndarray) -> Array:
        """Return an array of the construction (a metric, an index) for use in products."""
        dtype = self.dtype if values.dtype.kind == "f" else values.dtype
        with self.precision():
            return self._placed(jnp.asarray(values, dtype))


class Combination(DerivedOperator):
    """A linear combination ``Σ_k c_k A_k + s I``, what ``+ - * /`` and :meth:`shift` return.

    Parameters
    ----------
    terms
        Coefficients with operators of one dimension; combinations among them are flattened.
    shift
        Multiple of the identity.

    Raises
    ------
    OperatorError
        If there is no term, the dimensions differ, or the terms lie on different devices.
    """

    def __init__(self, terms: Sequence[tuple[float, SymmetricOperator]], *, shift: float = 0.0):
        flat: list[tuple[float, SymmetricOperator]] = []
        for factor, op in terms:
            if isinstance(op, Combination):
                flat += [(factor * inner, part) for inner, part in op.terms]
                shift += factor * op.identity
            else:
                flat.append((factor, op))
        dims = {op.dim for _, op in flat}
        if len(dims) != 1:
            raise OperatorError(
                f"A combination needs operators of one dimension, got {sorted(dims)}. Build them "
                "on the same parameters."
            )
        if len({op.sharding() for _, op in flat} - {None}) > 1:
            raise OperatorError(
                "A combination needs operators on one mesh of devices, got several. Build them on "
                "one sharded problem."
            )

        def described() -> str:
            names = " + ".join(f"{c:g} × ({op.estimand})" for c, op in flat)
            return f"{names} + {shift:g} × identity" if shift else names

        super().__init__(
            [op for _, op in flat],
            described,
            positive_semidefinite=shift >= 0
            and all(c >= 0 and op.positive_semidefinite for c, op in flat),
        )
        self.terms = tuple(flat)
        self.identity = shift

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        total = self.identity * vector
        for factor, op in self.terms:
            total = total + factor * op.matvec(vector).astype(self.dtype)
        return total

    @override
    def remade(self, parts: Sequence[Any]) -> "Combination":
        factors = [factor for factor, _ in self.terms]
        return self.combination(list(zip(factors, parts, strict=True)), shift=self.identity)
