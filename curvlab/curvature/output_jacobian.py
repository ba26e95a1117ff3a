"""The Jacobian of a network's outputs, cut where parameters meet data.

The derivative of the outputs along a change of the parameters is a linear program. Its first part
multiplies the change with data (``x_i Ẇ`` in a dense layer); the rest carries the results to the
outputs, example by example, whatever the change is. Where there are few outputs the rest is small
as a matrix: its products then replace a pass through the network in each direction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend import core
from jaxtyping import Array, PyTree

from curvlab.core.programs import bind, evaluate, evaluate_inlined, reached_from, shape_of
from curvlab.curvature.sentinel import SAMPLE

LEAST_SAVING = 100
"""Operations that each entry of the matrix must save.

A product reads an entry twice; processors and accelerators do 30 to 100 operations in that time.
"""

LARGEST = 2**28
"""Bytes that the matrix may take; while it is made, several times as many are taken."""

# What a change passes without growing or being mixed, at the price of reading it.
_ELEMENTWISE = {
    "add", "add_any", "sub", "neg", "mul", "div", "select_n", "convert_element_type", "reshape"
}  # fmt: skip

Linearised = tuple[PyTree, Callable[[PyTree], PyTree]]


def linearise_once(
    predict: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree
) -> Linearised:
    """Return outputs and their derivative along a change of the parameters."""
    return jax.linearize(lambda point: predict(point, inputs), params)


def linearise_outputs(
    predict: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree
) -> Linearised:
    """Return the same as :func:`linearise_once`, made for many products.

    ``J v = Σ_l ⟨D_l, s_l(v)⟩`` with ``s_l(v)`` the change of what layer ``l`` returns while its
    inputs stay, and ``D_l[i, c] = ∂f_ic / ∂s_li`` computed here. In a dense network a product of
    ``Jᵀ B J`` then costs two products of a layer's size per layer instead of four, and two readings
    of ``D``. Taken where outputs are one array ``(examples, C)`` and counted operations promise
    :data:`LEAST_SAVING`; otherwise the result is that of :func:`linearise_once`.

    Parameters
    ----------
    predict
        ``predict(params, inputs) -> outputs``, in which examples do not depend on each other: ask
        :func:`is_right`.
    params
        Where to linearise.
    inputs
        Arrays with a leading example axis.

    Returns
    -------
    Outputs and a pytree function of a tree like ``params``. Cost: the rest backwards for every
    output, which by counted operations ``C/2`` products of ``Jᵀ B J`` save again (10 or 20 where
    convolutions are slow to transpose); ``C`` numbers for every unit and place.
    """
    program = _program(predict, params, inputs)
    if program is None:
        return linearise_once(predict, params, inputs)
    outputs, primals = predict(params, inputs), jax.tree.leaves((params, inputs))

    def meetings(tangent: PyTree) -> list[Array]:
        stops = [None] * len(program.cuts)
        arrived, _ = program.evaluate(primals, jax.tree.leaves(tangent), stops)
        return list(map(_rows, arrived, program.axes))

    def rest(changes: list[Array]) -> Array:
        return program.evaluate(primals, [None] * program.count, changes)[1]

    _, first = jax.linearize(meetings, params)
    _, pull = jax.vjp(rest, [jnp.zeros(cut.aval.shape, cut.aval.dtype) for cut in program.cuts])
    count = outputs.shape[1]
    each = jnp.broadcast_to(jnp.eye(count, dtype=outputs.dtype)[:, None], (count, *outputs.shape))
    (derivatives,) = jax.vmap(pull)(each)
    matrices = [
        jax.vmap(partial(_rows, axis=axis), out_axes=1)(part)
        for part, axis in zip(derivatives, program.axes, strict=True)
    ]
    gap = _gap(lambda cotangent: list(map(_rows, pull(cotangent)[0], program.axes)), matrices)
    return outputs, jax.tree_util.Partial(_derivative, first, matrices, gap)


def _gap(pull: Callable[[Array], list[Array]], matrices: list[Array]) -> Array:
    """Return how far the matrices are from the rest they stand for, relative to its size.

    They are sums over the examples of the outputs, ``Σ_i ∂f_ic / ∂s_j``, which is one term only
    where row ``j`` belongs to example ``j`` and to no other. With random signs for the examples the
    other terms, if there are any, are added differently.
    """
    examples, outputs, _ = matrices[0].shape
    keys = jax.random.split(jax.random.key(0x516), 2)
    signs = jax.random.rademacher(keys[0], (examples, 1), matrices[0].dtype)
    weights = jax.random.normal(keys[1], (outputs,), matrices[0].dtype)
    gaps = [jnp.zeros((), matrices[0].dtype)]
    for matrix, wanted in zip(matrices, pull(signs * weights), strict=True):
        found = signs * jnp.einsum("icu,c->iu", matrix, weights)
        size = jnp.linalg.norm(wanted) + jnp.linalg.norm(found)
        gaps.append(jnp.linalg.norm(wanted - found) / jnp.where(size > 0, size, 1))
    return jnp.stack(gaps).max()


def is_right(forward: Callable[[PyTree], Array]) -> bool:
    """Whether a derivative of :func:`linearise_outputs` is what it stands for, to rounding.

    It is not where examples depend on each other, or are in another order inside the network. While
    it is traced nobody can tell: then it is not taken for right.
    """
    kept: Any = forward
    if getattr(kept, "func", None) is not _derivative:
        return True
    gap = kept.args[2]
    return not isinstance(gap, Tracer) and float(gap) <= float(jnp.finfo(gap.dtype).eps) ** 0.5


def _derivative(
    first: Callable[[PyTree], list[Array]], matrices: list[Array], gap: Array, tangent: PyTree
) -> Array:
    """Return ``J v``."""
    del gap
    parts = [
        jnp.einsum("icu,iu->ic", matrix, part)
        for matrix, part in zip(matrices, first(tangent), strict=True)
    ]
    return sum(parts[1:], parts[0])


def _rows(part: Array, axis: int) -> Array:
    """Return an array with a row for each example, which lie along ``axis``."""
    return jnp.moveaxis(part, axis, 0).reshape(part.shape[axis], -1)


@dataclass(frozen=True, eq=False)
class _Program:
    """The outputs' derivative, a program of parameters, inputs and a change; calls are inlined.

    Attributes
    ----------
    closed
        The program.
    count
        Number of parameter leaves.
    linear
        Variables that depend on the change.
    cuts
        Those that together hold all that the change does where it meets data.
    axes
        Which axis of each is that of the examples.
    """

    closed: core.ClosedJaxpr
    count: int
    linear: set[Any]
    cuts: tuple[Any, ...]
    axes: tuple[int, ...]

    def evaluate(
        self, primals: Sequence[Any], tangents: Sequence[Any], changes: Sequence[Any]
    ) -> tuple[list[Any], Any]:
        """Return what arrives at each cut, and the outputs' derivative; None is zero.

        A cut passes ``changes`` on. Without any, nothing that arrives goes further; without
        ``tangents``, they are added to what arrives.
        """
        arrived: dict[Any, Any] = {}

        def step(equation: Any, inputs: list[Any]) -> list[Any]:
            pairs = list(zip(equation.invars, inputs, strict=True))
            varied = [v for a, v in pairs if isinstance(a, core.Var) and a in self.linear]
            results: list[Any] = [None] * len(equation.outvars)
            if not varied or any(value is not None for value in varied):
                full = [jnp.zeros(a.aval.shape, a.aval.dtype) if v is None else v for a, v in pairs]
                results = bind(equation, full)
            for index, variable in enumerate(equation.outvars):
                if variable in self.cuts:
                    arrived[variable] = here = results[index]
                    change = changes[self.cuts.index(variable)]
                    results[index] = change if change is None or here is None else here + change
            return results

        (derivative,) = evaluate(self.closed, [*primals, *tangents], step)
        return [arrived[cut] for cut in self.cuts], derivative


def _program(predict: Callable[..., Any], params: PyTree, inputs: PyTree) -> _Program | None:
    """Return the program if its cut pays, and examples lie along one axis of what is cut.

    That axis is the one that shrinks with the number of examples.
    """
    examples = jax.tree.leaves(inputs)[0].shape[0]
    outputs: Any = jax.eval_shape(predict, params, inputs)
    # The sentinel has seen that `predict` takes any number of examples: it tried SAMPLE.
    if getattr(outputs, "ndim", 0) != 2 or outputs.shape[0] != examples or examples <= SAMPLE:
        return None
    bytes_each, count = outputs.dtype.itemsize, len(jax.tree.leaves(params))
    closed = _traced(predict, params, inputs, examples)
    linear, cuts, saved = _cut(closed.jaxpr, count)
    entries = outputs.shape[1] * sum(prod(shape_of(cut)) for cut in cuts)
    precise = bytes_each >= 4 and {cut.aval.dtype for cut in cuts} == {outputs.dtype}
    if not precise or saved < LEAST_SAVING * entries or entries * bytes_each > LARGEST:
        return None
    fewer = _traced(predict, params, inputs, SAMPLE)
    others = _cut(fewer.jaxpr, count)[1]
    axes = [
        axis
        for shape, other in zip(map(shape_of, cuts), map(shape_of, others), strict=False)
        for axis, size in enumerate(shape)
        if size == examples and other == (*shape[:axis], SAMPLE, *shape[axis + 1 :])
    ]
    same_outputs = fewer.out_avals[0].shape == (SAMPLE, outputs.shape[1])
    if not (same_outputs and len(axes) == len(cuts) == len(others)):
        return None
    return _Program(closed, count, linear, cuts, tuple(axes))


def _traced(
    predict: Callable[..., Any], params: PyTree, inputs: PyTree, examples: int
) -> core.ClosedJaxpr:
    """Trace the derivative of the outputs for so many examples."""

    def resized(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((examples, *leaf.shape[1:]), leaf.dtype)

    point = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    leaves, tree = jax.tree.flatten((point, jax.tree.map(resized, inputs), point))

    def derivative(*leaves: Any) -> Any:
        params, inputs, tangent = jax.tree.unflatten(tree, leaves)
        return linearise_once(predict, params, inputs)[1](tangent)

    closed = jax.make_jaxpr(derivative)(*leaves)
    return jax.make_jaxpr(partial(evaluate_inlined, closed))(*leaves)


def _cut(jaxpr: core.Jaxpr, count: int) -> tuple[set[Any], tuple[Any, ...], int]:
    """Return linear variables, those to cut at, and the operations behind them, both ways."""
    linear = reached_from(jaxpr, jaxpr.invars[-count:])
    data = reached_from(jaxpr, jaxpr.invars[count:-count])
    users: dict[Any, list[Any]] = {variable: [None] for variable in jaxpr.outvars}
    meetings: dict[Any, None] = {}
    saved = 0
    for equation in jaxpr.eqns:
        changes = [a for a in equation.invars if isinstance(a, core.Var) and a in linear]
        for variable in changes:
            users.setdefault(variable, []).append(equation)
        if changes and equation.outvars[0] in data:
            if all(variable in data for variable in changes):
                saved += 2 * _operations(equation)
            else:
                meetings.update(dict.fromkeys(equation.outvars))
    cuts: dict[Any, None] = {}
    for variable in meetings:
        # A bias is added to the product before it: one cut behind both.
        cut = last = variable
        while len(users.get(last, [])) == 1 and users[last][0] is not None:
            equation = users[last][0]
            last = equation.outvars[0]
            same = prod(shape_of(last)) == prod(shape_of(variable))
            if equation.primitive.name not in _ELEMENTWISE or not same:
                break
            cut = last if last in meetings else cut
        cuts[cut] = None
    return linear, tuple(cuts), saved


def _operations(equation: Any) -> int:
    """Return the floating-point operations of a matrix product or a convolution."""
    total = 2 * prod(shape_of(equation.outvars[0]))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return total * prod(shape_of(equation.invars[0])[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel, layout = shape_of(equation.invars[1]), equation.params["dimension_numbers"]
        return total * prod(kernel) // kernel[layout.rhs_spec[0]]
    return 0
