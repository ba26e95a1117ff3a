"""A problem: predict, loss, parameters and data, whose objective is the mean over all examples.

The loss is one number per example and the parameters are finite, or construction fails; batches are
checked in :mod:`curvlab.curvature.data`, whatever needs a computation in
:mod:`curvlab.curvature.sentinel`. The matrices of :mod:`curvlab.curvature` are built on a problem.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from curvlab.core.devices import on_mesh, place, replicated
from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul, is_floating, not_finite, promote
from curvlab.core.trees import TreeLayout, path_name
from curvlab.curvature.data import Batch as Batch
from curvlab.curvature.objective import Objective as Objective
from curvlab.curvature.objective import batch_gradient, batch_losses, batch_total
from curvlab.curvature.source import Source, fill, is_key, padded_size, send, sum_over


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
        such batches of any, also unequal, sizes. For data that should not stay on the device: a
        :class:`~curvlab.curvature.data.Batches`, or a function without arguments that returns a
        fresh iterator over batches. The objective does not depend on how examples are batched.
        Batches may carry weights as a third item; an example of weight zero does not count,
        whatever it holds.
    state
        What ``predict`` needs besides parameters (normalisation statistics, a noise key).
    weights
        One non-negative weight per example, for a single ``(inputs, targets)`` batch.
    penalty
        ``penalty(params) -> scalar`` added to the mean, such as weight decay.
    data
        Name of the data for reports (a probe set and its hash).
    mesh
        Devices to compute on together, see :meth:`sharded`.

    Raises
    ------
    ProblemError
        If inputs and targets differ in length, there is no example, the loss is not one number per
        example, a parameter is NaN or infinite, a weight is negative, or the data can be read only
        once.
    """

    predict: Callable[..., PyTree] | None
    loss: Callable[..., Array]
    params: PyTree
    batch: tuple[Any, ...] | list[Any] | Iterable[Any] | Callable[[], Iterable[Any]] | Source
    state: PyTree = None
    weights: Any = None
    penalty: Callable[[PyTree], Array] | None = None
    data: str = ""
    mesh: Mesh | None = None
    source: Source = field(init=False, repr=False)
    _x64: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        set_once = partial(object.__setattr__, self)
        set_once("params", jax.tree.map(_own, self.params))
        _check_finite(self.params)
        float64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
        set_once("_x64", float64 or self.layout.dtype == np.float64)
        if self.mesh is not None:
            set_once("params", _spread(self.params, self.mesh))
            set_once("state", place(self.state, replicated(self.mesh)))
        data: Any = self.batch
        if self.weights is not None:
            if not isinstance(data, tuple):
                raise ProblemError(
                    "weights= goes with a single (inputs, targets) batch. In lists and iterators "
                    "give (inputs, targets, weights) for each batch."
                )
            data = (*data[:2], self.weights)
        set_once("source", data if isinstance(data, Source) else Source(data))
        first = self.source.first()
        if not self.streamed:
            _ = self.source.census  # refuses batches that do not belong together
        with self.precision():
            self.objective.check_shape(self.params, first, self.state)

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
        """Whether batches are read anew in every pass and not kept."""
        return self.source.listed is None

    def batches(self) -> Iterator[Batch]:
        """Iterate over the batches as they were given, on the host or a device."""
        return self.source.batches()

    def placed(self) -> Iterator[Batch]:
        """Iterate over the batches as products use them: padded, on the device or the mesh.

        Together they give the same objective, with few sizes, so that few programs are compiled.
        Data in memory are placed once. Streamed data are sent as the iterator advances.
        """
        return self._placed() if self.streamed else iter(self._resident)

    @cached_property
    def _resident(self) -> tuple[Batch, ...]:
        return tuple(self._placed())

    def _placed(self) -> Iterator[Batch]:
        for batch in self.batches():
            if (np.asarray(batch.weights) > 0).any():
                yield self.place(batch)

    def place(self, batch: Batch) -> Batch:
        """Return a batch padded and on the device or the mesh."""
        if self.predict is not None:  # a scalar loss may be a mean over whatever is in the batch
            size = batch.weights.shape[0]
            devices = 1 if self.mesh is None else self.mesh.devices.shape[0]
            largest = max(size, self.source.census.largest)
            batch = fill(batch, padded_size(size, largest=largest, multiple=devices))
        with self.precision():
            return send(batch, self.mesh)

    @property
    def examples(self) -> int:
        """Number of examples over all batches."""
        return self.source.census.examples

    @property
    def total_weight(self) -> float:
        """Sum of the example weights: their number, unless weights were given."""
        return self.source.census.weight

    @property
    def estimand(self) -> str:
        """What is averaged over what, for reports.

        It ends with a fingerprint of the data, eight digits that change with any example but not
        with their order or their batches; the first time it costs a pass over the bytes.
        """
        return self.describe()

    def describe(self, penalty: bool = True, block: TreeLayout | None = None) -> str:
        """Return what is averaged over what, for matrices without penalty or of some leaves."""
        parts = [
            f"mean {self.objective.name} over {self.examples} examples",
            self.describe_parameters(block),
            "no penalty"
            if self.penalty is None
            else "penalty included"
            if penalty
            else "penalty left out",
        ]
        return ", ".join([*parts, *self.describe_data()])

    def describe_data(self) -> list[str]:
        """Return the name of the data, if they have one, and their fingerprint."""
        found = self.source.fingerprint
        named = [self.data] if self.data else []
        return named if found is None else [*named, f"data {found:08x}"]

    def describe_parameters(self, block: TreeLayout | None = None) -> str:
        """Return how many parameters there are, or which of them a block has."""
        if block is None:
            return f"{self.layout.dim} parameters"
        return f"{block.dim} of {self.layout.dim} parameters ({_listed(block.names)})"

    def value(self) -> float:
        """Return the objective; one forward pass."""
        with self.precision(), exact_matmul():
            total = sum(
                float(batch_total(self.objective, self.params, batch, self.state))
                for batch in self.placed()
            )
            extra = 0.0 if self.penalty is None else float(self.penalty(self.params))
        return total / self.total_weight + extra

    def gradient(self, params: PyTree = None) -> PyTree:
        """Return the gradient of the objective, a tree like the parameters.

        Parameters
        ----------
        params
            Where to take it, instead of at the problem's parameters.

        Returns
        -------
        The gradient. Cost: one forward and backward pass.
        """
        point = self.params if params is None else params
        with self.precision(), exact_matmul():
            total = sum_over(
                self.placed(),
                lambda batch: batch_gradient(self.objective, point, batch, self.state),
            )
            mean = _divided(total, self.total_weight)
            if self.penalty is not None:
                mean = jax.tree.map(jnp.add, mean, jax.grad(self.penalty)(point))
        return mean

    def together(self) -> Batch:
        """Return all examples as one batch on the host; streamed data are read into memory."""
        return jax.tree.map(lambda *leaves: _concatenated(leaves), *self.batches())

    def losses(self) -> Float[np.ndarray, " examples"]:
        """Return the loss of each example on the host, in the order of the data."""
        return np.concatenate([self.batch_losses(batch) for batch in self.batches()])

    def batch_losses(self, batch: Batch) -> Float[np.ndarray, " examples"]:
        """Return the loss of each example of one batch, those of weight zero included."""
        size = batch.weights.shape[0]
        counted = Batch(batch.inputs, batch.targets, np.ones(size, np.float32))
        with self.precision(), exact_matmul():
            losses = batch_losses(self.objective, self.params, self.place(counted), self.state)
            if self.mesh is not None:
                losses = jax.device_put(losses, replicated(self.mesh))
            return np.asarray(losses)[:size]

    def sharded(self, mesh: Mesh | None = None) -> "Problem":
        """Return the same problem computed on several devices together.

        Examples are cut over the first axis of the mesh; parameters are copied to every device,
        except those that already lie on the mesh in the caller's way. With several processes
        (``jax.distributed.initialize``) every process makes the same calls with the same data and
        sends only the examples of its own devices.

        Parameters
        ----------
        mesh
            The devices; by default all of them, of all processes, along one axis.
        """
        everything = Mesh(np.array(jax.devices()), ("examples",))
        return replace(
            self, batch=self.source, weights=None, mesh=everything if mesh is None else mesh
        )

    def subset(self, mask: Any) -> "Problem":
        """Return the problem on the examples that a boolean mask (or an index array) selects.

        Raises
        ------
        ProblemError
            If the data are streamed, or the mask has the wrong length.
        """
        if self.source.listed is None:
            raise ProblemError(
                "subset() was asked of streamed data, which are not in memory. Filter inside the "
                "iterator instead."
            )
        chosen = np.asarray(mask)
        if chosen.dtype == bool and chosen.shape != (self.examples,):
            raise ProblemError(
                f"subset() got a mask of shape {chosen.shape} for {self.examples} examples. Pass "
                "one boolean per example, or the indices of the examples to keep."
            )
        part: Batch = jax.tree.map(lambda leaf: leaf[chosen], self.together())
        return replace(self, batch=[(part.inputs, part.targets, part.weights)], weights=None)

    def promoted(self) -> "Problem":
        """Return the same problem with parameters, state and data in float64.

        Use it inside :func:`curvlab.core.precision.float64`.
        """
        data = self.source.mapped(
            lambda batch: [promote(batch)], largest=self.source.census.largest
        )
        return replace(
            self, params=promote(self.params), state=promote(self.state), batch=data, weights=None
        )

    def reordered(self) -> "Problem":
        """Return the same problem with every batch reversed and cut in two.

        The objective is equal; its floating-point sums run in another order.
        """

        def halves(batch: Batch) -> list[Batch]:
            examples = batch.weights.shape[0]
            middle = -(-examples // 2)
            back: Batch = jax.tree.map(lambda leaf: leaf[::-1], batch)
            return [
                jax.tree.map(lambda leaf, part=part: leaf[part], back)
                for part in (slice(middle), slice(middle, None))[: min(examples, 2)]
            ]

        if self.predict is None:  # a scalar loss may depend on which examples share a batch
            return self
        data = self.source.mapped(halves, largest=-(-self.source.census.largest // 2))
        return replace(self, batch=data, weights=None)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which everything of this problem is traced and computed.

        That in which it was made, whatever the caller's: float64 only if the parameters are, or if
        float64 was switched on when the problem was made.
        """
        return jax.enable_x64(self._x64)


@partial(jax.jit, donate_argnames="total")
def _divided(total: PyTree, weight: Array | float) -> PyTree:
    return jax.tree.map(lambda leaf: leaf / weight, total)


def _own(leaf: Any) -> Array:
    """Return an array that nobody changes: on a CPU JAX would share the memory of NumPy's."""
    return jnp.array(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)


def _concatenated(leaves: Sequence[Any]) -> Any:
    if is_key(leaves[0]):
        return jnp.concatenate(leaves)
    return np.concatenate([np.asarray(leaf) for leaf in leaves])


def _check_finite(params: PyTree) -> None:
    floating = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if is_floating(leaf)
    ]
    counts = jax.device_get(not_finite([leaf for _, leaf in floating]))
    for (path, leaf), bad in zip(floating, counts, strict=True):
        if bad:
            raise ProblemError(
                f"Parameter {path_name(path)!r} holds {bad} of {leaf.size} values that are NaN "
                "or infinite. Curvature is not defined there; analyse an earlier checkpoint."
            )


def _spread(params: PyTree, mesh: Mesh) -> PyTree:
    """Copy parameters to every device, but leave those that the caller has put on the mesh."""
    return jax.tree.map(
        lambda leaf: leaf if on_mesh(leaf, mesh) else place(leaf, replicated(mesh)), params
    )


def _listed(names: tuple[str, ...], most: int = 6) -> str:
    """Return names as a list that fits into a report."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
