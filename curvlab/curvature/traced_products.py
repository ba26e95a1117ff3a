"""Programs of traced functions: inlined, walked, and their products of parameters with data."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from curvlab.core.windows import windows

# (..., places, inputs) and (..., places, outputs); the numbers differ from pair to pair.
Factors = tuple[Array, Array]
# Calls whose body is evaluated in place. Custom derivative rules stay: they say what a ReLU's
# derivative is at zero.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}


def inline(closed: core.ClosedJaxpr, *arguments: Any) -> list[Any]:
    """Evaluate a program; under ``make_jaxpr`` this traces it with its calls inlined."""
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(closed.jaxpr.invars, arguments, strict=True))
    for equation in closed.jaxpr.eqns:
        inputs = [read_atom(atom, values) for atom in equation.invars]
        body = equation.params.get("jaxpr") if equation.primitive.name in _CALLS else None
        if isinstance(body, core.Jaxpr):
            body = core.ClosedJaxpr(body, [])
        results = bind(equation, inputs) if body is None else inline(body, *inputs)
        values.update(zip(equation.outvars, results, strict=True))
    return [read_atom(atom, values) for atom in closed.jaxpr.outvars]


def bind(equation: Any, inputs: list[Any]) -> list[Any]:
    """Evaluate one equation."""
    settings = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*inputs, **settings)
    return list(results) if equation.primitive.multiple_results else [results]


def read_atom(atom: Any, values: dict[Any, Any]) -> Any:
    """Return the value of a literal or a variable."""
    return atom.val if isinstance(atom, core.Literal) else values[atom]


def reached_from(jaxpr: core.Jaxpr, start: Sequence[Any]) -> set[Any]:
    """Return the variables that depend on some of ``start``."""
    found = set(start)
    for equation in jaxpr.eqns:
        if any(isinstance(a, core.Var) and a in found for a in equation.invars):
            found.update(equation.outvars)
    return found


def shape_of(variable: Any) -> tuple[int, ...]:
    """Return the shape of a variable."""
    return tuple(variable.aval.shape)


@dataclass(frozen=True)
class Product:
    """A product of a parameter with data, or a convolution, that has a gradient in factors.

    Attributes
    ----------
    parameter
        The operand made of parameters.
    contracted
        Its axes over which the sum runs, and those of the data; empty for a convolution.
    right
        Whether the parameter is the right operand.
    shape
        Numbers of places, of inputs and of outputs.
    """

    parameter: Any
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    right: bool
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, equation: Any, data: set[Any]) -> "Product | None":
        """Describe an equation, or return None if it is no plain product or convolution."""
        name, operands, settings = equation.primitive.name, equation.invars, equation.params
        driven = [isinstance(a, core.Var) and a in data for a in operands]
        total = prod(shape_of(equation.outvars[0]))
        if name == "dot_general" and sum(driven) == 1:
            contracted, batched = settings["dimension_numbers"]
            mine, other = (1, 0) if driven[0] else (0, 1)
            if batched[mine]:
                return None
            shape = shape_of(operands[mine])
            inputs = prod(shape[axis] for axis in contracted[mine])
            outputs = prod(shape) // inputs
            axes = tuple(contracted[mine]), tuple(contracted[other])
            return cls(operands[mine], axes, driven[0], (total // outputs, inputs, outputs))
        if name == "conv_general_dilated" and driven == [True, False]:
            if settings["feature_group_count"] != 1 or settings["batch_group_count"] != 1:
                return None
            if any(step != 1 for step in settings["lhs_dilation"]):
                return None
            kernel = shape_of(operands[1])
            outputs = kernel[settings["dimension_numbers"].rhs_spec[0]]
            return cls(
                operands[1], ((), ()), True, (total // outputs, prod(kernel) // outputs, outputs)
            )
        return None

    @property
    def use(self) -> tuple[Any, tuple[int, ...]]:
        """What makes the gradients of two sites add up entry by entry."""
        return self.parameter, self.contracted[0]

    def factors(self, equation: Any, derivative: Array, operands: list[Any]) -> Factors:
        """Return ``(places, inputs)`` and ``(places, outputs)``."""
        places, inputs, outputs = self.shape
        if equation.primitive.name == "conv_general_dilated":
            settings = equation.params
            layout = settings["dimension_numbers"]
            x = windows(
                _channels_last(operands[0], layout.lhs_spec),
                [operands[1].shape[axis] for axis in layout.rhs_spec[2:]],
                strides=settings["window_strides"],
                padding=settings["padding"],
                dilation=settings["rhs_dilation"],
            )
            d = _channels_last(derivative, layout.out_spec)
            return x.reshape(places, inputs), d.reshape(places, outputs)
        data = operands[0] if self.right else operands[1]
        free = [axis for axis in range(data.ndim) if axis not in self.contracted[1]]
        x = data.transpose(*free, *self.contracted[1]).reshape(places, inputs)
        if self.right:
            return x, derivative.reshape(places, outputs)
        return x, derivative.reshape(outputs, places).T


def _channels_last(images: Array, spec: Sequence[int]) -> Array:
    return jnp.transpose(images, (spec[0], *spec[2:], spec[1]))
