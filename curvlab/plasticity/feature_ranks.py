"""Ranks of the feature matrix: the last hidden activations over a probe set."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul
from curvlab.curvature import Problem
from curvlab.plasticity.activations import Arguments, Recorder, recordings
from curvlab.plasticity.registry import DIAGNOSTICS, Diagnostic
from curvlab.runs import Checkpoint
from curvlab.spectral.ranks import effective_number


@dataclass(frozen=True)
class RankStatistics:
    """Four ranks of a feature matrix ``Phi`` of n examples and d features.

    Attributes
    ----------
    feature_rank
        ``#{i : σ_i(Phi/√n) > epsilon}``; absolute, so it falls when the features shrink.
    srank
        ``min{k : Σ_{i≤k} σ_i ≥ (1 − delta) Σ_i σ_i}``; 0 for a zero matrix.
    effective_rank
        ``exp(−Σ p_i ln p_i)`` with ``p_i = σ_i / Σ σ``; 0 for a zero matrix.
    stable_rank
        ``‖Phi‖_F² / ‖Phi‖₂²``; 0 for a zero matrix.
    singular_values
        Singular values of ``Phi/√n``, descending.
    """

    feature_rank: int
    srank: int
    effective_rank: float
    stable_rank: float
    singular_values: Float[np.ndarray, " values"]


def ranks_of(
    singular_values: Float[np.ndarray, " values"], *, epsilon: float = 0.01, delta: float = 0.01
) -> RankStatistics:
    """Return the ranks of a matrix from the singular values of ``Phi/√n`` (float64)."""
    sigma = np.sort(np.asarray(singular_values, np.float64))[::-1]
    feature_rank = int((sigma > epsilon).sum())
    if not sigma.sum() > 0:
        return RankStatistics(feature_rank, 0, 0.0, 0.0, sigma)
    cumulative = np.cumsum(sigma)
    srank = int(np.argmax(cumulative >= (1 - delta) * cumulative[-1])) + 1
    effective = effective_number(sigma)
    relative = sigma / sigma[0]
    return RankStatistics(feature_rank, srank, effective, float(np.sum(relative**2)), sigma)


@partial(jax.jit, static_argnums=0)
def _last(found: Recorder, arguments: Arguments) -> Float[Array, "examples features"]:
    features = found(arguments)[-1]
    return features.reshape(features.shape[0], -1)


def feature_singular_values(problem: Problem) -> Float[np.ndarray, " values"]:
    """Return the singular values of ``Phi/√n``, descending; ``Phi``: the last hidden activations.

    Positions of a convolution are features of their own. The matrix is never held: ``PhiᵀPhi`` is
    summed piece by piece in float64, which takes ``d²`` numbers and is several times faster than a
    factorisation of ``Phi``. Values below ``√(d ε) ≈ 1e-7`` of the largest are beyond its precision
    and count as zero, which moves none of the ranks.

    Raises
    ------
    ProblemError
        If the network has no identifiable hidden activation, or an activation is not finite.
    """
    gram: np.ndarray | None = None
    examples = 0
    with problem.precision(), exact_matmul():
        for found, arguments, count in recordings(problem):
            piece = np.asarray(jax.device_get(_last(found, arguments)), np.float64)
            if not np.isfinite(piece).all():
                raise ProblemError(
                    "Ranks were asked for of features that hold NaN or infinity: the forward pass "
                    "overflows. Check the parameters and the data, or use an earlier checkpoint."
                )
            gram = piece.T @ piece if gram is None else gram + piece.T @ piece
            examples += count
    assert gram is not None  # a problem holds at least one example
    squares = np.linalg.eigvalsh(gram)[::-1] / examples
    squares[squares < len(squares) * np.finfo(np.float64).eps * squares[0]] = 0.0
    return np.sqrt(squares[: min(examples, len(squares))])


def ranks(problem: Problem, *, epsilon: float = 0.01, delta: float = 0.01) -> RankStatistics:
    """Return four ranks of the features (last hidden activations) on a probe set.

    Parameters
    ----------
    problem
        Network, parameters and probe set.
    epsilon
        Threshold of ``feature_rank`` on singular values of ``Phi/√n``.
    delta
        Share of the singular values that ``srank`` leaves out.

    Raises
    ------
    ProblemError
        If the network has no identifiable hidden activation.

    Notes
    -----
    One forward pass, ``n d²`` and ``d³`` flops in float64 for d features. All four are unchanged by
    orthogonal maps of the features; all but ``feature_rank`` are unchanged by scaling.

    References
    ----------
    Lyle et al. (2022), "Understanding and Preventing Capacity Loss in Reinforcement Learning";
    Kumar et al. (2021), "Implicit Under-Parameterization"; Roy and Vetterli (2007), "The effective
    rank: a measure of effective dimensionality".
    """
    return ranks_of(feature_singular_values(problem), epsilon=epsilon, delta=delta)


@dataclass(frozen=True)
class Ranks(Diagnostic):
    """Diagnostic of :func:`ranks`.

    Attributes
    ----------
    epsilon
        Threshold of ``feature_rank``.
    delta
        Share of the singular values that ``feature_srank`` leaves out.
    """

    name: ClassVar[str] = "ranks"
    epsilon: float = 0.01
    delta: float = 0.01

    def __call__(self, checkpoint: Checkpoint, probe_set: str = "current") -> xr.Dataset:
        """Measure the ranks; NaN with a ``reason`` for networks without hidden activations."""
        problem = checkpoint.problem(probe_set)
        reason = ""
        values = (np.nan, np.nan, np.nan, np.nan)
        try:
            found = ranks(problem, epsilon=self.epsilon, delta=self.delta)
        except ProblemError as error:
            reason = str(error)
        else:
            values = (
                *(float(found.feature_rank), float(found.srank)),
                *(found.effective_rank, found.stable_rank),
            )
        names = ("feature_rank", "feature_srank", "feature_effective_rank", "feature_stable_rank")
        attributes = {"reason": reason}
        return xr.Dataset(
            {name: ((), value, attributes) for name, value in zip(names, values, strict=True)}
        )


# Not as a decorator, which would hide the class from type checkers.
DIAGNOSTICS.register("ranks")(Ranks)
