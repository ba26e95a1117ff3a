"""Beta inversion against a direct search and against simulation."""

import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from curvlab.spectral.intervals import count_bounds


@given(st.floats(0, 1), st.integers(1, 4), st.sampled_from([0.025, 1e-4]))
def test_bounds_equal_a_search_over_all_counts(share, vectors, tail):
    dim = 30
    counts = np.arange(1, dim)
    law = scipy.stats.beta(counts * vectors / 2, (dim - counts) * vectors / 2)
    above = np.concatenate([[float(share <= 0)], law.sf(share), [1.0]])  # P_k[B >= share]
    below = np.concatenate([[1.0], law.cdf(share), [float(share >= 1)]])  # P_k[B <= share]
    low, high = count_bounds(
        np.array([share]), np.array([share]), dim=dim, vectors=vectors, tail=tail
    )
    assert np.isclose(low[0] * dim, np.flatnonzero(above >= tail)[0])
    assert np.isclose(high[0] * dim, np.flatnonzero(below >= tail)[-1])


def test_pooling_by_squared_norms_makes_the_share_exactly_beta():
    rng = np.random.default_rng(0)
    g2 = rng.normal(size=(20_000, 3, 12)) ** 2
    pooled = g2[:, :, :5].sum((1, 2)) / g2.sum((1, 2))
    exact = scipy.stats.beta(3 * 5 / 2, 3 * 7 / 2)
    assert scipy.stats.kstest(pooled, exact.cdf).pvalue > 0.01
    # The plain average of the shares is narrower; this is what the weights are for.
    plain = (g2[:, :, :5].sum(2) / g2.sum(2)).mean(1)
    assert plain.var() < 0.97 * exact.var()


def test_wider_brackets_give_wider_bounds():
    low, high = count_bounds(np.array([0.2]), np.array([0.4]), dim=100, vectors=1, tail=0.025)
    low2, high2 = count_bounds(np.array([0.3]), np.array([0.3]), dim=100, vectors=1, tail=0.025)
    assert low < low2 <= high2 < high
