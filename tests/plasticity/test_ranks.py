"""Ranks against matrices with known singular values."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import ProblemError
from curvlab.curvature import Problem
from curvlab.objectives import squared_error
from curvlab.plasticity import activations, ranks, ranks_of


def features_problem(features: np.ndarray) -> Problem:
    """Return a network whose features are the given non-negative matrix."""
    predict = lambda weights, inputs: jax.nn.relu(inputs @ weights) @ weights[:, :1]  # noqa: E731
    weights = np.eye(features.shape[1], dtype=np.float32)
    targets = np.zeros((features.shape[0], 1), np.float32)
    return Problem(predict, squared_error, weights, (features.astype(np.float32), targets))


def test_singular_values_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).uniform(0, 1, (50, 6)).astype(np.float32)
    expected = np.linalg.svd(features.astype(np.float64), compute_uv=False) / np.sqrt(50)
    whole = ranks(features_problem(features))
    np.testing.assert_allclose(whole.singular_values, expected, rtol=1e-9)
    monkeypatch.setattr(activations, "EXAMPLES_PER_CALL", 4)  # fewer examples than features
    cut = ranks(features_problem(features))
    np.testing.assert_allclose(cut.singular_values, expected, rtol=1e-9)
    assert (cut.feature_rank, cut.srank) == (whole.feature_rank, whole.srank)


def test_ranks_by_hand() -> None:
    found = ranks_of(np.array([8.0, 1.0, 0.96, 0.04, 0.005]))
    assert found.feature_rank == 4  # above 0.01 in absolute terms
    assert found.srank == 3  # 9.96 of 10.005 is 99.55 %
    assert found.stable_rank == pytest.approx((64 + 1 + 0.96**2 + 0.04**2 + 0.005**2) / 64)
    assert ranks_of(np.full(7, 3.0)).effective_rank == pytest.approx(7)
    assert ranks_of(np.full(100, 3.0)).srank == 99
    zero = ranks_of(np.zeros(4))
    assert (zero.feature_rank, zero.srank, zero.effective_rank, zero.stable_rank) == (0, 0, 0, 0)


def test_identical_features_have_rank_one() -> None:
    found = ranks(features_problem(np.ones((20, 5))))
    assert (found.feature_rank, found.srank) == (1, 1)
    assert found.effective_rank == pytest.approx(1, abs=1e-9)
    assert found.stable_rank == pytest.approx(1)


@given(st.integers(0, 2**16), st.sampled_from([1e-3, 1.0, 1e4]))
def test_orthogonal_maps_and_scales(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(30, 8)) * np.exp(rng.normal(size=8) * 3)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    left = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    value = lambda m: np.linalg.svd(m, compute_uv=False) / np.sqrt(30)  # noqa: E731
    before, after = ranks_of(value(matrix)), ranks_of(value(left @ matrix @ rotation))
    assert before.feature_rank == after.feature_rank
    assert before.srank == after.srank
    assert before.effective_rank == pytest.approx(after.effective_rank, rel=1e-8)
    assert before.stable_rank == pytest.approx(after.stable_rank, rel=1e-8)
    scaled = ranks_of(value(scale * matrix))
    assert scaled.srank == before.srank
    assert scaled.effective_rank == pytest.approx(before.effective_rank, rel=1e-8)


def test_networks_without_features() -> None:
    linear = lambda weights, inputs: inputs @ weights  # noqa: E731
    data = (np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(ProblemError, match="holds none"):
        ranks(Problem(linear, squared_error, np.eye(2, dtype=np.float32), data))
