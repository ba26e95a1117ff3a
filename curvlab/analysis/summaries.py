"""What a stored spectral measure says in a few numbers, for tables."""

from curvlab.core.errors import OperatorError
from curvlab.core.texts import with_interval
from curvlab.spectral import Estimate, SpectralMeasure, negative_mass, spectral_ranks
from curvlab.spectral.summaries import NOT_RESOLVED


def summary_rows(measure: SpectralMeasure) -> list[tuple[str, str]]:
    """Return the effective ranks and the negative mass of a measure as labelled texts.

    No products. What the measure is too short for is said in place of the number.
    """
    try:
        ranks = spectral_ranks(measure)
    except OperatorError as error:
        return [("effective ranks", str(error))]
    share = 100 * (1 - ranks.delta)
    rows = {
        "participation rank, (tr A²)² / tr A⁴": ranks.participation,
        "stable rank, tr A² / max λ²": ranks.stable,
        "entropy rank of |λ|": ranks.entropy,
        f"eigenvalues that hold {share:g} % of Σ|λ|": ranks.srank,
        "negative share of Σ|λ|": negative_mass(measure),
    }
    return [(label, _said(estimate)) for label, estimate in rows.items()]


def _said(estimate: Estimate) -> str:
    if estimate.method == NOT_RESOLVED:
        return f"not resolved, within [{estimate.low:.3g}, {estimate.high:.3g}]"
    return with_interval(estimate.value, estimate.low, estimate.high)
