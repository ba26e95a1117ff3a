"""Traces of functions of an operator, ``tr f(A)``, by stochastic Lanczos quadrature."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.brackets import rule_with_node
from curvlab.spectral.complement import check_vectors
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.functionals import Variation, samples
from curvlab.spectral.intervals import form_margin
from curvlab.spectral.measure import SpectralMeasure
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.progress import Tick
from curvlab.spectral.slq import slq
from curvlab.spectral.xtrace import check_positive


def expectation_trace(
    op: SymmetricOperator,
    f: Callable[[Any], Any],
    key: Array,
    *,
    order: int,
    vectors: int = 16,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    level: float = 0.95,
    name: str = "f",
    tick: Tick | None = None,
) -> Estimate:
    """Estimate ``tr f(A) = Σ f(λ_i)``.

    ``n (1/s) Σ_l ∫ f dF_l`` over the measures ``F_l`` that the start vectors see. What quadrature
    leaves open about each ``F_l`` is the bracket of the estimate; how the ``∫ f dF_l`` scatter
    about the mean of ``f`` is its random error, whose variance follows from ``F_l`` itself
    (:class:`curvlab.spectral.functionals.Samples`). The interval is the one on top of the other.

    Parameters
    ----------
    op
        The matrix ``A``.
    f
        Function of eigenvalues, vectorised and finite; sampled at 16 points between neighbouring
        grid points (nodes and their middles), so features narrower than that are not seen.
    key
        Key of the start vectors.
    order
        Lanczos steps for each vector.
    vectors
        Start vectors, at least 8.
    deflate
        Eigenpairs of ``op``; those that converged are summed exactly.
    noise_floor
        ``η`` if known; measured otherwise. Eigenvalues are widened by it.
    level
        Coverage of the interval.
    name
        How to call ``f`` in reports.
    tick
        Called with the :class:`Progress` after each step (:func:`progress_bar` shows it).

    Returns
    -------
    The estimate, provided that no eigenvalue lies beyond the outermost Ritz values widened by their
    residuals. Cost: ``order × vectors`` products, and those of the noise floor.

    Raises
    ------
    OperatorError
        If fewer than 8 vectors are asked for, the order exceeds the dimension, or ``f`` is not
        finite where eigenvalues may lie.

    References
    ----------
    Ubaru, Chen, Saad 2017, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*.
    """
    check_vectors(vectors, "expectation_trace")
    measure = slq(
        op,
        key,
        order=order,
        vectors=vectors,
        deflate=deflate,
        noise_floor=noise_floor,
        tick=tick,
    )
    return function_trace(measure, f, level=level, name=name)


def function_trace(
    measure: SpectralMeasure, f: Callable[[Any], Any], *, level: float, name: str
) -> Estimate:
    """Estimate ``tr f(A)`` from a measure of 8 random vectors or more."""
    low, high = np.zeros(measure.vectors), np.zeros(measure.vectors)
    for row in range(measure.vectors):
        single = _single(measure, row)
        low[row], high[row] = Variation.of(f, single.grid).ends(*single.grid_bracket)
    return _total(measure, f, low, high, level, f"trace of {name}(matrix)")


def log_determinant(
    op: SymmetricOperator,
    key: Array,
    *,
    shift: float,
    order: int,
    vectors: int = 16,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    level: float = 0.95,
    tick: Tick | None = None,
) -> Estimate:
    """Estimate ``log det(A + shift I) = Σ log(λ_i + shift)`` of a positive semidefinite ``A``.

    The derivatives of the logarithm alternate in sign, so the Gauss rule of each start vector gives
    too much and the Gauss-Radau rule with a node at the lower end of the spectrum too little: a
    bracket far tighter than one for general functions.

    Parameters
    ----------
    op
        The matrix, positive semidefinite by construction (Gauss-Newton, Fisher).
    key
        Key of the start vectors.
    shift
        Positive number added to every eigenvalue (a prior precision, a damping), in their units and
        at least three times the noise floor.
    order
        Lanczos steps for each vector.
    vectors
        Start vectors, at least 8.
    deflate
        Eigenpairs of ``op``; those that converged are summed exactly.
    noise_floor
        ``η`` if known; measured otherwise. Eigenvalues are widened by it.
    level
        Coverage of the interval.
    tick
        Called with the :class:`Progress` after each step (:func:`progress_bar` shows it).

    Returns
    -------
    The estimate; the bracket is the average of the two rules' values. Cost: ``order × vectors``
    products, and those of the noise floor.

    Raises
    ------
    OperatorError
        If the operator is not known to be positive semidefinite, a Rayleigh quotient proves that it
        is not, or the shift is not clearly above the noise of the products.

    References
    ----------
    Golub and Meurant 2010, *Matrices, Moments and Quadrature with Applications*, chapter 6; Ubaru,
    Chen, Saad 2017, section 4.
    """
    check_vectors(vectors, "log_determinant")
    check_positive(op, "log_determinant", "Use GaussNewton, or expectation_trace(op, f, ...).")
    if not shift > 0:
        raise OperatorError(f"log_determinant(shift={shift}) needs a shift > 0.")
    measure = slq(
        op,
        key,
        order=order,
        vectors=vectors,
        deflate=deflate,
        noise_floor=noise_floor,
        tick=tick,
    )
    return shifted_log(measure, shift, level=level)


def shifted_log(measure: SpectralMeasure, shift: float, *, level: float) -> Estimate:
    """Estimate ``log det(A + shift I)`` from a measure of 8 random vectors or more.

    Raises
    ------
    OperatorError
        If the shift is not clearly above the noise, or an eigenvalue is certainly negative.
    """
    blur = measure.blur
    if shift < 3 * blur:
        raise OperatorError(
            f"log_determinant(shift={shift:g}) is below three noise floors of the products, "
            f"{3 * blur:.3g}. Use a larger shift, or float64 parameters."
        )
    check_not_negative(measure, "log_determinant")
    low, high = np.zeros(measure.vectors), np.zeros(measure.vectors)
    for row, m in enumerate(measure.orders):
        nodes, weights = measure.nodes[row, :m], measure.weights[row, :m]
        if measure.exact[row]:  # but for the coupling that was cut
            reach = blur + float(measure.offdiagonal[row, m - 1])
            low[row] = weights @ np.log(np.maximum(nodes - reach, 0) + shift)
            high[row] = weights @ np.log(np.maximum(nodes + reach, 0) + shift)
            continue
        high[row] = weights @ np.log(nodes + shift + blur)
        nodes, weights = rule_with_node(
            measure.diagonal[row, :m], measure.offdiagonal[row, :m], -blur
        )
        # The rule's own node may come out a rounding error lower than it was prescribed.
        low[row] = weights @ np.log(np.maximum(nodes, -blur) + shift - blur)
    low, high = (
        measure.overall(means, np.log(np.maximum(measure.atoms + side * blur, 0) + shift).sum())
        for means, side in ((low, -1), (high, 1))
    )
    return _total(
        measure,
        lambda x: np.log(np.maximum(x, -blur) + shift),
        low,
        high,
        level,
        f"log determinant, shift {shift:g}",
    )


def check_not_negative(measure: SpectralMeasure, name: str) -> None:
    """Refuse a matrix that has a negative eigenvalue for certain.

    A Ritz value is a Rayleigh quotient, so the smallest eigenvalue is at most as large.

    Raises
    ------
    OperatorError
        If a Ritz value lies below zero by more than the noise floor.
    """
    lowest = float(min(measure.nodes.min(), measure.atoms.min(initial=np.inf)))
    if lowest < -2 * measure.blur - 1e-13 * float(np.abs(measure.support).max()):
        raise OperatorError(
            f"{name} needs a positive semidefinite matrix; this one has a Rayleigh quotient of "
            f"{lowest:.3g} (noise floor {measure.noise_floor:.3g}): {measure.estimand}. Use a "
            "Gauss-Newton matrix."
        )


def _single(measure: SpectralMeasure, row: int) -> SpectralMeasure:
    """Return the measure of one of the start vectors."""
    one = slice(row, row + 1)
    return replace(
        measure,
        nodes=measure.nodes[one, : measure.orders[row]],
        weights=measure.weights[one, : measure.orders[row]],
        diagonal=measure.diagonal[one, : measure.orders[row]],
        offdiagonal=measure.offdiagonal[one, : measure.orders[row]],
        orders=measure.orders[one],
        exact=measure.exact[one],
        vector_weights=np.ones(1),
    )


def _total(
    measure: SpectralMeasure,
    f: Callable[[Any], Any],
    low: Float[np.ndarray, " vectors"],
    high: Float[np.ndarray, " vectors"],
    level: float,
    what: str,
) -> Estimate:
    """Turn brackets of the vectors' means of ``f`` into an estimate of the sum over eigenvalues."""
    found = samples(measure, f)
    value, stderr = found.moments
    bracket = float(found.vector_weights @ low), float(found.vector_weights @ high)
    value = float(np.clip(value, *bracket))
    margin = found.pooling * form_margin(found.variances, level)
    ends = (bracket[0] - margin, bracket[0], value, bracket[1], bracket[1] + margin)
    least, fewest, middle, most, greatest = (measure.dim * end for end in ends)
    return Estimate(
        middle,
        measure.dim * stderr,
        least,
        greatest,
        level,
        "normal",
        measure.vectors,
        fewest,
        most,
        measure.matvecs,
        f"{what}; {measure.estimand}",
        measure.cost,
    )
