"""A problem: predict, loss, parameters and data, whose objective is the mean over all examples.

This is where bad input is refused: after construction every batch is consistent, the loss is one
number per example, and nothing holds NaN. The matrices of :mod:`curvlab.curvature` are built on it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul, float64, is_floating, promote
from curvlab.core.trees import TreeLayout, path_name


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Examples along the leading axis of every leaf, and a weight for each."""

    inputs: PyTree
    targets: PyTree
    weights: Float[Array, " examples"]


@dataclass(frozen=True)
class Objective:
    """The static part of a problem: which functions make the loss of a batch.

    Compared by value, so that problems which differ only in arrays share every compilation. Pass
    the same function object, or a value-compared callable, for all checkpoints.

    Attributes
    ----------
    predict
        ``predict(params, inputs) -> outputs``, or ``predict(params, inputs, state)`` when the
        problem has a state; ``None`` for a scalar loss.
    loss
        ``loss(outputs, targets) -> one loss per example``; for a scalar loss
        ``loss(params, (inputs, targets)) -> mean loss``.
    penalty
        ``penalty(params) -> scalar`` added to the mean, or ``None``.
    """

    predict: Callable[..., PyTree] | None
    loss: Callable[..., Array]
    penalty: Callable[[PyTree], Array] | None = None

    def outputs(self, params: PyTree, inputs: PyTree, state: PyTree) -> PyTree:
        """Return the network's outputs on a batch."""
        assert self.predict is not None
        return (
            self.predict(params, inputs) if state is None else self.predict(params, inputs, state)
        )

    def losses(self, params: PyTree, batch: Batch, state: PyTree) -> Array:
        """Return one loss per example (the batch mean repeated, for a scalar loss).

        That it *is* one per example is checked by :class:`Problem`, not by the annotation.
        """
        if self.predict is None:
            mean = self.loss(params, (batch.inputs, batch.targets))
            return jnp.broadcast_to(mean, batch.weights.shape)
        return self.loss(self.outputs(params, batch.inputs, state), batch.targets)

    def total(self, params: PyTree, batch: Batch, state: PyTree) -> Float[Array, ""]:
        """Return the weighted sum of losses over a batch."""
        losses = self.losses(params, batch, state)
        return jnp.sum(batch.weights.astype(losses.dtype) * losses)

    @property
    def name(self) -> str:
        """Name of the loss, for reports."""
        return getattr(self.loss, "__name__", type(self.loss).__name__)


