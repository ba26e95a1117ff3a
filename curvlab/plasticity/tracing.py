"""Find the hidden activations inside the traced program of any ``predict(params, inputs)``.

The program is inlined into one flat list of equations, in which rectifiers and smooth activation
functions are recognised by what they compute, not by who wrote them. Evaluation and statistics are
in :mod:`curvlab.plasticity.activations`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from curvlab.core.programs import (
    CALLS,
    CUSTOM_CALLS,
    bind,
    body_of,
    evaluate,
    reached_from,
    shape_of,
)
from curvlab.core.trees import path_name

# Loops and branches are evaluated as they are; what is inside them is not seen.
_OPAQUE = {"scan", "while", "cond"}
# Activation functions of jax.nn that are calls with a name of their own.
_SMOOTH_CALLS = {
    *("silu", "swish", "softplus", "elu", "celu", "selu", "mish", "leaky_relu", "log_sigmoid"),
    *("hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "squareplus", "soft_sign", "gelu"),
}
# Calls that are no activation function although a rectifier or a tanh lies inside.
_ARITHMETIC_CALLS = {"logaddexp", "logsumexp", "softmax", "log_softmax"}
_SMOOTH_PRIMITIVES = {"tanh", "logistic", "erf", "erfc"}
# Where the last axis of a matrix product or convolution counts units.
_PRODUCTS = {"dot_general", "conv_general_dilated"}
_SHAPE_ONLY = {"broadcast_in_dim", "convert_element_type", "reshape", "copy", "squeeze"}
_SCALAR_STEPS = {"add", "sub", "mul", "div", "neg", "min", "copy", "convert_element_type"}

RECTIFIER = "rectifier"


@dataclass(frozen=True)
class Site:
    """One hidden activation of a traced program.

    Attributes
    ----------
    layer
        Path of the parameters in front of it (``"hidden_0"``), else its kind and number.
    kind
        ``"rectifier"`` for ``max(x, 0)``, otherwise the name of the smooth function.
    variable
        Where the program holds it.
    """

    layer: str
    kind: str
    variable: core.Var

    @property
    def units(self) -> int:
        """Length of the last axis."""
        return shape_of(self.variable)[-1]


def inline(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Return an equivalent program without nested calls, save for named activation functions."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *args: evaluate(closed, args, _step))(*shapes)


def _step(equation: core.JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """Evaluate one equation: a call by its body, derivative rules and all."""
    called = equation.primitive.name in CALLS | CUSTOM_CALLS
    body = body_of(equation) if called else None
    if body is None:
        return bind(equation, inputs)
    name = equation.params.get("name", "")
    if name in _SMOOTH_CALLS | _ARITHMETIC_CALLS:
        return _keep_call(name, body, inputs)
    return evaluate(body, inputs, _step)


def _keep_call(name: str, body: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    """Stage a call as one equation called ``name``, whatever kind of call it was."""

    def call(*args: Any) -> list[Any]:
        return evaluate(body, args, _step)

    call.__name__ = name
    return jax.jit(call)(*inputs)


@dataclass(frozen=True)
class Program:
    """A flat program with the indices that the search below needs.

    Attributes
    ----------
    closed
        The flat program; its arguments are the leaves of the parameters, of the inputs, and of
        anything else, in this order.
    parameters
        Path of each parameter leaf.
    inputs
        Number of leaves of the inputs.
    """

    closed: core.ClosedJaxpr
    parameters: tuple[str, ...]
    inputs: int

    @property
    def opaque(self) -> tuple[str, ...]:
        """Kinds of loops and branches whose insides are not seen."""
        return tuple(sorted({e.primitive.name for e in self.closed.eqns} & _OPAQUE))

    def sites(self, examples: int) -> tuple[Site, ...]:
        """Return the hidden activations whose leading axis has ``examples`` entries, in order.

        An activation depends on the inputs, has at least two axes (the last one counts units), is
        not an output of the program, and does not merely guard a square root (as the variance of a
        layer norm is).
        """
        return tuple(_Search(self, examples).sites())


class _Search:
    """The search for activations in one program."""

    def __init__(self, program: Program, examples: int):
        jaxpr = program.closed.jaxpr
        self.program = program
        self.examples = examples
        self.equations = jaxpr.eqns
        self.producer = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
        self.users: dict[Any, list[core.JaxprEqn]] = defaultdict(list)
        for eqn in jaxpr.eqns:
            for atom in eqn.invars:
                if isinstance(atom, core.Var):
                    self.users[atom].append(eqn)
        self.outputs = {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
        count = len(program.parameters)
        self.names = dict(zip(jaxpr.invars[:count], program.parameters, strict=True))
        self.constants = dict(zip(jaxpr.constvars, program.closed.consts, strict=True))
        self.driven = reached_from(jaxpr, jaxpr.invars[count : count + program.inputs])

    def sites(self) -> Iterator[Site]:
        """Yield the activations in program order, each variable once, with unique layer names."""
        taken: dict[str, int] = defaultdict(int)
        seen: set[Any] = set()
        for equation in self.equations:
            kind = self.kind(equation)
            if kind is None:
                continue
            variable = self.unit(equation.outvars[0], kind)
            if variable is None or variable in seen:
                continue
            seen.add(variable)
            if variable is not equation.outvars[0]:
                kind = f"{kind}-gated"
            layer = self.layer(equation) or kind
            taken[layer] += 1
            suffix = f"#{taken[layer]}" if taken[layer] > 1 else ""
            yield Site(layer + suffix, kind, variable)

    def kind(self, equation: core.JaxprEqn) -> str | None:
        """Return which activation function an equation is, if any."""
        name = equation.primitive.name
        if name in {"jit", "pjit"} and equation.params.get("name") in _SMOOTH_CALLS:
            return equation.params["name"]
        if name in _SMOOTH_PRIMITIVES:
            return name
        if name == "max" and any(self.is_zero(atom) for atom in equation.invars):
            return RECTIFIER
        if name == "select_n" and len(equation.invars) == 3:
            return RECTIFIER if self.is_rectifying_select(*equation.invars) else None
        return None

    def is_zero(self, atom: Any) -> bool:
        """Whether an atom is the constant zero of any shape."""
        if isinstance(atom, core.Literal):
            return bool(np.all(np.asarray(atom.val) == 0))
        if atom in self.constants:
            return bool(np.all(np.asarray(self.constants[atom]) == 0))
        maker = self.producer.get(atom)
        return (
            maker is not None
            and maker.primitive.name in _SHAPE_ONLY
            and self.is_zero(maker.invars[0])
        )

    def is_rectifying_select(self, predicate: Any, low: Any, high: Any) -> bool:
        """Whether the equation is ``where(x > 0, x, 0)``."""
        test = self.producer.get(predicate) if isinstance(predicate, core.Var) else None
        return (
            test is not None
            and test.primitive.name in {"gt", "ge"}
            and self.is_zero(low)
            and test.invars[0] is high
            and self.is_zero(test.invars[1])
        )

    def unit(self, variable: core.Var, kind: str) -> core.Var | None:
        """Return the variable that holds the units, or None where there are none.

        A tanh or an error function may be the gate of a GELU: it is then followed through scalar
        arithmetic to the product with another array, which is the activation.
        """
        end, last = variable, None
        while end not in self.outputs and len(self.users[end]) == 1:
            last = self.users[end][0]
            if not self.is_scalar_step(last):
                break
            end = last.outvars[0]
        if kind == RECTIFIER and last is not None and last.primitive.name in {"sqrt", "rsqrt"}:
            return None
        if kind in _SMOOTH_PRIMITIVES and last is not None and last.primitive.name == "mul":
            variable = last.outvars[0]
        shape = shape_of(variable)
        fits = len(shape) >= 2 and shape[0] == self.examples and variable in self.driven
        return variable if fits and end not in self.outputs else None

    def is_scalar_step(self, equation: core.JaxprEqn) -> bool:
        """Whether an equation only combines one array with scalars, or adds and drops axes."""
        arrays = [a for a in equation.invars if isinstance(a, core.Var) and shape_of(a)]
        name = equation.primitive.name
        return len(arrays) == 1 and name in _SCALAR_STEPS | _SHAPE_ONLY

    def layer(self, equation: core.JaxprEqn) -> str | None:
        """Return the path of the parameters of the nearest product in front of an equation."""
        front = list(equation.invars)
        visited: set[Any] = set()
        while front:
            atom = front.pop(0)
            if isinstance(atom, core.Literal) or atom in visited:
                continue
            visited.add(atom)
            maker = self.producer.get(atom)
            if maker is None:
                continue
            if maker.primitive.name in _PRODUCTS:
                names = [n for a in maker.invars if (n := self.parameter(a))]
                if names:
                    return names[0].rpartition("/")[0] or names[0]
            front.extend(maker.invars)
        return None

    def parameter(self, atom: Any) -> str | None:
        """Return the path of the parameter that an atom is, up to reshaping and casting."""
        while isinstance(atom, core.Var) and atom not in self.names:
            maker = self.producer.get(atom)
            if maker is None or atom in self.driven or not maker.invars:
                return None
            atom = maker.invars[0]
        return self.names.get(atom) if isinstance(atom, core.Var) else None


def trace(predict: Callable[..., PyTree], params: PyTree, inputs: PyTree, *rest: PyTree) -> Program:
    """Trace ``predict(params, inputs, *rest)`` once for the given shapes; nothing is computed."""
    paths = tuple(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    closed = inline(jax.make_jaxpr(predict)(params, inputs, *rest))
    return Program(closed, paths, len(jax.tree.leaves(inputs)))
