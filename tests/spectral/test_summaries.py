"""Summaries of a spectrum: exact for known eigenvalues, else covered or not resolved."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, SpectralMeasure, eigenpairs, slq
from curvlab.spectral.ranks import entropy_rank, rank_curve, spectral_ranks, srank
from curvlab.spectral.summaries import (
    condition_number,
    effective_dimension,
    negative_mass,
    outliers,
)
from tests.spectra import SEEDS, rotated, spectra

KEY = jax.random.key(8)
RNG = np.random.default_rng(0)
NETWORK = np.r_[1e-3 * RNG.normal(size=450), 0.1 * RNG.normal(size=40), np.linspace(1, 5, 10)]


def oracle(eigenvalues, delta=0.01):
    """Return the summaries by their definitions."""
    sizes = np.sort(np.abs(eigenvalues))[::-1]
    shares = sizes / sizes.sum()
    positive = shares[shares > 0]
    return {
        "participation": (sizes**2).sum() ** 2 / (sizes**4).sum(),
        "stable": (sizes**2).sum() / sizes[0] ** 2,
        "entropy": np.exp(-(positive * np.log(positive)).sum()),
        "srank": float(np.flatnonzero(np.cumsum(shares) >= 1 - delta - 1e-9)[0] + 1),
        "negative": -eigenvalues[eigenvalues < 0].sum() / sizes.sum(),
    }


def found_by(measure, **settings):
    ranks = spectral_ranks(measure, **settings)
    return {
        "participation": ranks.participation,
        "stable": ranks.stable,
        "entropy": ranks.entropy,
        "srank": ranks.srank,
        "negative": negative_mass(measure),
    }


@given(spectra(dims=(5, 24)), st.integers(-30, 30))
def test_known_eigenvalues_give_every_summary_exactly(eigenvalues, power):
    measure = SpectralMeasure.from_eigenvalues(eigenvalues * 10.0**power)
    summaries = found_by(measure)
    for name, truth in oracle(eigenvalues).items():
        found = summaries[name]
        assert found.method == "exact"
        assert found.value == pytest.approx(truth, rel=1e-6, abs=1e-9)
        assert found.low - 1e-6 <= truth <= found.high + 1e-6


@settings(max_examples=12)
@given(spectra(dims=(24,)), SEEDS, st.integers(3, 8))
def test_bounds_hold_the_truth_whether_resolved_or_not(eigenvalues, seed, order):
    op = rotated(eigenvalues, seed)
    measure = slq(op, KEY, order=order, vectors=2)
    scale = np.abs(eigenvalues).max()
    if measure.support[1] < eigenvalues[-1] or measure.support[0] > eigenvalues[0]:
        measure = slq(op, KEY, order=24, vectors=2)
    ranks = [entropy_rank(measure), srank(measure)]
    for found, name in zip(ranks, ("entropy", "srank"), strict=True):
        truth = oracle(np.where(np.abs(eigenvalues) > 1e-13 * scale, eigenvalues, 0))[name]
        assert found.low * (1 - 1e-6) <= truth <= found.high * (1 + 1e-6)
        if found.method == "not resolved":
            assert np.isnan(found.value)
            assert found.high > 2 * found.low


def test_few_steps_do_not_resolve_ranks_of_magnitudes_and_say_so():
    measure = slq(Diagonal(NETWORK), KEY, order=20, vectors=4)
    found, truth = found_by(measure), oracle(NETWORK)
    assert {found["entropy"].method, found["srank"].method} == {"not resolved"}
    for name, value in truth.items():
        assert found[name].low <= value <= found[name].high
    assert found["participation"].value == pytest.approx(truth["participation"], rel=0.6)


def test_deflation_makes_moment_ranks_sharp():
    op = Diagonal(NETWORK)
    pairs = eigenpairs(op, KEY, order=50, largest=12, smallest=2)
    measure = slq(op, KEY, order=20, vectors=2, deflate=pairs)
    found, truth = found_by(measure, pairs=pairs), oracle(NETWORK)
    for name in ("participation", "stable"):
        assert found[name].low <= truth[name] <= found[name].high
        assert found[name].high - found[name].low < 0.1 * truth[name]
    assert found["negative"].low <= truth["negative"] <= found["negative"].high


def test_trace_rank_is_for_positive_semidefinite_matrices():
    values = np.abs(NETWORK)
    assert spectral_ranks(SpectralMeasure.from_eigenvalues(values)).trace is None
    found = spectral_ranks(SpectralMeasure.from_eigenvalues(values), positive_semidefinite=True)
    assert found.trace is not None
    assert found.trace.value == pytest.approx(values.sum() ** 2 / (values**2).sum())
    with pytest.raises(OperatorError, match=r"positive_semidefinite=True\) needs a positive"):
        spectral_ranks(SpectralMeasure.from_eigenvalues(NETWORK), positive_semidefinite=True)


def test_rank_curve_counts_magnitudes_above_each_floor():
    floors = np.geomspace(1e-4, 6, 12)
    truth = np.array([(np.abs(NETWORK) > floor).sum() for floor in floors])
    known = rank_curve(SpectralMeasure.from_eigenvalues(NETWORK), floors)
    np.testing.assert_allclose(known.value, truth, atol=1e-6)
    band = rank_curve(slq(Diagonal(NETWORK), KEY, order=30, vectors=4), floors)
    assert ((band.low <= truth) & (truth <= band.high)).all()
    assert (np.diff(band.value) <= 0).all()
    at_values = SpectralMeasure.from_eigenvalues(np.array([-2.0, -1.0, 1.0, 2.0]))
    np.testing.assert_allclose(rank_curve(at_values, np.array([0.0, 1.0, 2.0])).value, [4, 2, 0])
    with pytest.raises(OperatorError, match="floors >= 0 that ascend"):
        rank_curve(at_values, np.array([2.0, 1.0]))


def test_effective_dimension_and_condition_number():
    values = np.geomspace(1e-6, 10, 120)
    op = Diagonal(values)
    measure = slq(op, KEY, order=30, vectors=8)
    found = effective_dimension(measure, shift=0.01)
    truth = (values / (values + 0.01)).sum()
    assert found.low <= truth <= found.high
    assert found.bracket_high - found.bracket_low < found.high - found.low


@pytest.mark.parametrize("order", [4, 20, 120])
def test_a_condition_number_is_as_sure_as_its_ends_are(order):
    """Few steps end far above the smallest eigenvalue, with a small residual or not."""
    values = np.geomspace(1e-6, 10, 120)
    pairs = eigenpairs(Diagonal(values), KEY, order=order, largest=1, smallest=1)
    found = condition_number(pairs, shift=0.01)
    truth = (10 + 0.01) / (1e-6 + 0.01)
    assert found.low <= truth * (1 + 1e-9)
    assert truth <= found.high * (1 + 1e-9)
    assert found.method == ("not resolved" if order == 4 else "residual")
    assert (found.level > 0.99) == (order != 20)
    if order == 120:
        assert found.value == pytest.approx(truth)
        warm = eigenpairs(Diagonal(values), KEY, order=120, largest=1, smallest=1, start=pairs)
        assert condition_number(warm, shift=0.01).method == "not resolved"


@pytest.mark.parametrize("ends", [(3, 0), (0, 3), (3, 3)])
def test_stable_ranks_see_the_larger_end_whichever_pairs_there_are(ends):
    values = np.append(NETWORK, -20.0)
    op = Diagonal(values)
    pairs = eigenpairs(op, KEY, order=60, largest=ends[0], smallest=ends[1])
    found = spectral_ranks(slq(op, KEY, order=30, vectors=8), pairs=pairs).stable
    assert found.low <= (values**2).sum() / 400 <= found.high


def test_summaries_of_indefinite_matrices_and_shifts_are_refused():
    op = Diagonal(np.linspace(-1, 1, 60))
    measure = slq(op, KEY, order=10)
    pairs = eigenpairs(op, KEY, order=60, largest=1, smallest=1)
    with pytest.raises(OperatorError, match=r"effective_dimension needs a positive semidefinite"):
        effective_dimension(measure, shift=2.0)
    with pytest.raises(OperatorError, match=r"shift=0\.0\) needs a shift > 0\. Use"):
        effective_dimension(measure, shift=0.0)
    with pytest.raises(OperatorError, match="condition_number needs a positive semidefinite"):
        condition_number(pairs, shift=2.0)
    with pytest.raises(OperatorError, match="both ends"):
        condition_number(eigenpairs(op, KEY, order=60, largest=1, smallest=0), shift=2.0)
    with pytest.raises(OperatorError, match="share between 0 and 1"):
        spectral_ranks(measure, delta=1.0)


def test_outliers_end_at_the_largest_ratio_gap():
    op = Diagonal(NETWORK)
    pairs = eigenpairs(op, KEY, order=60, largest=14, smallest=2)
    found = outliers(pairs)
    assert found.resolved
    np.testing.assert_allclose(found.values, np.linspace(5, 1, 10), rtol=1e-6)
    assert found.ratio_low <= 1 / found.edge <= found.ratio_high
    assert found.edge_low <= np.sort(NETWORK)[-11] <= found.edge_high
    assert ((found.low <= found.values) & (found.values <= found.high)).all()
    negative = outliers(eigenpairs(Diagonal(-NETWORK), KEY, order=60, smallest=14), sign=-1)
    np.testing.assert_allclose(negative.values, -found.values, rtol=1e-6)
    assert negative.edge_low <= -found.edge <= negative.edge_high
    # Differences would have been largest between neighbours of a geometric spectrum's top.
    decaying = Diagonal(np.r_[np.zeros(100), 2.0 ** np.arange(5), 2.0 ** np.arange(8, 13)])
    pairs = eigenpairs(decaying, KEY, order=30, largest=10, smallest=0)
    assert len(outliers(pairs).values) == 5
    assert not outliers(pairs, sign=-1).resolved
    with pytest.raises(OperatorError, match="Use 1 for positive eigenvalues or -1"):
        outliers(pairs, sign=0)


def test_a_null_space_has_no_outliers():
    pairs = eigenpairs(Diagonal(np.r_[np.zeros(50), 1.0]), KEY, order=10, largest=3, smallest=1)
    assert not outliers(pairs).resolved
    assert len(outliers(pairs).values) == len(outliers(pairs).low) == 0
