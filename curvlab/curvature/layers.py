"""The order of a network's layers, read from the program that computes the loss.

The leaves of a parameter tree are sorted by name, which says nothing about where they act; the
traced program does, for any network library.
"""

from collections.abc import Sequence
from typing import Any

import jax

from curvlab.core.programs import body_of
from curvlab.curvature.problem import Problem
from curvlab.curvature.selection import layer_of

# A parameter that is only cast or reshaped has not met the data yet.
_PREPARATION = frozenset(
    {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose"}
)


def layers_of(problem: Problem, chosen: Sequence[bool]) -> tuple[str, ...]:
    """Return the layers with chosen leaves, from the input to the output.

    Parameters
    ----------
    problem
        A layer is a module that holds arrays: ``"hidden_0"`` holds ``"hidden_0/kernel"``.
    chosen
        For each leaf of the parameters, whether it counts.

    Returns
    -------
    Paths of the layers, ordered by their first use when the loss is computed; layers that are not
    used come first. One trace, no computation.
    """
    batch = next(iter(problem.batches()))
    with problem.precision():
        program = jax.make_jaxpr(problem.objective.losses)(problem.params, batch, problem.state)
    names = problem.layout.names
    uses: list[str] = []
    _follow(program.jaxpr, dict(zip(program.jaxpr.invars, names, strict=False)), uses)
    places: dict[str, list[int]] = {}
    for name, inside in zip(names, chosen, strict=True):
        if inside:
            found = places.setdefault(layer_of(name), [])
            found.extend([uses.index(name)] if name in uses else [])
    return tuple(sorted(places, key=lambda layer: min(places[layer], default=-1)))


def _follow(program: Any, origin: dict[Any, str], uses: list[str]) -> None:
    """Append to ``uses`` the leaves that a program consumes, in order.

    ``origin`` says which variables hold a leaf, and is extended by its casts and reshapes.
    """
    for equation in program.eqns:
        held = [
            None if hasattr(variable, "val") else origin.get(variable)
            for variable in equation.invars
        ]
        if not any(held):
            continue
        called = body_of(equation)
        inner = None if called is None else called.jaxpr
        if inner is not None and len(inner.invars) == len(held):
            within = {
                variable: name
                for variable, name in zip(inner.invars, held, strict=True)
                if name is not None
            }
            _follow(inner, within, uses)
            # Casts of whole trees are often jitted: their outputs still are the leaves.
            for outer, variable in zip(equation.outvars, inner.outvars, strict=False):
                if not hasattr(variable, "val") and variable in within:
                    origin[outer] = within[variable]
        elif equation.primitive.name in _PREPARATION:
            origin[equation.outvars[0]] = next(name for name in held if name is not None)
        else:
            uses.extend(name for name in held if name is not None)
