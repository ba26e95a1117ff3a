"""Intervals for the population against populations in closed form, and curves over less data."""

from dataclasses import replace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from curvlab.core.errors import OperatorError, ProblemError
from curvlab.curvature import (
    Batches,
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    GradientCovariance,
    Hessian,
    MonteCarloFisher,
    Problem,
    ResidualCurvature,
    data_curve,
    population_form,
    population_trace,
    weight_norm_metric,
)
from curvlab.curvature.population import _over_blocks  # pyright: ignore[reportPrivateUsage]
from curvlab.objectives import cross_entropy

KEY = jax.random.key(0)
SCALES = np.array([3.0, 1.0, 0.5, 0.1])


def linear(params, inputs):
    return inputs @ params["weight"]


def half_square(outputs, targets):
    return 0.5 * (outputs - targets) ** 2


def regression(inputs, **options):
    """Return linear regression, whose Hessian is the second moment of the inputs."""
    inputs = inputs.astype(np.float32)
    targets = np.zeros(len(inputs), np.float32)
    return Problem(
        linear, half_square, {"weight": np.ones(4, np.float32)}, (inputs, targets), **options
    )


def classification(examples=24, **options):
    """Return a small network with curved outputs."""
    rng = np.random.default_rng(1)

    params = {
        "hidden": rng.normal(size=(3, 4)).astype(np.float32),
        "output": rng.normal(size=(4, 3)).astype(np.float32),
    }
    data = (
        rng.normal(size=(examples, 3)).astype(np.float32),
        rng.integers(3, size=examples),
    )
    return Problem(two_layers, cross_entropy, params, data, **options)


