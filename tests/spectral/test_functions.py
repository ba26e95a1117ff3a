"""Traces of functions: brackets for the start vectors, intervals for the spectrum, refusals."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, FunctionOperator, eigenpairs, slq
from curvlab.spectral.functions import expectation_trace, log_determinant
from curvlab.spectral.operator import random_vector
from curvlab.spectral.slq import start_key
from tests.spectra import spectra

KEY = jax.random.key(6)


def positive(eigenvalues):
    values = np.asarray(eigenvalues, np.float64)
    return FunctionOperator(
        lambda v: jax.numpy.asarray(values) * v, len(values), np.float64, positive_semidefinite=True
    )


def of_vectors(f, eigenvalues, vectors):
    """Return ``n`` times the pooled ``∫ f dF_l`` of the start vectors, by their definition."""
    dim = len(eigenvalues)
    rows = [np.asarray(random_vector(start_key(KEY, i), dim)) for i in range(vectors)]
    g2 = (np.stack(rows).astype(np.float64) ** 2).sum(0)
    return dim * (g2 * f(eigenvalues)).sum() / g2.sum()


@settings(max_examples=10)
@given(spectra(dims=(24,)), st.integers(2, 8))
def test_brackets_hold_what_the_start_vectors_see(eigenvalues, order):
    scale = np.abs(eigenvalues).max()

    def f(x):
        return np.tanh(x / scale)

    found = expectation_trace(
        Diagonal(eigenvalues), f, KEY, order=order, vectors=8, noise_floor=0.0
    )
    seen = of_vectors(f, eigenvalues, 8)
    assert found.bracket_low - 1e-7 <= seen <= found.bracket_high + 1e-7
    assert found.low <= found.bracket_low <= found.value <= found.bracket_high <= found.high


@settings(max_examples=10)
@given(spectra(dims=(24,)), st.integers(2, 8), st.integers(-3, 1))
def test_gauss_and_gauss_radau_hold_the_logarithm(eigenvalues, order, decades):
    values = np.abs(eigenvalues)
    shift = values.max() * 10.0**decades
    found = log_determinant(
        positive(values), KEY, shift=shift, order=order, vectors=8, noise_floor=0.0
    )
    seen = of_vectors(lambda x: np.log(x + shift), values, 8)
    slack = 1e-7 * max(1, abs(seen))
    assert found.bracket_low - slack <= seen <= found.bracket_high + slack


def test_the_sandwich_is_far_tighter_than_a_general_bracket():
    values = np.linspace(0, 1, 400)
    op = positive(values)
    settings: dict[str, Any] = {"order": 12, "vectors": 8, "noise_floor": 0.0}
    special = log_determinant(op, KEY, shift=0.1, **settings)
    general = expectation_trace(op, lambda x: np.log(x + 0.1), KEY, **settings)
    assert special.value == pytest.approx(general.value, rel=1e-4)
    widths = [found.bracket_high - found.bracket_low for found in (special, general)]
    assert widths[0] < 1e-4 * widths[1]
    truth = np.log(values + 0.1).sum()
    assert special.low <= truth <= special.high
    assert general.low <= truth <= general.high
    assert special.high - special.low < general.high - general.low


def test_deflated_pairs_are_summed_exactly():
    values = np.r_[np.linspace(0, 0.01, 290), np.geomspace(1, 100, 10)]
    op = positive(values)
    pairs = eigenpairs(op, KEY, order=60, largest=10, smallest=0, noise_floor=1e-12)
    settings: dict[str, Any] = {"order": 12, "vectors": 8, "noise_floor": 1e-12}
    plain = expectation_trace(op, lambda x: x, KEY, **settings)
    deflated = expectation_trace(op, lambda x: x, KEY, deflate=pairs, **settings)
    for found in (plain, deflated):
        assert found.low <= values.sum() <= found.high
    assert deflated.high - deflated.low < 0.01 * (plain.high - plain.low)
    logs = log_determinant(op, KEY, shift=0.01, deflate=pairs, **settings)
    assert logs.low <= np.log(values + 0.01).sum() <= logs.high


def test_noise_widens_the_logarithm():
    op = positive(np.linspace(0, 1, 200))
    settings: dict[str, Any] = {"shift": 0.1, "order": 15, "vectors": 8}
    quiet = log_determinant(op, KEY, noise_floor=0.0, **settings)
    noisy = log_determinant(op, KEY, noise_floor=0.01, **settings)
    assert noisy.low < quiet.low < quiet.high < noisy.high


def test_what_cannot_be_computed_is_refused():
    values = np.linspace(0, 1, 200)
    op = positive(values)
    with pytest.raises(OperatorError, match=r"shift=0\.0\) needs a shift > 0"):
        log_determinant(op, KEY, shift=0.0, order=5)
    with pytest.raises(OperatorError, match="below three noise floors"):
        log_determinant(op, KEY, shift=1e-3, order=5, noise_floor=1e-3)
    with pytest.raises(OperatorError, match="does not promise to be one"):
        log_determinant(Diagonal(-values), KEY, shift=1.0, order=5)
    with pytest.raises(OperatorError, match=r"positive semidefinite.* -\d"):
        log_determinant(positive(-values), KEY, shift=2.0, order=5, noise_floor=0.0)
    with pytest.raises(OperatorError, match="not finite everywhere"):
        expectation_trace(Diagonal(values - 0.5), np.log, KEY, order=5)
    with pytest.raises(OperatorError, match=r"expectation_trace\(vectors=4\)"):
        expectation_trace(op, np.exp, KEY, order=5, vectors=4)


def test_variance_of_a_form_is_what_the_measure_says():
    # n vᵀ f(A) v over many vectors, against 2 n E Var_{F_v}(f).
    from curvlab.spectral.functionals import samples

    values = np.r_[np.linspace(-1, 1, 60), 3.0]
    measure = slq(Diagonal(values), KEY, order=20, vectors=64, noise_floor=0.0)
    found = samples(measure, lambda x: x**2)
    expected = 2 / 61 / 63 * ((values**4).sum() - (values**2).sum() ** 2 / 61)
    assert found.variances.mean() == pytest.approx(expected, rel=0.35)
    assert np.var(found.values, ddof=1) == pytest.approx(expected, rel=0.6)
