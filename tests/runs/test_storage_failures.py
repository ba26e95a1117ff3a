"""A file system that refuses: one clear error, nothing lost, nothing left behind.

A process sets a file-size limit on itself, since the super-user ignores permissions.
"""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from curvlab.core.errors import StorageError
from curvlab.runs import RunWriter, open_run

ATTEMPTS = """
import json, resource, sys, warnings
warnings.simplefilter("error")
import numpy as np
import xarray
import curvlab.runs.orbax_io
from curvlab.core.errors import StorageError
from curvlab.runs import RunWriter, open_run

noise = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
writer = RunWriter.open(sys.argv[1])
run = open_run(sys.argv[1])
run.checkpoint(10)

def unchecked(attempt):
    check = curvlab.runs.orbax_io.require_room
    curvlab.runs.orbax_io.require_room = lambda directory, size: None
    try:
        attempt()
    finally:
        curvlab.runs.orbax_io.require_room = check

def checkpoint():
    writer.save_checkpoint(20, {f"w{i}": noise for i in range(5)})

def result():
    dataset = xarray.Dataset({"v": (("a", "b"), noise)})
    run.write_result("units", 10, "task-000", "0" * 12, dataset)

attempts = {
    "checkpoint": (50_000, checkpoint),
    "checkpoint, found while writing": (50_000, lambda: unchecked(checkpoint)),
    "checkpoint, no byte": (0, lambda: unchecked(checkpoint)),
    "resume": (50_000, lambda: unchecked(lambda: writer.save_resume(200, {"w": noise}))),
    "probe set": (50_000, lambda: writer.write_probe_set("new", noise, np.zeros(200))),
    "result": (50_000, result),
    "log": (1_000, lambda: writer.log(500, **{f"name_{i}": i for i in range(5000)})),
}

def listing():
    return {
        path.relative_to(run.path).as_posix(): path.read_bytes() if path.is_file() else None
        for path in run.path.rglob("*")
        if path.name not in (".lock", "results")
    }

before = listing()
for name, (limit, attempt) in attempts.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        attempt()
        message = "no error"
    except StorageError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print(json.dumps([name, message, listing() == before, len(run.verify())]))
checkpoint()
print(json.dumps(["afterwards", "", run.checkpoint(20).step == 20, len(run.verify())]))
"""


def test_a_file_size_limit(run_path):
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(run_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    places = {
        "checkpoint": "checkpoints/000000020",
        "checkpoint, found while writing": "checkpoints/000000020",
        "checkpoint, no byte": "checkpoints/000000020",
        "resume": "resume/000000200-2",
        "probe set": "probe_sets/arrays/",
        "result": "results/units-000000010-task-000",
        "log": "metrics.jsonl",
        "afterwards": "",
    }
    assert [name for name, *_ in rows] == list(places)
    for name, message, unchanged, findings in rows:
        assert unchanged, name
        assert findings == 0, name
        if places[name]:
            assert f"Cannot write {run_path}/{places[name]}" in message
            assert "ulimit -f" in message
            assert "\n" not in message


def test_a_log_that_cannot_be_rewritten_stays_as_it_is(run_path, monkeypatch):
    log = run_path / "metrics.jsonl"
    before = log.read_bytes()
    with RunWriter.open(run_path) as writer:
        monkeypatch.setattr("os.fsync", lambda descriptor: os.write(-1, b""))
        with pytest.raises(StorageError):
            writer.discard_after(10)
        monkeypatch.undo()
        assert log.read_bytes() == before
        writer.discard_after(10)
    assert open_run(run_path).metrics().step.values.tolist() == [0, 10]


def test_a_run_cannot_be_created_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Cannot write .*/file/run: Not a directory"):
        RunWriter.create(tmp_path / "file" / "run", config={})


def test_a_full_disk_is_found_before_writing(tmp_path, monkeypatch):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        writer.save_checkpoint(0, {"w": jnp.ones(3)})
        real = os.statvfs(tmp_path)

        class Full:
            f_bavail, f_frsize = 10, real.f_frsize

        monkeypatch.setattr(os, "statvfs", lambda path: Full())
        with pytest.raises(
            StorageError, match=r"000000001.* bytes needed, \d+ are free.*Free some"
        ):
            writer.save_checkpoint(1, {"w": jnp.ones(3)})
        monkeypatch.undo()
        assert writer.steps == (0,)
    assert open_run(tmp_path / "run").verify() == ()
