"""Traced programs (jaxprs): evaluated equation by equation, calls inlined, and walked."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"})
"""Primitives that only call a program. Custom derivative rules say what a derivative is instead."""

CUSTOM_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
"""Calls with a derivative rule of their own."""


def body_of(equation: Any) -> core.ClosedJaxpr | None:
    """Return the program that an equation calls with its own arguments, if it is one."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if isinstance(inner, core.ClosedJaxpr):
            return inner
        if isinstance(inner, core.Jaxpr):
            return core.ClosedJaxpr(inner, [])
    return None


def bind(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """Evaluate one equation."""
    settings = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*inputs, **settings)
    return list(results) if equation.primitive.multiple_results else [results]


def evaluate(
    closed: core.ClosedJaxpr,
    arguments: Sequence[Any],
    step: Callable[[Any, list[Any]], Sequence[Any]] = bind,
    wanted: Sequence[Any] | None = None,
) -> list[Any]:
    """Evaluate a program and return its outputs, or the ``wanted`` variables.

    ``step(equation, inputs)`` evaluates one equation. Under ``make_jaxpr`` the program is traced
    again.
    """
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(closed.jaxpr.invars, arguments, strict=True))
    for equation in closed.jaxpr.eqns:
        results = step(equation, [read(atom, values) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom, values) for atom in (closed.jaxpr.outvars if wanted is None else wanted)]


def evaluate_inlined(closed: core.ClosedJaxpr, *arguments: Any) -> list[Any]:
    """Evaluate a program; under ``make_jaxpr`` this traces it with its :data:`CALLS` inlined."""

    def step(equation: Any, inputs: list[Any]) -> list[Any]:
        body = body_of(equation) if equation.primitive.name in CALLS else None
        return bind(equation, inputs) if body is None else evaluate_inlined(body, *inputs)

    return evaluate(closed, arguments, step)


def read(atom: Any, values: dict[Any, Any]) -> Any:
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