@partial(jax.jit, static_argnames="objective")
def _losses(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> Array:
    return objective.losses(params, batch, state)


@partial(jax.jit, static_argnames="objective")
def _total(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> Array:
    return objective.total(params, batch, state)


@partial(jax.jit, static_argnames="objective")
def _gradient(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> PyTree:
    return jax.grad(objective.total)(params, batch, state)


@dataclass(frozen=True, eq=False)
class Problem:
    """The objective ``L(θ) = Σ_i w_i loss(f(θ, x_i), y_i) / Σ_i w_i + penalty(θ)``.

    Parameters
    ----------
    predict
        ``predict(params, inputs) -> outputs``; with ``state`` given, ``predict(params, inputs,
        state)``. Any JAX function.
    loss
        ``loss(outputs, targets)`` returning one loss per example, shape ``(examples,)``.
    params
        Any pytree of real floating-point arrays.
    batch
        ``(inputs, targets)``, each a pytree of arrays with a leading example axis; or a list of
        such batches of any, also unequal, sizes; or a function without arguments that returns a
        fresh iterator over them (for data that should not stay in memory). The objective does not
        depend on how examples are batched. Batches may carry weights as a third item.
    state
        What ``predict`` needs besides parameters (normalisation statistics, a noise key).
    weights
        One non-negative weight per example, for a single ``(inputs, targets)`` batch.
    penalty
        ``penalty(params) -> scalar`` added to the mean, such as weight decay.
    data
        Name of the data for reports (a probe set and its hash).

    Raises
    ------
    ProblemError
        If inputs and targets differ in length, there is no example, the loss is not one number per
        example, a parameter is NaN or infinite, or a weight is negative.
    """

    predict: Callable[..., PyTree] | None
    loss: Callable[..., Array]
    params: PyTree
    batch: tuple[Any, ...] | list[Any] | Callable[[], Iterable[Any]]
    state: PyTree = None
    weights: Any = None
    penalty: Callable[[PyTree], Array] | None = None
    data: str = ""
    _resident: tuple[Batch, ...] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", jax.tree.map(jnp.asarray, self.params))
        _check_finite(self.params)
        if self.weights is not None and not isinstance(self.batch, tuple):
            raise ProblemError(
                "weights= goes with a single (inputs, targets) batch. In lists and iterators give "
                "(inputs, targets, weights) for each batch."
            )
        if not callable(self.batch):
            batches = self.batch if isinstance(self.batch, list) else [self._weighted(self.batch)]
            object.__setattr__(self, "_resident", tuple(map(_as_batch, batches)))
        first = next(iter(self.batches()), None)
        if first is None:
            raise ProblemError("The data hold no batch. Pass at least one example.")
        self._check_loss(first)

    @classmethod
    def from_loss(
        cls, loss: Callable[..., Array], params: PyTree, batch: Any, *, data: str = ""
    ) -> "Problem":
        """Make a problem from ``loss(params, (inputs, targets)) -> mean loss over the batch``.

        For losses that cannot be cut into prediction and per-example loss. Batches count by their
        number of examples; the Hessian is available, the Gauss-Newton matrix is not.
        """
        return cls(None, loss, params, batch, data=data)

    @property
    def objective(self) -> Objective:
        """The functions, without the arrays."""
        return Objective(self.predict, self.loss, self.penalty)

    @cached_property
    def layout(self) -> TreeLayout:
        """How the parameters lie in the flat vectors of the operators."""
        return TreeLayout.of(self.params)

    @property
    def streamed(self) -> bool:
        """Whether batches come from a function and are not kept."""
        return self._resident is None

    def batches(self) -> Iterator[Batch]:
        """Iterate over the batches, in the same order every time."""
        if self._resident is not None:
            yield from self._resident
        else:
            assert callable(self.batch)
            yield from map(_as_batch, self.batch())

    @cached_property
    def _counts(self) -> tuple[int, float]:
        sizes = [
            (b.weights.size, float(np.asarray(b.weights, np.float64).sum())) for b in self.batches()
        ]
        examples, weight = sum(s for s, _ in sizes), sum(w for _, w in sizes)
        if not weight > 0:
            raise ProblemError(
                f"The {examples} examples have total weight {weight}. Give at least one of them a "
                "positive weight."
            )
        return examples, weight

    @property
    def examples(self) -> int:
        """Number of examples over all batches."""
        return self._counts[0]

    @property
    def total_weight(self) -> float:
        """Sum of the example weights: their number, unless weights were given."""
        return self._counts[1]

    @property
    def estimand(self) -> str:
        """What is averaged over what, for reports."""
        parts = [
            f"mean {self.objective.name} over {self.examples} examples",
            f"{self.layout.dim} parameters",
            "no penalty" if self.penalty is None else "penalty included",
        ]
        return ", ".join([*parts, self.data] if self.data else parts)

    def value(self) -> float:
        """Return the objective; one forward pass."""
        with self.precision(), exact_matmul():
            total = sum(
                float(_total(self.objective, self.params, batch, self.state))
                for batch in self.batches()
            )
            extra = 0.0 if self.penalty is None else float(self.penalty(self.params))
        return total / self.total_weight + extra

    def gradient(self) -> PyTree:
        """Return the gradient of the objective, a tree like the parameters; one backward pass."""
        with self.precision(), exact_matmul():
            total: PyTree = None
            for batch in self.batches():
                part = _gradient(self.objective, self.params, batch, self.state)
                total = part if total is None else jax.tree.map(jnp.add, total, part)
            mean = jax.tree.map(lambda leaf: leaf / self.total_weight, total)
            if self.penalty is not None:
                mean = jax.tree.map(jnp.add, mean, jax.grad(self.penalty)(self.params))
        return mean

    def losses(self) -> Float[np.ndarray, " examples"]:
        """Return the loss of each example on the host, in the order of the data."""
        with self.precision(), exact_matmul():
            return np.concatenate(
                [
                    np.asarray(_losses(self.objective, self.params, b, self.state))
                    for b in self.batches()
                ]
            )

    def subset(self, mask: Any) -> "Problem":
        """Return the problem on the examples that a boolean mask (or an index array) selects.

        Raises
        ------
        ProblemError
            If the data are streamed, or the mask has the wrong length.
        """
        if self._resident is None:
            raise ProblemError("subset() needs data in memory; filter inside the iterator instead.")
        whole: Batch = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *self._resident)
        chosen = np.asarray(mask)
        if chosen.dtype == bool and chosen.shape != (self.examples,):
            raise ProblemError(
                f"subset() got a mask of shape {chosen.shape} for {self.examples} examples."
            )
        part: Batch = jax.tree.map(lambda leaf: leaf[chosen], whole)
        return replace(self, batch=[(part.inputs, part.targets, part.weights)], weights=None)

    def promoted(self) -> "Problem":
        """Return the same problem with parameters, state and data in float64.

        Use it inside :func:`curvlab.core.precision.float64`.
        """
        data = self._map_batches(promote)
        return replace(
            self, params=promote(self.params), state=promote(self.state), batch=data, weights=None
        )

    def reordered(self) -> "Problem":
        """Return the same problem with every batch reversed and cut in two.

        The objective is equal; its floating-point sums run in another order.
        """

        def halves(batch: Batch) -> list[Batch]:
            middle = max(1, batch.weights.size // 2)
            back: Batch = jax.tree.map(lambda leaf: leaf[::-1], batch)
            parts = [jax.tree.map(lambda leaf: leaf[:middle], back)]
            if middle < batch.weights.size:
                parts.append(jax.tree.map(lambda leaf: leaf[middle:], back))
            return parts

        if self.predict is None:  # a scalar loss may depend on which examples share a batch
            return self
        return replace(self, batch=self._map_batches(halves), weights=None)

    def _map_batches(self, function: Callable[[Batch], Any]) -> Any:
        """Return data like this problem's with ``function`` applied to each batch."""

        def plain() -> Iterator[Any]:
            for batch in self.batches():
                result = function(batch)
                for item in result if isinstance(result, list) else [result]:
                    yield item.inputs, item.targets, item.weights

        return plain if self.streamed else list(plain())

    def _weighted(self, batch: Any) -> Any:
        return batch if self.weights is None else (*batch[:2], self.weights)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which arrays of the parameters' dtype can be computed."""
        return float64() if self.layout.dtype == np.float64 else nullcontext()

    def _check_loss(self, batch: Batch) -> None:
        with self.precision():
            if self.predict is None:
                arguments = (self.params, (batch.inputs, batch.targets))
                shape = jax.eval_shape(self.loss, *arguments).shape
                if shape != ():
                    raise ProblemError(
                        "Problem.from_loss needs a scalar mean loss; "
                        f"{self.objective.name} returned shape {shape}. Return its mean, or use "
                        "Problem(predict, loss, ...)."
                    )
                return
            shape = _losses.eval_shape(self.objective, self.params, batch, self.state).shape
        examples = batch.weights.shape[0]
        if shape != (examples,):
            what = "a scalar" if shape == () else f"shape {shape}"
            raise ProblemError(
                f"The loss must return one value per example, shape ({examples},); "
                f"{self.objective.name} returned {what}. Remove the reduction over examples (and "
                "reduce over outputs), or use Problem.from_loss for a scalar mean loss."
            )


def _as_batch(item: Any) -> Batch:
    if isinstance(item, Batch):
        return item
    if not isinstance(item, tuple) or len(item) not in (2, 3):
        raise ProblemError(
            f"A batch is (inputs, targets) or (inputs, targets, weights); got "
            f"{type(item).__name__}{f' of length {len(item)}' if hasattr(item, '__len__') else ''}."
        )
    inputs, targets = (jax.tree.map(_as_array, part) for part in item[:2])
    sizes = {
        f"{side}/{path_name(path)}".rstrip("/"): leaf.shape[0] if leaf.ndim else None
        for side, part in (("inputs", inputs), ("targets", targets))
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }
    if not sizes or None in sizes.values() or len(set(sizes.values())) != 1:
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ProblemError(
            f"Every array of a batch needs the same number of examples on its leading axis; found "
            f"{found or 'no array'}. Check how inputs and targets were cut."
        )
    examples = next(iter(sizes.values()))
    if examples == 0:
        raise ProblemError("A batch holds no example. Drop empty batches.")
    weights = jnp.ones(examples, jnp.float32) if len(item) == 2 else _as_array(item[2])
    host = np.asarray(weights)
    if host.shape != (examples,) or not (np.isfinite(host).all() and (host >= 0).all()):
        raise ProblemError(
            f"Weights must be finite and non-negative, one for each of {examples} examples; got "
            f"shape {host.shape} with minimum {host.min(initial=np.inf)}. Check length and sign."
        )
    return Batch(inputs, targets, weights)


def _as_array(leaf: Any) -> Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _check_finite(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if is_floating(leaf):
            bad = int((~jnp.isfinite(leaf)).sum())
            if bad:
                raise ProblemError(
                    f"Parameter {path_name(path)!r} holds {bad} of {leaf.size} values that are NaN "
                    "or infinite. Curvature is not defined there; analyse an earlier checkpoint."
                )
