"""The supervised learner: what a segment may and may not depend on."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.presets import PRESETS
from agents.supervised.learner import SupervisedLearner, build_learner
from curvlab.objectives import cross_entropy
from tests.agents.comparing import assert_same_bits

SETTINGS = PRESETS["random-labels-tiny"].arms["default"]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def learner() -> SupervisedLearner:
    return build_learner(SETTINGS, seed=0)


@pytest.fixture(scope="module")
def whole(learner):
    """The state after all 120 steps in one go."""
    return learner.segment(learner.init(KEY), 120)[0]


def outputs_of(learner, state, inputs) -> np.ndarray:
    return np.asarray(learner.rule.predict(state.params, jnp.asarray(inputs)))


def mean_loss(outputs, targets) -> float:
    return float(optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean())


@given(cuts=st.sets(st.integers(1, 119), max_size=5))
def test_splitting_a_segment_changes_no_bit(learner, whole, cuts):
    state = learner.init(KEY)
    edges = [0, *sorted(cuts), 120]
    for start, end in itertools.pairwise(edges):
        state, _ = learner.segment(state, end - start)
    assert_same_bits(state, whole)


def test_all_segments_share_one_compilation():
    traces = []

    def counting(outputs, targets):
        traces.append(1)
        return cross_entropy(outputs, targets)

    built = build_learner(SETTINGS, seed=0)
    learner = SupervisedLearner(replace(built.rule, loss=counting), built.stream, 60)
    state, _ = learner.segment(learner.init(KEY), 1)
    once = len(traces)
    for steps in (2, 3, 50, 7, 57):
        state, _ = learner.segment(state, steps)
    assert int(state.step) == 120
    assert len(traces) == once > 0


def test_a_step_is_adam_on_the_mean_loss_of_its_batch(learner):
    """One update, written out again with optax alone."""
    state = learner.init(KEY)
    after, _ = learner.segment(state, 1)
    task = learner.stream.task(0)
    key = jax.random.fold_in(state.key, 0)
    chosen = np.asarray(jax.random.randint(key, (32,), 0, 200))
    inputs, targets = jnp.asarray(task.inputs[chosen]), jnp.asarray(task.targets[chosen])
    module = learner.rule.predict.module

    def objective(params):
        logits = module.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    optimiser = optax.adam(1e-3, b1=0.9, b2=0.999, eps=1e-9)
    gradient = jax.grad(objective)(state.params)
    change, _ = optimiser.update(gradient, optimiser.init(state.params))
    expected = optax.apply_updates(state.params, change)
    for one, two in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)
    assert float(after.tally.loss) == pytest.approx(float(objective(state.params)), rel=1e-5)
    assert float(after.tally.update_norm) == pytest.approx(float(optax.tree.norm(change)), rel=1e-3)


def test_the_second_task_is_learnt_from_its_own_labels(learner, whole):
    """At the end of a run the parameters fit the last task better than the first."""
    long = SupervisedLearner(learner.rule, learner.stream, steps_per_task=1_500)
    state, _ = long.segment(long.init(KEY), 3_000)
    _, row = long.report(state)
    assert row["task"] == 1
    assert row["accuracy"] > 0.3
    task = long.stream.task(0)
    outputs = outputs_of(long, state, task.inputs)
    assert np.mean(outputs.argmax(-1) == task.targets) < 0.2


def test_the_row_means_what_it_says(learner):
    state, info = learner.segment(learner.init(KEY), 60)
    assert int(info.steps) == 60
    cleared, row = learner.report(state)
    task = learner.stream.task(0)
    outputs = outputs_of(learner, state, task.inputs)
    assert row["task"] == 0
    assert row["accuracy"] == pytest.approx(np.mean(outputs.argmax(-1) == task.targets), abs=1e-6)
    assert row["loss"] == pytest.approx(mean_loss(outputs, task.targets))
    assert row["batch_loss"] == pytest.approx(float(state.tally.loss) / 60)
    assert "diverged_at" not in row
    assert (int(cleared.tally.steps), float(cleared.tally.loss)) == (0, 0.0)
    assert_same_bits(cleared.params, state.params)
    assert "batch_loss" not in learner.report(cleared)[1]


def test_evaluation_can_be_limited_to_the_first_examples(learner):
    state = learner.init(KEY)
    fewer = SupervisedLearner(learner.rule, learner.stream, 60, evaluation_examples=50)
    task = learner.stream.task(0)
    outputs = outputs_of(learner, state, task.inputs[:50])
    expected = np.mean(outputs.argmax(-1) == task.targets[:50])
    assert fewer.report(state)[1]["accuracy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("step", "task"), [(0, 0), (1, 0), (60, 0), (61, 1), (120, 1)])
def test_a_checkpoint_names_the_task_just_learnt_and_the_next(learner, step, task):
    state, _ = learner.segment(learner.init(KEY), step)
    snapshot = learner.snapshot(state)
    assert snapshot.task == task
    assert snapshot.probes == {"current": f"task-00{task}", "next": f"task-00{task + 1}"}


def test_arms_of_one_seed_start_from_the_same_weights(learner):
    tuned = build_learner(PRESETS["random-labels-tiny"].arms["tuned"], seed=0)
    assert_same_bits(tuned.init(KEY).params, learner.init(KEY).params)
    for index in range(3):
        np.testing.assert_array_equal(
            tuned.stream.task(index).targets, learner.stream.task(index).targets
        )


def test_weights_are_lecun_normal_and_biases_zero():
    learner = build_learner(PRESETS["random-labels"].arms["default"], seed=0)
    params = learner.init(KEY).params
    for layer in params.values():
        fan_in = layer["kernel"].shape[0]
        # 2,560 weights or more; relative standard error of their variance below 3 %.
        assert float(layer["kernel"].var()) == pytest.approx(1 / fan_in, rel=0.12)
        assert not layer["bias"].any()
