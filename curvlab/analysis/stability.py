"""How close a checkpoint is to the edge of stability of the optimiser that trained it.

Three largest eigenvalues of the Hessian: as it is, in the metric of the weights' norms, and in the
metric of the optimiser, there as a share of the optimiser's limit.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import xarray as xr
from jaxtyping import Array

from curvlab.core.errors import OperatorError, RunError
from curvlab.core.specs import Spec, with_defaults
from curvlab.curvature import Hessian
from curvlab.curvature.metric import weight_norm_metric
from curvlab.curvature.parameter_operator import ParameterOperator
from curvlab.plasticity import DIAGNOSTICS, Diagnostic
from curvlab.runs import Checkpoint
from curvlab.spectral import Eigenpairs, Estimate, eigenpairs
from curvlab.spectral.noise import NOISE_PRODUCTS


@dataclass(frozen=True)
class StabilityStatistics:
    """Sharpness of a checkpoint, and what it means for the optimiser in use.

    Attributes
    ----------
    sharpness
        Largest eigenvalue of the Hessian; moves as ``1/‖W‖²`` where the network is normalised.
    scale_invariant_sharpness
        The same in the metric ``1/‖W‖²`` of each tensor.
    limit
        Largest curvature that the optimiser's steps survive, in its own metric; NaN if unknown.
    ratio
        Largest eigenvalue in the optimiser's metric / ``limit``; above 1 full-batch steps diverge
        along its direction. None if unknown.
    reason
        Why ``ratio`` is None, else ``""``.
    miss
        Bound on the probability that one of the eigenvalues is not the largest of its matrix within
        a share ``gap`` of the spectrum's width (:attr:`curvlab.Eigenpairs.miss`), the largest of
        all matrices; 1 where the order is too low to say anything.
    gap
        That share.
    converged
        Whether the residual of each is at most a thousandth of the largest magnitude.
    notes
        What the check of the Hessian found that belongs beside it (ReLU kinks).
    """

    sharpness: Estimate
    scale_invariant_sharpness: Estimate
    limit: float
    ratio: Estimate | None
    reason: str
    miss: float
    gap: float
    converged: bool
    notes: tuple[str, ...]


def stability_limit(optimiser: Spec) -> float:
    """Return the largest curvature, in the optimiser's metric, at which its steps do not diverge.

    With learning rate ``η``: gradient descent ``2/η``; with momentum ``β`` ``2(1 + β)/η``, after
    Nesterov ``2(1 + β)/(η(1 + 2β))``, both for RMSProp too; Adam and AdamW
    ``(2 + 2 b1)/((1 - b1) η)``, weight decay left out.

    Parameters
    ----------
    optimiser
        An optax alias with its settings; optax's defaults fill in the others.

    Raises
    ------
    OperatorError
        If no limit is known for the optimiser.

    References
    ----------
    Cohen et al. 2021, *Gradient descent on neural networks typically occurs at the edge of
    stability*; Cohen et al. 2022, *Adaptive gradient methods at the edge of stability*.
    """
    import optax

    known = ("adam", "adamw", "rmsprop", "sgd")
    if optimiser.name not in known:
        raise OperatorError(
            f"The stability limit of {optimiser.name!r} was asked for; it is known for "
            f"{', '.join(known)}. Compare the sharpness with a limit of your own."
        )
    settings = with_defaults(getattr(optax, optimiser.name), optimiser.settings)
    rate = float(settings["learning_rate"])
    if optimiser.name in ("adam", "adamw"):
        b1 = float(settings["b1"])
        if settings["nesterov"]:
            raise OperatorError(
                f"The stability limit of {optimiser.name} with Nesterov momentum is not known. "
                "Compare the sharpness with a limit of your own."
            )
        return (2 + 2 * b1) / ((1 - b1) * rate)
    momentum = float(settings["momentum"] or 0.0)
    limit = 2 * (1 + momentum) / rate
    return limit / (1 + 2 * momentum) if settings["nesterov"] else limit


def stability(
    checkpoint: Checkpoint, key: Array, *, probe_set: str = "current", order: int = 30
) -> StabilityStatistics:
    """Measure sharpness, scale-invariant sharpness and the stability ratio of a checkpoint.

    Parameters
    ----------
    checkpoint
        Parameters, and for the ratio the optimiser's spec and state.
    key
        Key of the start vector.
    probe_set
        A role or the name of a probe set.
    order
        Lanczos steps for each of the three matrices.

    Returns
    -------
    Each value with the interval of its residual, which contains an eigenvalue; that it is the
    largest is not certified by a residual, so see ``miss``.

    Raises
    ------
    RunError
        If the probe set, the network or the objective is not known.
    OperatorError
        If the order exceeds the number of parameters.

    Notes
    -----
    ``3 (order + 1)`` products, and those of three noise floors. The limit belongs to full-batch
    steps with a frozen metric: for mini-batches it is a heuristic.
    """
    hessian = Hessian(checkpoint.problem(probe_set))
    invariant = hessian.in_metric(weight_norm_metric(checkpoint.params))
    found = [_largest(op, key, order) for op in (hessian, invariant)]
    sharpness, scale_invariant = map(_estimate, found)
    limit, ratio, reason = float("nan"), None, ""
    try:
        limit, seen = _seen_by_optimiser(checkpoint, hessian)
    except (OperatorError, RunError) as error:
        reason = str(error)
    else:
        if seen is not hessian:
            found.append(_largest(seen, key, order))
        ratio = _estimate(found[0] if seen is hessian else found[-1], limit)
    return StabilityStatistics(
        sharpness,
        scale_invariant,
        limit,
        ratio,
        reason,
        miss=max(float(pairs.miss[0]) for pairs in found),
        gap=found[0].gap,
        converged=all(bool(pairs.converged[0]) for pairs in found),
        notes=found[0].notes,
    )


def _seen_by_optimiser(checkpoint: Checkpoint, hessian: Hessian) -> tuple[float, ParameterOperator]:
    """Return the optimiser's limit and the Hessian in its metric."""
    optimiser = checkpoint.optimiser
    if optimiser is None:
        raise OperatorError(
            "The stability ratio needs an optimiser; the checkpoint names none. Store its spec: "
            "RunWriter.create(..., optimiser=Spec(...))."
        )
    limit = stability_limit(optimiser)
    if optimiser.name == "sgd":
        return limit, hessian
    return limit, hessian.in_metric(checkpoint.metric())


