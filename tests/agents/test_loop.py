"""The outer loop in this process: stopping, continuing, diverging, refusing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.loop import Outcome, diverged, train
from agents.presets import PRESETS
from agents.supervised.learner import SupervisedLearner, build_learner
from curvlab.core.errors import RunError
from curvlab.core.specs import Spec
from curvlab.runs import RunWriter, open_run
from tests.agents.comparing import assert_same_bits, assert_same_runs

CONFIG = PRESETS["random-labels-tiny"].run("default", 0)
KEY = jax.random.key(0)


def writer(path, config=CONFIG) -> RunWriter:
    settings = config.settings
    return RunWriter.create_or_open(
        path,
        config=config.to_json(),
        network=settings.network,
        objective=settings.objective,
        optimiser=settings.optimiser,
        seed=config.seed,
    )


@pytest.fixture(scope="module")
def learner() -> SupervisedLearner:
    return build_learner(CONFIG.settings, 0)


@pytest.fixture(scope="module")
def unstable() -> SupervisedLearner:
    settings = replace(CONFIG.settings, optimiser=Spec("sgd", {"learning_rate": 1e30}))
    return build_learner(settings, 0)


def run(path, learner, **options) -> Outcome:
    with writer(path) as target:
        return train(learner, target, CONFIG.settings.schedule, KEY, **options)


def test_a_run_stopped_at_every_event_ends_as_one_that_was_not(learner, tmp_path):
    assert run(tmp_path / "whole", learner) is Outcome.FINISHED
    starts = []
    while run(tmp_path / "pieces", learner, start=starts.append, stop=lambda: True) is (
        Outcome.STOPPED
    ):
        assert len(starts) < 20
    assert starts == [0, 0, 1, 10, 20, 40, 60, 61, 70, 80, 100]
    assert_same_runs(tmp_path / "pieces", tmp_path / "whole")


def test_a_complete_run_is_left_alone(learner, tmp_path):
    assert run(tmp_path / "run", learner) is Outcome.FINISHED
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}
    assert run(tmp_path / "run", learner) is Outcome.WAS_COMPLETE
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}


def test_what_a_run_leaves_behind(learner, tmp_path):
    rows = []
    run(tmp_path / "run", learner, progress=lambda event, row: rows.append((event.step, row)))
    stored = open_run(tmp_path / "run")
    assert stored.steps == (0, 1, 10, 60, 61, 70, 100, 120)
    metrics = stored.metrics()
    assert metrics.step.values.tolist() == [0, 1, 10, 20, 40, 60, 61, 70, 80, 100, 120]
    assert metrics.task.sel(step=[0, 60, 61, 120]).values.tolist() == [0, 0, 1, 1]
    assert [step for step, _ in rows] == metrics.step.values.tolist()
    assert list(stored.probe_sets) == ["task-000", "task-001", "task-002"]
    first, second = stored.probe_sets["task-000"], stored.probe_sets["task-001"]
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert np.mean(first.targets == second.targets) < 0.5
    end = stored.checkpoint(120)
    assert end.probes == {"current": "task-001", "next": "task-002"}
    assert end.opt_state is not None
    assert int(end.opt_state[0].count) == 120
    # What the metrics say of a step is true of the checkpoint of that step.
    outputs = np.asarray(end.predict(end.params, jnp.asarray(second.inputs)))
    correct = np.mean(outputs.argmax(-1) == second.targets)
    assert float(metrics.accuracy.sel(step=120)) == pytest.approx(correct, abs=1e-6)


def test_another_config_is_refused_and_nothing_changes(tmp_path):
    writer(tmp_path / "run").close()
    other = PRESETS["random-labels-tiny"].run("tuned", 0)
    with pytest.raises(RunError, match=r"another config.*arm: asked 'tuned', found 'default'"):
        writer(tmp_path / "run", other)
    assert open_run(tmp_path / "run").config == CONFIG.to_json()


def test_a_diverged_run_is_recorded_to_its_end(unstable, tmp_path):
    seen = []
    outcome = run(
        tmp_path / "run", unstable, progress=lambda event, row: seen.append((event.step, row))
    )
    assert outcome is Outcome.FINISHED
    metrics = open_run(tmp_path / "run").metrics()
    since = metrics.diverged_at.values
    assert np.isnan(since[0])
    assert np.all(since[2:] == since[2])
    assert 1 < since[2] < 10
    assert np.isnan(float(metrics.loss.sel(step=120)))
    assert [diverged(row) for _, row in seen] == [False, *[diverged(seen[1][1])], *[True] * 9]
    assert not np.isfinite(
        open_run(tmp_path / "run").checkpoint(120).params["output"]["kernel"]
    ).all()


def test_a_diverged_run_is_resumed_bit_for_bit(unstable, tmp_path):
    with writer(tmp_path / "run") as target:
        state, _ = unstable.segment(unstable.init(KEY), 50)
        target.save_resume(50, state)
        assert_same_bits(target.restore_resume(unstable.init(KEY)), (50, state))