def two_layers(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["output"]


def decay(params):
    return 0.05 * sum(jnp.sum(leaf**4) for leaf in jax.tree.leaves(params))


def interval(samples, weights=None, level=0.95):
    """Return the estimate of a mean from the samples of blocks."""
    counts = np.ones(len(samples)) if weights is None else weights
    return _over_blocks(
        samples * counts,
        counts,
        slack=0.0,
        level=level,
        vectors=0,
        matvecs=0,
        what="",
        units="",
        matrix="",
    )


def assert_covers(hits, at_least):
    """Assert the one-sided 95 % Clopper-Pearson bound of a coverage."""
    draws, found = len(hits), int(np.sum(hits))
    assert stats.beta.ppf(0.05, found, draws - found + 1) >= at_least, f"{found} of {draws}"


@pytest.mark.parametrize(
    ("draws", "at_least"), [(500, 0.91), pytest.param(4000, 0.93, marks=pytest.mark.long)]
)
@pytest.mark.parametrize(
    ("draw", "truth", "count"),
    [
        (lambda rng, count: rng.normal(size=count) ** 2, 1.0, 16),  # plain Student's t: 88 %
        (lambda rng, count: rng.normal(size=count) ** 2, 1.0, 64),
        (lambda rng, count: -rng.exponential(size=count), -1.0, 16),
        (lambda rng, count: rng.normal(size=count), 0.0, 8),
    ],
    ids=["squares-16", "squares-64", "negative-16", "normal-8"],
)
def test_intervals_of_skewed_means_cover(draw, truth, count, draws, at_least) -> None:
    rng = np.random.default_rng(2)
    found = [interval(draw(rng, count)) for _ in range(draws)]
    assert_covers([e.low <= truth <= e.high for e in found], at_least)


def test_intervals_of_normal_means_are_those_of_student() -> None:
    rng = np.random.default_rng(3)
    samples = rng.normal(size=4000)
    found = interval(samples)
    margin = stats.t.ppf(0.975, 3999) * samples.std(ddof=1) / 4000**0.5
    assert found.high - found.value == pytest.approx(margin, rel=0.01)
    assert found.stderr == pytest.approx(stats.sem(samples), rel=1e-9)


@pytest.mark.parametrize(
    ("draws", "at_least"), [(500, 0.91), pytest.param(4000, 0.93, marks=pytest.mark.long)]
)
def test_intervals_cover_with_blocks_of_unequal_weight(draws, at_least) -> None:
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(draws):
        sizes = rng.integers(1, 20, size=24)
        samples = np.array([rng.exponential(size=size).mean() for size in sizes])
        found = interval(samples, sizes.astype(float))
        hits.append(found.low <= 1 <= found.high)
    assert_covers(hits, at_least)


@given(
    st.lists(st.floats(-100, 100), min_size=8, max_size=30),
    st.floats(0.1, 10),
    st.floats(-100, 100),
)
def test_intervals_follow_units_sign_and_origin(samples, factor, shift) -> None:
    here, there = interval(np.array(samples)), interval(-factor * np.array(samples) + shift)
    assert here.low <= here.value <= here.high
    expected = shift - factor * np.array([here.high, here.value, here.low])
    np.testing.assert_allclose([there.low, there.value, there.high], expected, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize("draws", [20, pytest.param(300, marks=pytest.mark.long)])
def test_the_population_of_a_linear_regression_is_covered(draws) -> None:
    rng = np.random.default_rng(5)
    vector = np.array([1.0, -2.0, 0.5, 0.0])
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0] * SCALES
    population = rotation @ rotation.T
    forms, traces = [], []
    for index in range(draws):
        hessian = Hessian(regression(rng.normal(size=(64, 4)) @ rotation.T))
        form = population_form(hessian, vector)
        forms.append(form.low <= vector @ population @ vector <= form.high)
        trace = population_trace(
            hessian, jax.random.key(index), vectors=2, noise_floor=0.0
        )  # half of the error is that of the vectors
        traces.append(trace.low <= np.trace(population) <= trace.high)
    # Squares of squares, two examples a block: 93.5 % of 5,000 draws of the traces in NumPy alone.
    for hits in (forms, traces):
        assert_covers(hits, 0.9 if draws >= 300 else 0.75)


def test_examples_of_an_episode_are_not_independent() -> None:
    rng = np.random.default_rng(6)
    vector = np.array([1.0, 0.0, 0.0, 0.0])
    labels = np.repeat([f"episode {i}" for i in range(16)], 8)
    together, apart = [], []
    for _ in range(25):
        states = np.repeat(rng.normal(size=(16, 4)), 8, axis=0) + 0.1 * rng.normal(size=(128, 4))
        hessian = Hessian(regression(states))
        for blocks, hits in ((labels, together), (None, apart)):
            found = population_form(hessian, vector, blocks=blocks)
            hits.append(found.low <= 1.01 <= found.high)
    assert np.mean(together) >= 0.9
    assert np.mean(apart) <= 0.75


@pytest.mark.parametrize(
    "make",
    [
        Hessian,
        GaussNewton,
        EmpiricalFisher,
        pytest.param(ResidualCurvature, marks=pytest.mark.long),
        pytest.param(Fisher, marks=pytest.mark.long),
        pytest.param(
            lambda problem: MonteCarloFisher(problem, KEY, samples=2), marks=pytest.mark.long
        ),
        pytest.param(lambda problem: Hessian(problem).block("output"), marks=pytest.mark.long),
    ],
    ids=["hessian", "gauss-newton", "empirical", "residual", "fisher", "sampled", "block"],
)
def test_the_value_is_the_form_of_the_data_set(make) -> None:
    weights = np.where(np.arange(24) % 5 == 0, 0.0, np.linspace(0.5, 2, 24)).astype(np.float32)
    op = make(classification(weights=weights, penalty=decay))
    vector = np.random.default_rng(7).normal(size=op.dim)
    found = population_form(op, vector)
    expected = vector @ np.asarray(op.matvec(vector), np.float64)
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert "population behind 19 independent examples" in found.estimand
    assert op.estimand in found.estimand


def by_hand(samples, weights, labels):
    """Return a weighted mean and its jackknife error: the mean anew without each block."""

    def mean(kept):
        return (weights * samples)[kept].sum() / weights[kept].sum()

    whole = mean(labels == labels)
    moves = np.array([whole - mean(labels != label) for label in np.unique(labels)])
    return whole, np.sqrt((len(moves) - 1) / len(moves) * (moves**2).sum())


@pytest.mark.parametrize("streamed", [False, True])
def test_blocks_and_weights_are_those_of_data_without_a_block(streamed) -> None:
    rng = np.random.default_rng(8)
    inputs = (rng.normal(size=(24, 4)) * SCALES).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, size=24).astype(np.float32)
    labels = rng.permutation(np.repeat(np.arange(9), [4, 3, 3, 3, 3, 2, 2, 2, 2]))
    problem = regression(inputs, weights=weights, penalty=decay)
    if streamed:  # blocks reach over batches
        data = Batches(inputs, np.zeros(24, np.float32), size=7, weights=weights)
        problem = replace(problem, batch=data, weights=None)
    vector = np.array([1.0, 2.0, -1.0, 0.5])
    curvature = 0.6  # of the penalty, at parameters that are all 1
    found = population_form(Hessian(problem), vector, blocks=labels)
    value, stderr = by_hand((inputs @ vector) ** 2, weights, labels)
    assert found.value == pytest.approx(value + curvature * vector @ vector, rel=1e-5)
    assert found.stderr == pytest.approx(stderr, rel=1e-4)
    # As many vectors as dimensions: no chance in the vectors.
    found = population_trace(Hessian(problem), KEY, blocks=labels, vectors=4)
    value, stderr = by_hand((inputs**2).sum(axis=1), weights, labels)
    assert found.value == pytest.approx(value + 4 * curvature, rel=1e-5)
    assert found.stderr == pytest.approx(stderr, rel=1e-4)
    assert found.vectors == 0


def test_numerical_noise_widens_the_interval() -> None:
    same = np.tile(np.array([[0.1, 0.2, 0.3, 0.4]]), (16, 1))  # all examples alike
    found = population_form(Hessian(regression(same)), np.ones(4))
    assert found.stderr == pytest.approx(0, abs=1e-7)
    assert found.low < 1 < found.high


