"""Curvature in a metric: ``P^-1/2 A P^-1/2`` for a diagonal ``P``.

An optimiser that steps by ``-η P⁻¹ g`` sees the curvature in its own metric ``P``, and weights of a
scale-invariant network are measured in units of their norm. The metrics of Adam and RMSProp come
from the optimiser's state together with its settings, which the state does not hold.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.core.specs import with_defaults
from curvlab.core.trees import path_name
from curvlab.curvature.parameter_operator import ParameterOperator
from curvlab.spectral.derived import DerivedOperator


@dataclass(frozen=True, eq=False)
class Metric:
    """A diagonal metric: the squared length of a step ``δ`` is ``Σ_i P_i δ_i²``.

    Attributes
    ----------
    diagonal
        ``P`` as a tree like the parameters, entries positive. Infinity means that a parameter does
        not move: its row and column of ``P^-1/2 A P^-1/2`` are zero.
    name
        What it is, with its settings, for reports.
    """

    diagonal: PyTree
    name: str

    def inverse_root(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> np.ndarray:
        """Return ``P^-1/2`` of some leaves as one float64 vector.

        Raises
        ------
        OperatorError
            If a leaf is missing, has another shape, or an entry that is not positive.
        """
        leaves = {
            path_name(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.diagonal)
        }
        pieces: list[np.ndarray] = []
        for name, shape in zip(names, shapes, strict=True):
            found = f"shape {np.shape(leaves[name])}" if name in leaves else "no such entry"
            if name not in leaves or np.shape(leaves[name]) != tuple(shape):
                raise OperatorError(
                    f"The {self.name} needs an entry {name!r} of shape {tuple(shape)}, found "
                    f"{found}. Make it from the same parameters or the same optimiser state."
                )
            entries = np.asarray(leaves[name], np.float64)
            bad = int((~(entries > 0)).sum())
            if bad:
                raise OperatorError(
                    f"The {self.name} has {bad} of {entries.size} entries of {name!r} that are not "
                    "positive. Check eps and the optimiser state (a parameter without gradient "
                    "needs eps > 0)."
                )
            pieces.append(1 / np.sqrt(entries).ravel())
        return np.concatenate(pieces)


class InMetric(DerivedOperator, ParameterOperator):
    """``P^-1/2 A P^-1/2``: a matrix in the coordinates in which the metric ``P`` is the identity.

    Similar to ``P⁻¹ A``, whose eigenvalues decide the stability of steps ``-η P⁻¹ g``.

    Parameters
    ----------
    plain
        The matrix ``A``.
    metric
        ``P``, for (at least) the parameters of ``A``.

    Raises
    ------
    OperatorError
        If the metric does not fit the parameters.

    Notes
    -----
    An eigenvector ``u`` belongs to the direction ``P^-1/2 u`` in parameter space.
    """

    def __init__(self, plain: ParameterOperator, metric: Metric):
        super().__init__(
            [plain],
            lambda: f"{plain.estimand}, in the {metric.name}",
            positive_semidefinite=plain.positive_semidefinite,
        )
        self.plain = plain
        self.metric = metric
        self.layout = plain.layout
        root = metric.inverse_root(self.layout.names, self.layout.shapes)
        self._inverse_root = self.constant(root)

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self._inverse_root * self.plain.matvec(self._inverse_root * vector)

    @property
    @override
    def layers(self) -> tuple[str, ...]:
        return self.plain.layers

    @override
    def block(self, paths: str | Iterable[str] = (), *, last: int | None = None) -> "InMetric":
        """Return the principal block of some parameters, in the same metric."""
        return InMetric(self.plain.block(paths, last=last), self.metric)

    @override
    def remade(self, parts: Sequence[ParameterOperator]) -> "InMetric":
        return InMetric(parts[0], self.metric)


def adam_metric(opt_state: PyTree, *, b1: float, b2: float, eps: float, eps_root: float) -> Metric:
    """Return Adam's metric ``P = (1 - b1^t) (√(v / (1 - b2^t) + eps_root) + eps)``.

    ``t`` is the number of updates done, so ``P`` is the metric of the latest one: optax's Adam
    moved by ``-η m / P`` with the first moment ``m`` in the state.

    Parameters
    ----------
    opt_state
        An optax state that holds one Adam state, also inside chains and wrappers.
    b1, b2, eps, eps_root
        Settings of the optimiser, which the state does not hold.

    Raises
    ------
    OperatorError
        If there is not exactly one Adam state, or no update has been done.

    References
    ----------
    Kingma and Ba 2015, *Adam*. Cohen et al. 2022, *Adaptive gradient methods at the edge of
    stability*.
    """
    state = _only_state(opt_state, "Adam", {"ScaleByAdamState": {"count", "mu", "nu"}})
    updates = _updates(state["count"], "Adam")

    def entries(nu: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return (1 - b1**updates) * (np.sqrt(nu / (1 - b2**updates) + eps_root) + eps)

    settings = f"b1={b1:g}, b2={b2:g}, eps={eps:g}, eps_root={eps_root:g}, {updates} updates"
    return Metric(_mapped(entries, state["nu"]), f"Adam metric ({settings})")


def rmsprop_metric(
    opt_state: PyTree, *, eps: float, eps_in_sqrt: bool = True, decay: float | None = None
) -> Metric:
    """Return RMSProp's metric: ``P = √(v + eps)``, or ``√v + eps`` with ``eps_in_sqrt=False``.

    For the centred variant ``v - m²`` takes the place of ``v``, with the mean ``m`` of the
    gradient. Which variant it is, the type of the state tells. Momentum is applied after ``P`` and
    does not change it.

    Parameters
    ----------
    opt_state
        An optax state that holds one RMSProp state, also inside chains and wrappers.
    eps, eps_in_sqrt
        Settings of the optimiser, named as in ``optax.rmsprop``.
    decay
        Decay rate of the moments; needed for bias-corrected states only.

    Raises
    ------
    OperatorError
        If there is not exactly one RMSProp state, or ``decay`` is needed and missing.

    References
    ----------
    Tieleman and Hinton 2012, *Lecture 6.5: rmsprop*.
    """
    kinds = {
        "ScaleByRmsState": {"nu"},
        "ScaleByRStdDevState": {"mu", "nu"},
        "ScaleByRmsWithCountState": {"count", "nu"},
        "ScaleByRStdDevWithCountState": {"count", "mu", "nu"},
    }
    state = _only_state(opt_state, "RMSProp", kinds)
    correction = 1.0
    if "count" in state:
        if decay is None:
            raise OperatorError(
                "rmsprop_metric() found a bias-corrected state, whose moments are divided by "
                "1 - decay^t. Pass decay=."
            )
        correction = 1 - decay ** _updates(state["count"], "RMSProp")

    def entries(
        nu: Float[np.ndarray, "..."], mu: Float[np.ndarray, "..."] | None = None
    ) -> Float[np.ndarray, "..."]:
        moment = nu / correction
        if mu is not None:
            moment = moment - np.square(mu / correction)
        return np.sqrt(moment + eps) if eps_in_sqrt else np.sqrt(moment) + eps

    moments = (state["nu"], state["mu"]) if "mu" in state else (state["nu"],)
    kind = "centred RMSProp" if "mu" in state else "RMSProp"
    place = "inside" if eps_in_sqrt else "outside"
    name = f"{kind} metric (eps={eps:g} {place} the root)"
    return Metric(_mapped(entries, *moments), name)


def weight_norm_metric(params: PyTree) -> Metric:
    """Return the metric in which every tensor has unit length: ``P = 1/‖W‖²`` on each leaf.

    ``P^-1/2 A P^-1/2`` has the blocks ``‖W_s‖ A_st ‖W_t‖``. Scaling a tensor on whose scale the
    network does not depend leaves them unchanged, whereas raw eigenvalues move as ``1/‖W‖²``: the
    largest eigenvalue in this metric is a scale-invariant sharpness. The norm is Frobenius's, of
    each leaf of the tree. A leaf of norm zero (biases at initialisation) has no scale: ``P`` is
    infinite and its rows and columns are zero.

    Parameters
    ----------
    params
        The parameters at which the matrix is taken.
    """

    def entries(leaf: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        square = float(np.square(leaf).sum())
        return np.broadcast_to(np.float64(1 / square if square else np.inf), leaf.shape)

    return Metric(_mapped(entries, params), "weight-norm metric (1/‖W‖² on each tensor)")


def optimiser_metric(name: str, settings: Mapping[str, Any], opt_state: PyTree) -> Metric:
    """Return the metric of an optax alias with its settings.

    Parameters
    ----------
    name
        ``"adam"``, ``"adamw"`` or ``"rmsprop"``.
    settings
        Keyword arguments of the alias; optax's defaults fill in the others.
    opt_state
        State of the optimiser.

    Raises
    ------
    OperatorError
        If the optimiser has no diagonal metric that is known here.
    """
    import optax

    if name not in ("adam", "adamw", "rmsprop") or settings.get("nesterov", False):
        variant = " with Nesterov momentum" if settings.get("nesterov", False) else ""
        raise OperatorError(
            f"No metric is known for the optimiser {name!r}{variant}. Known: adam, adamw and "
            "rmsprop, without Nesterov momentum; others can be given as Metric(diagonal, name)."
        )
    chosen = with_defaults(getattr(optax, name), settings)
    if name == "rmsprop":
        names = ("eps", "eps_in_sqrt", "decay")
        return rmsprop_metric(opt_state, **{key: chosen[key] for key in names})
    names = ("b1", "b2", "eps", "eps_root")
    return adam_metric(opt_state, **{key: chosen[key] for key in names})


def _only_state(opt_state: PyTree, name: str, kinds: Mapping[str, set[str]]) -> dict[str, Any]:
    """Return the fields of the only state of these types, or of a dict with the same fields.

    Types go by their name: optax does not export all of them.
    """

    def fields(node: Any) -> dict[str, Any] | None:
        if type(node).__name__ in kinds:
            return node._asdict()
        if isinstance(node, Mapping) and set(node) in kinds.values():  # a state without its types
            return dict(node)
        return None

    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: fields(node) is not None)
    found = [state for state in map(fields, nodes) if state is not None]
    if len(found) != 1:
        raise OperatorError(
            f"The {name} metric needs an optimiser state with exactly one {name} state, found "
            f"{len(found)}. Pass the part of the state that belongs to these parameters."
        )
    return found[0]


def _updates(count: Any, name: str) -> int:
    updates = int(np.asarray(count))
    if updates < 1:
        raise OperatorError(
            f"The {name} metric is not defined before the first update: all moments are zero. Use "
            "a later checkpoint."
        )
    return updates


def _mapped(function: Callable[..., np.ndarray], *trees: PyTree) -> PyTree:
    """Apply a function to leaves in float64 on the host."""
    return jax.tree.map(
        lambda *leaves: function(*(np.asarray(leaf, np.float64) for leaf in leaves)), *trees
    )
