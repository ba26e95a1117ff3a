"""Score any tool's spectra against known eigenvalues, from plain arrays; needs NumPy only.

``python -m tests.oracles.score ANSWERS.npz`` prints the scores of answers to the oracle set;
``docs/oracle-set.md`` says which arrays the file holds. All errors are relative to the largest
``|λ|`` or to 1 (shares), and smaller is better.
"""

import json
import sys
from pathlib import Path

import numpy as np

SET = Path(__file__).parent / "set"
NAMES = ("healthy", "dead", "saddle", "edge")
OUTLIERS = 10
NEAR_ZERO = 1e-6


def score_eigenvalues(values, truth, *, tolerance=1e-4):
    """Score eigenvalue estimates: the five largest, the smallest, and ghosts.

    ``largest`` holds ``|θ_i - λ_i| / |λ_i|`` for the five largest (NaN where fewer were given),
    ``smallest`` the error of λ_min relative to the largest ``|λ|``. A ghost is a value beyond the
    number of eigenvalues that lie within ``tolerance × max|λ|`` of it.
    """
    values = np.sort(np.asarray(values, np.float64))[::-1]
    truth = np.sort(np.asarray(truth, np.float64))[::-1]
    scale = np.abs(truth).max()
    largest = np.full(5, np.nan)
    count = min(5, len(values), len(truth))
    near = np.abs(truth[:count]).clip(1e-300)
    largest[:count] = np.abs(values[:count] - truth[:count]) / near
    ghosts, reach = 0, tolerance * scale
    start = 0
    for i in range(1, len(values) + 1):  # runs of values that lie together
        if i == len(values) or values[i - 1] - values[i] > reach:
            high, low = values[start] + reach, values[i - 1] - reach
            there = np.count_nonzero((truth <= high) & (truth >= low))
            # An unconverged value between two eigenvalues is no ghost, a second copy is one.
            ghosts += max(0, (i - start) - max(there, 1))
            start = i
    return {
        "largest": largest.tolist(),
        "smallest": float(np.abs(values[-1] - truth[-1]) / scale) if len(values) else float("nan"),
        "ghosts": int(ghosts),
    }


def cdf_of_measure(nodes, weights):
    """Return points and values of the distribution function of a weighted set of nodes."""
    order = np.argsort(nodes, kind="stable")
    return np.asarray(nodes, np.float64)[order], np.cumsum(np.asarray(weights, np.float64)[order])


def score_measure(nodes, weights, truth):
    """Score nodes and weights (weights sum to 1)."""
    points, values = cdf_of_measure(nodes, weights)
    return _score(lambda x, side: _step(points, values, x, side), points, truth)


def score_cdf(grid, cdf, truth):
    """Score a distribution function on a grid, for tools that only return smoothed spectra."""
    grid, cdf = np.asarray(grid, np.float64), np.asarray(cdf, np.float64)
    return _score(lambda x, side: np.interp(x, grid, cdf, left=0.0, right=1.0), grid, truth)


def score_trace(value, truth, low=None, high=None):
    """Score a trace: relative error, and whether the interval (if one is given) holds the truth.

    Where positive and negative eigenvalues cancel, the error is relative to the sum of their sizes.
    """
    exact, sizes = float(np.sum(truth)), float(np.abs(truth).sum())
    covered = None if low is None or high is None else bool(low <= exact <= high)
    scale = abs(exact) if abs(exact) > 1e-9 * sizes else sizes
    return {"error": abs(float(value) - exact) / scale, "covered": covered}


def _step(points, values, x, side):
    index = np.searchsorted(points, x, side=side)
    return np.concatenate([[0.0], values])[index]


def _score(estimate, points, truth):
    truth = np.sort(np.asarray(truth, np.float64))
    scale = np.abs(truth).max()
    bulk = np.sort(truth[np.argsort(np.abs(truth))][:-OUTLIERS])
    low, high = bulk[0], bulk[-1]

    def share(x, side):  # of the bulk: what the estimate has outside is cut off
        ends = estimate(np.array([low]), "left")[0], estimate(np.array([high]), "right")[0]
        total = max(ends[1] - ends[0], 1e-300)
        return np.clip((estimate(x, side) - ends[0]) / total, 0, 1)

    inside = points[(points > low) & (points < high)]
    edge = NEAR_ZERO * scale
    ends = np.array([-edge, edge])
    mass = float(np.diff(estimate(ends, "right"))[0])
    negative = float(estimate(np.array([-edge]), "right")[0])
    return {
        "wasserstein": _wasserstein(estimate, points, truth) / scale,
        "kolmogorov": _kolmogorov(estimate, points, truth, edge),
        "bulk_wasserstein": _wasserstein(share, inside, bulk) / np.abs(bulk).max(),
        "bulk_kolmogorov": _kolmogorov(share, inside, bulk, edge),
        "near_zero_mass_error": abs(mass - float(np.mean(np.abs(truth) <= edge))),
        "negative_fraction_error": abs(negative - float(np.mean(truth <= -edge))),
    }


def _wasserstein(estimate, points, truth):
    """Return ``∫ |F - G| dx``; both are constant (or linear) between the merged points."""
    merged = np.union1d(points, truth)
    gap = np.diff(merged)
    steps = np.arange(len(truth) + 1) / len(truth)
    true = steps[np.searchsorted(truth, merged[:-1], side="right")]
    left, right = estimate(merged[:-1], "right") - true, estimate(merged[1:], "left") - true
    same = left * right >= 0
    area = np.where(
        same,
        (np.abs(left) + np.abs(right)) / 2,
        (left**2 + right**2) / (2 * (np.abs(left) + np.abs(right)).clip(1e-300)),
    )
    return float(area @ gap)


def _kolmogorov(estimate, points, truth, blur):
    """Return the largest distance of the distribution functions, ``x`` blurred by rounding.

    Without the blur a value 1e-12 beside a cluster of exact zeros would count as the whole cluster.
    """
    x = np.union1d(points, truth)
    worst = 0.0
    for side in ("left", "right"):
        value = estimate(x, side)
        below = np.searchsorted(truth, x - blur, side=side) / len(truth)
        above = np.searchsorted(truth, x + blur, side=side) / len(truth)
        worst = max(worst, float(np.max(np.maximum(below - value, value - above).clip(0))))
    return worst


def load_checkpoint(name, folder=SET):
    """Return a checkpoint of the set as a dict of arrays, its inputs among them."""
    with np.load(Path(folder) / "digits.npz") as digits, np.load(Path(folder) / f"{name}.npz") as f:
        found = {key: f[key] for key in f.files}
        found["inputs"] = (digits["sixteenths"] / 16).astype(np.float64)
    return found


def score_answers(answers, folder=SET):
    """Score a mapping ``"NAME.WHAT" -> array`` with whatever of it is there."""
    scores = {}
    for name in NAMES:
        truth = load_checkpoint(name, folder)["eigenvalues"]
        given = {k.split(".", 1)[1]: answers[k] for k in answers if k.startswith(f"{name}.")}
        found = {}
        if "eigenvalues" in given:
            found["eigenvalues"] = score_eigenvalues(given["eigenvalues"], truth)
        if "nodes" in given:
            found["measure"] = score_measure(given["nodes"], given["weights"], truth)
        if "grid" in given:
            found["cdf"] = score_cdf(given["grid"], given["cdf"], truth)
        if "trace" in given:
            found["trace"] = score_trace(given["trace"][0], truth, *given["trace"][1:])
        if found:
            scores[name] = found
    return scores


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as file:
        print(json.dumps(score_answers(dict(file)), indent=1))  # noqa: T201