def test_what_has_no_population_interval_is_refused() -> None:
    problem = regression(np.random.default_rng(12).normal(size=(24, 4)))
    vector = np.ones(4)
    for blocks in (np.arange(24) % 7, np.maximum(np.arange(24), 14)):
        with pytest.raises(OperatorError, match="needs 8 independent"):
            population_form(Hessian(problem), vector, blocks=blocks)
    with pytest.raises(OperatorError, match="needs 8 independent"):
        population_trace(Hessian(problem.subset(np.arange(6))), KEY)
    with pytest.raises(OperatorError, match="one label for each of 24"):
        population_form(Hessian(problem), vector, blocks=np.arange(23))
    with pytest.raises(OperatorError, match="finite vector of shape"):
        population_form(Hessian(problem), vector * np.nan)
    with pytest.raises(OperatorError, match="has no vector"):
        population_trace(Hessian(problem), KEY, vectors=0)
    with pytest.raises(OperatorError, match="centred at the mean"):
        population_form(GradientCovariance(problem), vector)
    metric = weight_norm_metric(problem.params)
    with pytest.raises(OperatorError, match="mean over examples"):
        population_form(Hessian(problem).in_metric(metric), vector)
    scalar = Problem.from_loss(
        lambda params, batch: half_square(linear(params, batch[0]), batch[1]).mean(),
        problem.params,
        next((batch.inputs, batch.targets) for batch in problem.batches()),
    )
    with pytest.raises(OperatorError, match="mean over examples"):
        population_form(Hessian(scalar), vector)


def marked(examples):
    """Return a problem whose example ``i`` has input ``2^i``: a sum tells a subset."""
    inputs = np.zeros((examples, 4), np.float32)
    inputs[:, 0] = 2.0 ** np.arange(examples)
    return regression(inputs)


def inside(problem):
    """Return the examples of a subset as the bits of a number."""
    return sum(float(np.asarray(batch.inputs)[:, 0].sum()) for batch in problem.batches())


@pytest.mark.parametrize("examples", [16, 18, 21])
def test_subsets_are_disjoint_and_nested(examples) -> None:
    curve = data_curve(marked(examples), KEY, inside)
    whole, *parts = (int(value) for value in curve.values["value"])
    halves, quarters = parts[:2], parts[2:]
    assert whole == 2**examples - 1
    assert curve.examples.tolist() == [examples, *[examples // 2] * 2, *[examples // 4] * 4]
    assert halves[0] & halves[1] == 0
    assert sum(quarters) == quarters[0] | quarters[1] | quarters[2] | quarters[3]
    for index, quarter in enumerate(quarters):
        assert quarter & halves[index // 2] == quarter
    again = data_curve(marked(examples), jax.random.key(1), inside)
    assert again.values["value"].tolist() != curve.values["value"].tolist()


def test_episodes_stay_together_in_subsets() -> None:
    labels = np.repeat(list("abcdef"), [4, 2, 4, 2, 4, 4])
    episodes = [sum(2**i for i in np.flatnonzero(labels == label)) for label in "abcdef"]
    curve = data_curve(marked(20), KEY, inside, sizes=(1 / 2,), blocks=labels)
    for value in curve.values["value"]:
        assert all(int(value) & episode in (0, episode) for episode in episodes)
    assert curve.values["value"].sum() <= 2**20 - 1


def test_the_largest_eigenvalue_of_less_data_is_larger_on_average() -> None:
    inputs = np.random.default_rng(11).normal(size=(32, 4)) * SCALES

    def statistic(problem):
        matrix = Hessian(problem).to_dense()
        form = population_form(Hessian(problem), np.eye(4)[0])
        return {"largest": np.linalg.eigvalsh(matrix)[-1], "first": form}

    curve = data_curve(regression(inputs), KEY, statistic, repeats=4)
    means = curve.mean("largest")
    assert means[0.25] > means[0.5] > means[1] > 0  # convexity, for parts of equal size
    assert curve.mean("first")[0.25] == pytest.approx(curve.mean("first")[1], rel=1e-5)
    lines = str(curve).splitlines()
    assert "32 examples" in lines[0]
    assert "largest (mean [min, max])" in lines[1]
    assert [line.split()[:3] for line in lines[2:]] == [
        ["1", "1", "32"],
        ["0.5", "2", "16"],
        ["0.25", "4", "8"],
    ]


def test_curves_refuse_what_they_cannot_cut() -> None:
    problem = marked(8)
    batch = next(problem.batches())
    with pytest.raises(ProblemError, match="in memory"):
        data_curve(
            replace(problem, batch=Batches(batch.inputs, batch.targets, size=4)), KEY, inside
        )
    for wrong in ((0.5, 2), (0,), ()):
        with pytest.raises(ProblemError, match=r"sizes in \(0, 1\]"):
            data_curve(problem, KEY, inside, sizes=wrong)
    with pytest.raises(ProblemError, match="and a repeat"):
        data_curve(problem, KEY, inside, repeats=0)
    with pytest.raises(ProblemError, match="holds none of 8 blocks"):
        data_curve(problem, KEY, inside, sizes=(0.1,))
    with pytest.raises(ProblemError, match="one label for each of 8"):
        data_curve(problem, KEY, inside, blocks=np.arange(7))
    with pytest.raises(ProblemError, match="same names"):
        data_curve(problem, KEY, lambda part: {str(part.examples): 0.0})
