"""The writer: creating, continuing, locking, resuming and discarding."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

from curvlab.core.errors import CheckpointError, RunError
from curvlab.core.specs import Spec
from curvlab.runs import RunWriter, open_run, save_checkpoint
from tests.runs.example import STEPS, batch

W = {"w": jnp.arange(4.0)}


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_create_then_open(tmp_path):
    config = {"widths": (8, 8), "rate": 0.1}
    with RunWriter.create(tmp_path / "a" / "run", config=config, seed=1) as writer:
        assert writer.config == {"widths": [8, 8], "rate": 0.1}
        assert open_run(writer.path).seed == 1
    with RunWriter.open(tmp_path / "a" / "run", config=config) as writer:
        assert writer.steps == ()
    with RunWriter.create_or_open(tmp_path / "a" / "run", config=config) as writer:
        assert writer.info.seed == 1
    with RunWriter.create_or_open(tmp_path / "b", config={}, network=Spec("mlp")) as writer:
        assert writer.info.network == Spec("mlp")


def test_another_config_is_refused_with_what_differs(run_path):
    for function in (RunWriter.open, RunWriter.create_or_open):
        with pytest.raises(RunError) as refusal:
            function(run_path, config={"steps": 200, "widths": (8, 8), "new": None})
        assert "steps: asked 200, found 100" in str(refusal.value)
        assert "new: asked None, found 'nothing'" in str(refusal.value)
        assert "widths" not in str(refusal.value)
    RunWriter.open(run_path).close()


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"a": np.ones(2)}, "ndarray"),
        ({"a": float("nan")}, "Out of range"),
        ({"f": len}, "function"),
    ],
)
def test_a_config_that_is_no_plain_data_is_refused(tmp_path, config, part):
    with pytest.raises(RunError, match=part):
        RunWriter.create(tmp_path / "run", config=config)
    with pytest.raises(RunError, match=r"network spec cannot be stored"):
        RunWriter.create(tmp_path / "run", config={}, network=Spec("mlp", config))
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_created_over_something_else(tmp_path, run_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.tex").write_text("x")
    cases = {
        run_path: "there is one already",
        run_path / "run.json": "it is a file",
        tmp_path: "it is a study with 1 runs",
        tmp_path / "files": "holds other files \\(thesis.tex\\)",
    }
    for path, part in cases.items():
        with pytest.raises(RunError, match=part):
            RunWriter.create(path, config={})
    assert names(tmp_path / "files") == ["thesis.tex"]


def test_a_creation_that_was_killed_can_be_repeated(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-dead").write_text("{")
    with RunWriter.create(tmp_path, config={}):
        pass
    assert ".tmp-dead" not in names(tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        expected = f"process {os.getpid()} is writing"
        with pytest.raises(RunError, match=expected):
            RunWriter.open(tmp_path / "run")
        with pytest.raises(RunError, match=expected):
            save_checkpoint(tmp_path / "run", 0, W)
        code = "import sys; from curvlab.runs import RunWriter; RunWriter.open(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert expected in done.stderr
        writer.save_checkpoint(0, W)
    with pytest.raises(RunError, match="closed"):
        writer.log(0, loss=1.0)
    RunWriter.open(tmp_path / "run").close()


def test_a_forgotten_writer_lets_the_next_one_in(tmp_path):
    RunWriter.create(tmp_path / "run", config={})
    RunWriter.open(tmp_path / "run").close()


def test_checkpoints_are_never_overwritten(run_path, params):
    with RunWriter.open(run_path) as writer:
        with pytest.raises(RunError, match=r"step 10 .* stored already.*discard_after\(9\)"):
            writer.save_checkpoint(10, params)
        with pytest.raises(RunError, match="step -1"):
            writer.save_checkpoint(-1, params)
        with pytest.raises(RunError, match="no probe set 'task-009'"):
            writer.save_checkpoint(11, params, probes={"current": "task-009"})
        with pytest.raises(RunError, match="cannot name a checkpoint item"):
            writer.save_checkpoint(11, params, **{"a/b": params})
        assert writer.steps == STEPS
    assert open_run(run_path).verify() == ()


def test_a_loop_of_ones_own(tmp_path):
    data = batch(0)
    for step in range(3):
        save_checkpoint(tmp_path / "run", step, W, optax.EmptyState(), {"current": data}, ema=W)
    run = open_run(tmp_path / "run")
    assert run.steps == (0, 1, 2)
    (name,) = run.probe_sets
    assert run.checkpoint(2).probes == {"current": name}
    assert run.checkpoint(2).items == ("params", "opt_state", "ema")
    np.testing.assert_array_equal(run.probe_sets[name].inputs, data[0])
    with RunWriter.open(tmp_path / "run") as writer:
        assert save_checkpoint(writer, 3, W).name == "000000003"


def test_steps_sort_as_numbers(tmp_path):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        for step in (10**10, 5, 10**9):
            writer.save_checkpoint(step, W)
    assert open_run(tmp_path / "run").steps == (5, 10**9, 10**10)


def test_resume_states_replace_each_other(tmp_path):
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 10))
    state: dict[str, Any] = {
        "params": W,
        "opt_state": optimiser.init(W),
        "key": jax.random.key(0),
        "task": 0,
        "sums": (jnp.float32(0), np.zeros(2)),
    }
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        assert writer.restore_resume(state) is None
        for step in (0, 10, 10, 5):
            changed = dict(state, task=step, key=jax.random.key(step))
            writer.save_resume(step, changed)
            assert len(names(tmp_path / "run" / "resume")) == 1
            restored = writer.restore_resume(state)
            assert restored is not None
            assert restored[0] == step == restored[1]["task"]
            assert jax.tree.structure(restored[1]) == jax.tree.structure(state)
            assert jnp.array_equal(
                jax.random.normal(restored[1]["key"]), jax.random.normal(changed["key"])
            )
        with pytest.raises(CheckpointError, match="'extra'"):
            writer.restore_resume(dict(state, extra=1))


def test_the_newest_of_two_resume_states_counts(tmp_path, monkeypatch):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        writer.save_resume(7, W)
        # As if killed between placing the new one and deleting the old one.
        monkeypatch.setattr("curvlab.runs.resume.remove_directory", lambda path: None)
        writer.save_resume(7, {"w": W["w"] + 1})
        assert len(names(tmp_path / "run" / "resume")) == 2
        restored = writer.restore_resume(W)
        assert restored is not None
        assert restored[1]["w"].tolist() == [1, 2, 3, 4]
        monkeypatch.undo()
        writer.save_resume(8, W)
        assert len(names(tmp_path / "run" / "resume")) == 1


def test_a_damaged_resume_state_is_refused(run_path, params):
    template = {"params": params, "key": jax.random.key(0)}
    (file,) = (run_path / "resume").glob("*/state/_METADATA")
    with RunWriter.open(run_path) as writer:
        assert writer.restore_resume(template) is not None
        file.write_bytes(file.read_bytes()[:10])
        with pytest.raises(CheckpointError, match="_METADATA is truncated"):
            writer.restore_resume(template)


def test_discarding_what_lies_beyond_a_step(run_path):
    run = open_run(run_path)
    for step in STEPS:
        run.write_result("units", step, "task-000", "0" * 12, xarray.Dataset({"v": 1.0}))
    with RunWriter.open(run_path) as writer:
        writer.discard_after(10)
        assert writer.steps == run.steps == (0, 10)
        assert run.metrics().step.values.tolist() == [0, 10]
        assert [result.step for result in run.results()] == [0, 10]
        assert names(run_path / "resume") == []
        writer.discard_after(10)
        writer.discard_after(-1)
        assert run.steps == ()
        assert run.metrics().sizes["step"] == 0
    assert run.verify() == ()
    assert list(run.probe_sets) == ["task-000", "task-001"]


def test_opening_removes_what_killed_writers_left(run_path):
    for directory in (".", "checkpoints", "resume", "probe_sets", "probe_sets/arrays"):
        half = run_path / directory / ".tmp-dead"
        half.mkdir()
        (half / "part").write_bytes(b"x")
    run = open_run(run_path)
    assert run.verify() == ()
    assert run.steps == STEPS
    RunWriter.open(run_path).close()
    assert [path for path in run_path.rglob("*") if path.name.startswith(".tmp-")] == []


def test_saving_a_small_checkpoint_is_cheap(tmp_path):
    from time import perf_counter

    params = {
        f"layer_{i}": {"kernel": jnp.ones((170, 170)), "bias": jnp.ones(170)} for i in range(3)
    }
    opt_state = optax.adam(0.1).init(params)
    seconds = []
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        for step in range(6):
            start = perf_counter()
            writer.save_checkpoint(step, params, opt_state)
            seconds.append(perf_counter() - start)
    # About 0.08 s on an idle machine; the bound leaves room for a busy one.
    assert min(seconds) < 0.5
