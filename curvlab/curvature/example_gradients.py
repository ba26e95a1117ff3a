"""Per-example gradients kept in factors, found in the traced program of any loss.

The program of *one* example is traced and cut where parameters meet data. At such a meeting the
gradient of a weight matrix is ``Σ_s x_s d_sᵀ``, with ``x_s`` what the matrix was multiplied with at
place ``s`` (one place for a dense layer, every window for a convolution) and ``d_s`` the derivative
in the product. Inner products of gradients follow from ``x`` and ``d``; the gradients themselves
are formed only where that is cheaper, and for parameters that are used in any other way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from curvlab.core.programs import bind, evaluate, evaluate_inlined, reached_from, shape_of
from curvlab.core.trees import path_name
from curvlab.curvature.traced_products import Factors, Product

# What changes the place of entries and nothing else: inner products of gradients stay the same.
_VIEWS = {"reshape", "transpose", "squeeze", "expand_dims", "copy", "rev"}

# Pairs of places multiplied at once, in bytes.
_PAIR_BYTES = 2**26


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Features:
    """Gradients of some examples, divided by ``scale``, in a form that gives inner products.

    Attributes
    ----------
    scale
        One positive factor per example, so that squares neither overflow nor vanish.
    rows
        Gradients of some parameters, one row per example.
    factors
        Pairs ``(x, d)`` of shapes ``(examples, places, inputs)`` and ``(examples, places,
        outputs)``: the gradient of example ``i`` is ``Σ_s x_is d_isᵀ``.
    """

    scale: Float[Array, " examples"]
    rows: tuple[Float[Array, "examples _"], ...]
    factors: tuple[Factors, ...]


@jax.jit
def inner_products(left: Features, right: Features) -> Float[Array, "left right"]:
    """Return the inner products of scaled gradients, ``⟨g_i, g_j⟩ / (scale_i scale_j)``."""
    parts = [a @ b.T for a, b in zip(left.rows, right.rows, strict=True)]
    parts += [_pairs(*a, *b) for a, b in zip(left.factors, right.factors, strict=True)]
    return sum(parts[1:], parts[0])


def _pairs(x: Array, d: Array, y: Array, e: Array) -> Array:
    """Return ``Σ_st (x_is · y_jt) (d_is · e_jt)``, some examples ``i`` at a time."""
    if x.shape[1] == 1:
        return (x[:, 0] @ y[:, 0].T) * (d[:, 0] @ e[:, 0].T)

    def of_one(pair: tuple[Array, Array]) -> Array:
        one, two = pair
        inputs = one @ y.reshape(-1, y.shape[-1]).T
        derivatives = two @ e.reshape(-1, e.shape[-1]).T
        return (inputs * derivatives).sum(axis=0).reshape(y.shape[:2]).sum(axis=1)

    bytes_each = x.shape[1] * y.shape[0] * y.shape[1] * x.dtype.itemsize
    return jax.lax.map(of_one, (x, d), batch_size=max(1, _PAIR_BYTES // bytes_each))


@dataclass(frozen=True, eq=False)
class Site:
    """An equation in which parameters meet data.

    Attributes
    ----------
    equation
        The equation.
    leaves
        Numbers of the parameter leaves that some of its operands are made of.
    product
        What kind of product it is, if it is one.
    """

    equation: Any
    leaves: tuple[int, ...]
    product: Product | None

    @property
    def results(self) -> list[Any]:
        """The floating-point variables that it returns."""
        kept = (v for v in self.equation.outvars if not isinstance(v, core.DropVar))
        return [v for v in kept if jnp.issubdtype(v.aval.dtype, jnp.floating)]


@dataclass(frozen=True, eq=False)
class GradientProgram:
    """How the gradients of one program are computed, example by example.

    Attributes
    ----------
    factored
        Parameters whose gradients are kept as factors.
    explicit
        Parameters whose gradients are formed from those factors.
    generic
        Parameters used in some other way, whose gradients are formed by differentiation.
    held
        Numbers that the program of one example holds, a measure of its memory.
    kept
        Numbers in the features of one example.
    """

    closed: core.ClosedJaxpr
    count: int
    sites: tuple[Site, ...]
    products: dict[int, tuple[Site, ...]]
    as_rows: frozenset[int]
    factored: tuple[str, ...]
    explicit: tuple[str, ...]
    generic: tuple[str, ...]
    held: int
    kept: int

    def features(self, leaves: Sequence[Array], rest: Sequence[Any], example: Any) -> Features:
        """Return the features of a block of examples; call it inside jit.

        Parameters
        ----------
        leaves
            Leaves of the parameters.
        rest
            Leaves of the other arguments that all examples share.
        example
            Leaves with a leading example axis.
        """
        of_one = jax.vmap(partial(self._of_one, list(leaves), list(rest)))
        return Features(*of_one(list(example)))

    def _of_one(
        self, leaves: list[Array], rest: list[Any], example: list[Any]
    ) -> tuple[Array, tuple[Array, ...], tuple[Factors, ...]]:
        """Return the fields of :class:`Features` for one example, without their leading axis."""

        def run(taps: list[list[Array]]) -> tuple[Array, list[list[Any]]]:
            return self._evaluate([*leaves, *rest, *example], taps)

        taps = [[jnp.zeros(v.aval.shape, v.aval.dtype) for v in s.results] for s in self.sites]
        derivatives, operands = jax.grad(run, has_aux=True)(taps)
        peaks = [jnp.max(jnp.abs(d)) for d in jax.tree.leaves(derivatives)]
        largest = jnp.stack([jnp.zeros(()), *peaks]).max()
        scale = jnp.where(largest > 0, largest, 1)
        derivatives = jax.tree.map(lambda d: d / scale.astype(d.dtype), derivatives)
        seen = {
            id(site): (ds, xs)
            for site, ds, xs in zip(self.sites, derivatives, operands, strict=True)
        }
        rows: list[Array] = []
        factors: list[Factors] = []
        for number, sites in self.products.items():
            pairs: list[Factors] = []
            for site in sites:
                assert site.product is not None
                (derivative,), inputs = seen[id(site)]
                pairs.append(site.product.factors(site.equation, derivative, inputs))
            x, d = (_wide(jnp.concatenate(side)) for side in zip(*pairs, strict=True))
            if number in self.as_rows:
                rows.append((x.T @ d).reshape(-1))
            else:
                factors.append((x, d))
        generic = [n for n in range(self.count) if n not in self.products]
        total = {n: jnp.zeros_like(leaves[n]) for n in generic}
        for site in self.sites:
            chosen = {n: leaves[n] for n in site.leaves if n in total}
            if chosen:
                ds, xs = seen[id(site)]

                def again(point: dict[int, Array], site: Site = site, xs: Any = xs) -> list[Any]:
                    values = [point.get(n, leaf) for n, leaf in enumerate(leaves)]
                    return self._replay(site, [*values, *rest], xs)

                (parts,) = jax.vjp(again, chosen)[1](ds)
                total = {n: t + parts[n] if n in parts else t for n, t in total.items()}
        rows += [_wide(total[n]).reshape(-1) for n in generic]
        return scale, tuple(rows), tuple(factors)

    def _evaluate(
        self, arguments: list[Any], taps: list[list[Array]]
    ) -> tuple[Array, list[list[Any]]]:
        """Return the program's value, ``taps`` added to what sites return, and sites' operands."""
        extra = {
            id(s.equation): dict(zip(s.results, t, strict=True))
            for s, t in zip(self.sites, taps, strict=True)
        }
        operands: dict[int, list[Any]] = {}

        def step(equation: Any, inputs: list[Any]) -> list[Any]:
            results = bind(equation, inputs)
            if id(equation) not in extra:
                return results
            operands[id(equation)] = inputs
            added = extra[id(equation)]
            return [
                r + added[v] if v in added else r
                for v, r in zip(equation.outvars, results, strict=True)
            ]

        (value,) = evaluate(self.closed, arguments, step)
        return value, [operands[id(site.equation)] for site in self.sites]

    def _replay(self, site: Site, arguments: list[Any], operands: list[Any]) -> list[Any]:
        """Return what a site returns, with its parameters made anew and its data as they were."""
        jaxpr = self.closed.jaxpr
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, self.closed.consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=False))
        makers = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
        reached = reached_from(jaxpr, jaxpr.invars[: self.count])
        data = reached_from(jaxpr, jaxpr.invars[len(arguments) :])

        def read(atom: Any) -> Any:
            if isinstance(atom, core.Literal):
                return atom.val
            if atom not in values:
                equation = makers[atom]
                results = bind(equation, [read(a) for a in equation.invars])
                values.update(zip(equation.outvars, results, strict=True))
            return values[atom]

        inputs = [
            read(atom) if isinstance(atom, core.Var) and atom in reached - data else operand
            for atom, operand in zip(site.equation.invars, operands, strict=True)
        ]
        found = dict(zip(site.equation.outvars, bind(site.equation, inputs), strict=True))
        return [found[variable] for variable in site.results]


def gradient_program(
    function: Callable[..., Array], params: PyTree, rest: PyTree, example: PyTree
) -> GradientProgram:
    """Trace ``function(params, rest, example) -> scalar`` and find how its parameters are used.

    Nothing is computed. Equal functions and shapes share one program.

    Parameters
    ----------
    function
        A hashable function, compared by value.
    params
        Parameters to differentiate in.
    rest
        Other arguments that all examples share.
    example
        One example without an example axis (arrays or their shapes).
    """
    leaves, treedef = jax.tree.flatten((params, rest, example))
    signature = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)
    x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    return _program(function, treedef, signature, x64)


@lru_cache(maxsize=32)
def _program(
    function: Callable[..., Array], treedef: Any, signature: tuple[Any, ...], x64: bool
) -> GradientProgram:
    del x64  # only tells programs apart
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in signature]
    params, rest, _ = jax.tree.unflatten(treedef, shapes)

    def flat(*leaves: Any) -> Array:
        return function(*jax.tree.unflatten(treedef, leaves))

    closed = jax.make_jaxpr(flat)(*shapes)
    closed = jax.make_jaxpr(partial(evaluate_inlined, closed))(*shapes)
    jaxpr = closed.jaxpr
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    count, shared = len(names), len(names) + len(jax.tree.leaves(rest))
    data = reached_from(jaxpr, jaxpr.invars[shared:])
    makes = [reached_from(jaxpr, [variable]) - data for variable in jaxpr.invars[:count]]
    sites: list[Site] = []
    for equation in jaxpr.eqns:
        if any(isinstance(a, core.Var) and a in data for a in equation.invars):
            variables = {a for a in equation.invars if isinstance(a, core.Var)}
            users = tuple(n for n, made in enumerate(makes) if made & variables)
            site = Site(equation, users, Product.of(equation, data))
            if users and site.results:
                sites.append(site)
    views = _views(jaxpr, count)
    products: dict[int, tuple[Site, ...]] = {}
    as_rows: set[int] = set()
    kept = sum(prod(shape.shape) for shape in shapes[:count])
    for number in range(count):
        mine = tuple(site for site in sites if number in site.leaves)
        found = [site.product for site in mine if site.product is not None]
        uses = {product.use for product in found}
        if len(found) < len(mine) or len(uses) != 1 or views.get(found[0].parameter) != number:
            continue  # not used, used in several ways, or not in a plain product
        products[number] = mine
        places = sum(product.shape[0] for product in found)
        _, inputs, outputs = found[0].shape
        if _cheaper_as_rows(places, inputs, outputs):
            as_rows.add(number)
        else:
            kept += places * (inputs + outputs) - inputs * outputs
    return GradientProgram(
        closed,
        count,
        tuple(sites),
        products,
        frozenset(as_rows),
        factored=tuple(names[n] for n in products if n not in as_rows),
        explicit=tuple(names[n] for n in products if n in as_rows),
        generic=tuple(names[n] for n in range(count) if n not in products),
        held=sum(prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars if v in data),
        kept=kept,
    )


def _cheaper_as_rows(places: int, inputs: int, outputs: int) -> bool:
    """Whether a product of two gradients costs less than the products of all pairs of places."""
    return inputs * outputs <= places**2 * (inputs + outputs)


def _views(jaxpr: core.Jaxpr, count: int) -> dict[Any, int]:
    """Return the variables that hold one parameter leaf with its entries in some order."""
    views = {variable: number for number, variable in enumerate(jaxpr.invars[:count])}
    for equation in jaxpr.eqns:
        source = equation.invars[0] if len(equation.invars) == 1 else None
        if isinstance(source, core.Var) and source in views:
            out = equation.outvars[0]
            same = prod(shape_of(out)) == prod(shape_of(source))
            if equation.primitive.name in _VIEWS or (
                equation.primitive.name == "broadcast_in_dim" and same
            ):
                views[out] = views[source]
    return views


def _wide(array: Array) -> Array:
    """Return an array in float32 at least: sums over half-precision products keep few digits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
