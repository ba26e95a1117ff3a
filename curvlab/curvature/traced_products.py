"""Products of parameters with data in a traced program, whose gradients come in factors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from curvlab.core.programs import shape_of
from curvlab.core.windows import windows

# (..., places, inputs) and (..., places, outputs); the numbers differ from pair to pair.
Factors = tuple[Array, Array]


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
