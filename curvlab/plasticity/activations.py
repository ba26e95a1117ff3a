"""Hidden activations of networks that nobody instrumented.

:func:`hidden_activations` evaluates any ``predict(params, inputs)`` and returns the outputs of its
rectifiers and smooth activation functions, found in the traced program by
:mod:`curvlab.plasticity.tracing`. One trace and one compilation serve all checkpoints of a run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import ProblemError
from curvlab.core.programs import evaluate
from curvlab.curvature import Problem
from curvlab.plasticity.tracing import RECTIFIER, trace

Predict = Callable[..., PyTree]
# Of predict: (params, inputs), or (params, inputs, state).
Arguments = tuple[Any, ...]

# Bounds the memory of the recorded activations: larger batches are cut into pieces of this many.
EXAMPLES_PER_CALL = 1024


@dataclass(frozen=True)
class Layer:
    """What is known of one hidden layer without evaluating it.

    Attributes
    ----------
    name
        Path of the parameters in front of it, such as ``"hidden_0"``.
    kind
        ``"rectifier"`` or the name of a smooth function (``"tanh"``).
    units
        Length of the last axis: units of a dense layer, channels of a convolution.
    """

    name: str
    kind: str
    units: int

    @property
    def rectified(self) -> bool:
        """Whether a unit is off exactly when its output is zero."""
        return self.kind == RECTIFIER


@dataclass(frozen=True, eq=False)
class Recorder:
    """A compiled-once evaluator of the hidden layers of one network at one input shape.

    Attributes
    ----------
    layers
        The hidden layers in the order in which the network evaluates them.
    opaque
        Kinds of loops and branches (``"scan"``) in which activations would not be seen.
    """

    layers: tuple[Layer, ...]
    opaque: tuple[str, ...]
    program: core.ClosedJaxpr
    variables: tuple[core.Var, ...]

    def __call__(self, arguments: Arguments) -> tuple[Float[Array, "examples *rest"], ...]:
        """Return the output of each layer, ``(examples, ..., units)``."""
        return _run(self, arguments)


@partial(jax.jit, static_argnums=0)
def _run(recorder: Recorder, arguments: Arguments) -> tuple[Array, ...]:
    leaves = jax.tree.leaves(arguments)
    return tuple(evaluate(recorder.program, leaves, wanted=recorder.variables))


def recorder(predict: Predict, arguments: Arguments) -> Recorder:
    """Return the recorder of a network, traced at most once per ``predict`` and shapes.

    Parameters
    ----------
    predict
        Any hashable JAX function ``predict(params, inputs, ...) -> outputs``.
    arguments
        Its arguments (or their shapes); every leaf of ``inputs`` has a leading example axis.

    Raises
    ------
    ProblemError
        If ``inputs`` holds no array.
    """
    leaves, treedef = jax.tree.flatten(arguments)
    if not jax.tree.leaves(arguments[1]):
        raise ProblemError("The inputs hold no array. Pass a batch with a leading example axis.")
    signature = tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves)
    return _recorder(predict, treedef, signature)


@lru_cache(maxsize=32)
def _recorder(predict: Predict, treedef: Any, signature: tuple[Any, ...]) -> Recorder:
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in signature]
    arguments = jax.tree.unflatten(treedef, shapes)
    program = trace(predict, *arguments)
    examples = jax.tree.leaves(arguments[1])[0].shape[0]
    sites = program.sites(examples)
    layers = tuple(Layer(s.layer, s.kind, s.units) for s in sites)
    return Recorder(layers, program.opaque, program.closed, tuple(s.variable for s in sites))


def recordings(problem: Problem) -> Iterator[tuple[Recorder, Arguments, int]]:
    """Yield recorder, arguments and number of examples for each piece of a problem's data.

    Pieces have at most :data:`EXAMPLES_PER_CALL` examples.

    Raises
    ------
    ProblemError
        If the problem has no ``predict``, or no hidden activation can be identified.
    """
    if problem.predict is None:
        raise ProblemError(
            "Hidden activations were asked for of a problem made from a scalar loss. Use "
            "Problem(predict, loss, params, batch), which says what the network is."
        )
    rest = () if problem.state is None else (problem.state,)
    for batch in problem.batches():
        examples = batch.weights.shape[0]
        for start in range(0, examples, EXAMPLES_PER_CALL):
            stop = min(examples, start + EXAMPLES_PER_CALL)
            inputs = batch.inputs
            if stop - start < examples:
                inputs = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], inputs)
            arguments = (problem.params, inputs, *rest)
            found = recorder(problem.predict, arguments)
            if not found.layers:
                raise ProblemError(no_units_reason(found))
            yield found, arguments, stop - start


def hidden_activations(
    predict: Predict, params: PyTree, inputs: PyTree
) -> dict[str, Float[Array, "examples *rest"]]:
    """Return the hidden activations of a batch by layer name.

    Parameters
    ----------
    predict
        Any JAX function ``predict(params, inputs) -> outputs``; jit, remat and custom derivatives
        may be nested in any way.
    params, inputs
        Its arguments; the leading axis of every input leaf counts examples.

    Returns
    -------
    dict
        Post-activations, ``(examples, ..., units)``, in evaluation order.

    Raises
    ------
    ProblemError
        If no hidden activation can be identified.

    Notes
    -----
    One forward pass; holds all activations at once. Differs from flax's ``capture_intermediates``
    in that it finds functions (``relu``) too, and needs no flax.
    """
    found = recorder(predict, (params, inputs))
    if not found.layers:
        raise ProblemError(no_units_reason(found))
    names = [layer.name for layer in found.layers]
    return dict(zip(names, found((params, inputs)), strict=True))


def no_units_reason(found: Recorder) -> str:
    """Explain why a network has no identifiable hidden units."""
    inside = f" Those inside {', '.join(found.opaque)} are not seen." if found.opaque else ""
    return (
        "Hidden activations were asked for; the traced network holds none (rectifiers, tanh, "
        f"logistic, GELU and the like) with a leading example axis.{inside} "
        "Use a network with hidden units, or leave the unit diagnostics out."
    )
