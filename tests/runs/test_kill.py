"""Writers killed at any moment: real processes, and a look at the disk before every file operation.

What a reader finds between two operations of a writer is what a kill at that moment leaves.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import xarray

from curvlab.core.errors import RunError
from curvlab.runs import RunWriter, open_run
from curvlab.runs.metrics import read_rows

TRAIN = """
import sys
import numpy as np
import xarray
from curvlab.runs import RunWriter, open_run

def state_after(step):
    return {"w": np.random.default_rng(step).normal(size=(50, 50)), "step": step}

writer = RunWriter.create_or_open(sys.argv[1], config={"kill": "me"})
restored = writer.restore_resume(state_after(0))
start = restored[0] if restored else 0
if restored:
    assert (restored[1]["w"] == state_after(start)["w"]).all() and restored[1]["step"] == start
writer.discard_after(start if restored else -1)
print("started", flush=True)
for step in range(start + 1, 10**6):
    state = state_after(step)
    writer.log(step, value=float(state["w"][0, 0]))
    writer.write_probe_set(f"task-{step:06d}", state["w"], np.full(50, step))
    writer.save_checkpoint(step, {"w": state["w"]}, probes={"current": f"task-{step:06d}"})
    open_run(sys.argv[1]).write_result(
        "value", step, f"task-{step:06d}", "0" * 12, xarray.Dataset({"w": (("a", "b"), state["w"])})
    )
    if step % 3 == 0:
        writer.save_resume(step, state)
    print(step, flush=True)
"""


def kill_after(path, seconds: float) -> int:
    """Train, kill after some steps and ``seconds``, and return the last step that was reported."""
    command = [sys.executable, "-c", TRAIN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        last = process.stdout.read().split()
    return int(last[-1]) if last else 0


def check(path, finished: int) -> None:
    """Everything that is visible is whole, and nothing that was finished is lost."""
    run = open_run(path)
    assert run.verify() == ()
    assert run.steps == tuple(range(1, run.steps[-1] + 1))
    assert run.steps[-1] >= finished
    metrics = run.metrics()
    assert metrics.step.values.tolist()[: len(run.steps)] == list(run.steps)
    for step in (run.steps[0], run.steps[-1]):
        expected = np.random.default_rng(step).normal(size=(50, 50))
        checkpoint = run.checkpoint(step)
        np.testing.assert_array_equal(checkpoint.params["w"], expected)
        np.testing.assert_array_equal(run.probe_sets[f"task-{step:06d}"].inputs, expected)
        assert metrics.value.sel(step=step) == expected[0, 0]


def kill_repeatedly(path, times: int) -> None:
    chance = random.Random(0)
    for _ in range(times):
        finished = kill_after(path, chance.uniform(0.0, 0.25))
        check(path, finished)
    with RunWriter.open(path):
        pass
    # Analyses write results beside a training, under a lock of their own: they sweep there.
    open_run(path).write_result("value", 0, "last", "0" * 12, xarray.Dataset({"w": 0.0}))
    assert [entry for entry in path.rglob("*") if entry.name.startswith(".tmp-")] == []
    check(path, 1)


def test_killing_a_writer_leaves_a_readable_run(tmp_path):
    kill_repeatedly(tmp_path / "run", times=2)


@pytest.mark.long
def test_killing_a_writer_many_times_leaves_a_readable_run(tmp_path):
    kill_repeatedly(tmp_path / "run", times=30)


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
looks: list[Callable[[], None]] = []


def look(event: str, details: tuple) -> None:
    opens_to_write = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR)
    if looks and (opens_to_write or event in CHANGES):
        check = looks.pop()  # What the check opens itself is of no interest.
        check()
        looks.append(check)


@cache
def install_look() -> None:
    sys.addaudithook(look)  # Stays for the life of the process, idle while there are no looks.


def test_every_moment_of_a_writer_is_readable(tmp_path):
    install_look()
    path = tmp_path / "run"
    state = {"w": np.arange(6.0), "step": 0}
    allowed = {"steps": [()], "rows": [[]], "resume": [None], "sets": [()], "results": [()]}
    seen = set()

    def check():
        if not (path / "run.json").exists():
            return
        run = open_run(path)
        assert run.verify() == ()
        found = {
            "steps": run.steps,
            "rows": [step for step, _ in read_rows(path / "metrics.jsonl")],
            "sets": tuple(run.probe_sets),
            "results": tuple(result.step for result in run.results()),
            "resume": max((entry.name for entry in (path / "resume").glob("[0-9]*")), default=None),
        }
        for name, value in found.items():
            assert value in allowed[name], name
        for name in run.probe_sets:
            assert run.probe_sets[name].examples == 6
        seen.add(repr(found))

    def do(action: Callable, **outcome) -> None:
        for name, value in outcome.items():
            allowed[name].append(value)
        looks.append(check)
        try:
            action()
        finally:
            looks.clear()
        for name, value in outcome.items():
            allowed[name] = [value]
        check()

    looks.append(check)
    writer = RunWriter.create(path, config={"a": list(range(100))})
    looks.clear()
    run = open_run(path)
    result = xarray.Dataset({"w": ("x", np.arange(3.0))})
    data = (state["w"], state["w"])
    do(lambda: writer.write_probe_set("a", *data), sets=("a",))
    for step in (1, 2):
        rows = list(range(1, step + 1))
        do(lambda step=step: writer.log(step, loss=0.5), rows=rows)
        do(
            lambda step=step: writer.save_checkpoint(step, state, probes={"current": "a"}),
            steps=tuple(rows),
        )
        do(lambda step=step: writer.save_resume(step, state), resume=f"{step:09d}-{step}")
        write = lambda step=step: run.write_result("units", step, "a", "0" * 12, result)  # noqa: E731
        do(write, results=tuple(rows))
        do(write)
    do(lambda: writer.save_resume(2, state), resume="000000002-3")
    writer.close()
    with pytest.raises(RunError, match="closed"):
        writer.log(3, loss=0.5)
    reopened: list[RunWriter] = []
    do(lambda: reopened.append(RunWriter.open(path)))
    do(
        lambda: reopened[0].discard_after(1),
        steps=(1,),
        rows=[1],
        resume=None,
        results=(1,),
    )
    reopened[0].close()
    assert len(seen) > 10