def _largest(op: ParameterOperator, key: Array, order: int) -> Eigenpairs:
    return eigenpairs(op, key, order=order, largest=1, smallest=0)


def _estimate(pairs: Eigenpairs, limit: float = 1.0) -> Estimate:
    """Return the largest eigenvalue as a share of a limit."""
    value, low, high = (float(e[0]) / limit for e in (pairs.values, pairs.low, pairs.high))
    share = "" if limit == 1.0 else f", / {limit:.6g}"
    return Estimate(
        value=value,
        stderr=float("nan"),
        low=low,
        high=high,
        level=1.0,
        method="residual",
        vectors=1,
        bracket_low=low,
        bracket_high=high,
        matvecs=pairs.matvecs,
        estimand=f"largest eigenvalue{share}; {pairs.estimand}",
        cost=pairs.cost,
    )


@dataclass(frozen=True)
class Stability(Diagnostic):
    """Diagnostic of :func:`stability`.

    Attributes
    ----------
    order
        Lanczos steps for each of the three matrices.
    seed
        Seed of the start vector, the same one for every checkpoint.
    """

    name: ClassVar[str] = "stability"
    order: int = 30
    seed: int = 0

    def products(self, dim: int) -> int:
        """Return the cost in operator products.

        Raises
        ------
        OperatorError
            If the order is not between 1 and the dimension.
        """
        if not 1 <= self.order <= dim:
            raise OperatorError(
                f"stability(order={self.order}) was asked of a matrix with {dim} rows. Use an "
                f"order from 1 to {dim}."
            )
        return 3 * (self.order + 1 + 2 * NOISE_PRODUCTS)

    def __call__(self, checkpoint: Checkpoint, probe_set: str = "current") -> xr.Dataset:
        """Measure ``sharpness``, ``scale_invariant_sharpness`` and ``stability_ratio``.

        ``stability_miss`` and ``stability_converged`` say how far they are the largest.
        """
        key = jax.random.key(self.seed)
        found = stability(checkpoint, key, probe_set=probe_set, order=self.order)
        estimates = {
            "sharpness": found.sharpness,
            "scale_invariant_sharpness": found.scale_invariant_sharpness,
            "stability_ratio": found.ratio,
        }
        data: dict[str, Any] = {
            "stability_limit": ((), found.limit, {"reason": found.reason}),
            "stability_miss": ((), found.miss, {"gap": found.gap}),
            "stability_converged": ((), found.converged, {"notes": " ".join(found.notes)}),
        }
        for name, estimate in estimates.items():
            for end in ("value", "low", "high"):
                value = float("nan") if estimate is None else getattr(estimate, end)
                full = name if end == "value" else f"{name}_{end}"
                data[full] = ((), value, {"reason": found.reason if estimate is None else ""})
        return xr.Dataset(data)


# Not as a decorator, which would hide the class from type checkers.
DIAGNOSTICS.register("stability")(Stability)
