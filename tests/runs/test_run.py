"""Opening runs and studies, finding what is wrong with them, and saying so."""

import re
import shutil

import pytest

from curvlab.core.errors import RunError
from curvlab.runs import RunWriter, find_runs, open_run, open_runs
from tests.runs.example import NETWORK, OBJECTIVE, OPTIMISER, STEPS


def test_what_a_run_says_about_itself(stored_run):
    run = open_run(stored_run)
    assert run.path == stored_run
    assert run.config == {"steps": 100, "widths": [8, 8]}
    assert run.specs == {"network": NETWORK, "objective": OBJECTIVE, "optimiser": OPTIMISER}
    assert run.seed == 3
    assert run.steps == STEPS
    assert list(run.probe_sets) == ["task-000", "task-001"]
    assert run.metrics().loss.sel(step=0) == 1.0
    assert run.results() == ()
    assert run.verify() == ()
    assert set(run.info.versions) >= {"python", "curvlab", "jax", "orbax-checkpoint"}


def test_a_run_holds_no_path_and_no_time(stored_run):
    for file in stored_run.rglob("*"):
        if file.is_file():
            assert str(stored_run.parent).encode() not in file.read_bytes()
    text = (stored_run / "run.json").read_text()
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text)


def test_opening_changes_nothing(run_path):
    def state():
        return sorted((str(p), p.stat().st_mtime_ns) for p in run_path.rglob("*"))

    before = state()
    run = open_run(run_path)
    run.verify()
    run.checkpoint(10)
    run.metrics()
    assert state() == before


def test_reading_goes_on_while_a_writer_is_at_work(run_path):
    with RunWriter.open(run_path) as writer:
        writer.log(200, loss=0.0)
        run = open_run(run_path)
        assert run.steps == STEPS
        assert run.metrics().step.values.tolist() == [0, 10, 100, 200]


def test_paths_that_are_no_run(tmp_path, run_path):
    cases = {
        tmp_path / "absent": "there is no such directory",
        run_path / "run.json": "it is a file",
        run_path / "checkpoints": "no run.json and no runs below",
    }
    for path, part in cases.items():
        for function in (open_run, find_runs, RunWriter.open):
            with pytest.raises(RunError, match=part) as refusal:
                function(path)
            assert str(path) in str(refusal.value)
            assert "\n" not in str(refusal.value)
    with pytest.raises(RunError, match=r"study with 1 runs below it.*copy") as refusal:
        open_run(tmp_path)
    assert str(run_path) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "unreadable"),
        ("[]", "unreadable"),
        ('{"kind": "other", "schema": 1}', "'other'"),
        ('{"kind": "curvlab run", "schema": 99}', "schema 99"),
        ('{"kind": "curvlab run", "schema": 1}', "an entry of run.json is missing"),
    ],
)
def test_a_damaged_run_file(run_path, text, part):
    (run_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=part):
        open_run(run_path)


def test_an_unknown_step_names_the_nearest(stored_run):
    with pytest.raises(RunError, match=r"no checkpoint at step 12\. Nearest: 0, 10, 100\."):
        open_run(stored_run).checkpoint(12)


def test_studies(tmp_path, stored_run):
    names = ["default/seed-2", "default/seed-10", "tuned/seed-0"]
    for name in names:
        shutil.copytree(stored_run, tmp_path / name)
    (tmp_path / "notes").mkdir()
    expected = tuple(tmp_path / name for name in names)
    assert find_runs(tmp_path) == expected
    assert find_runs(expected[0]) == expected[:1]
    assert tuple(run.path for run in open_runs(tmp_path)) == expected
    assert tuple(run.path for run in open_runs(f"{tmp_path}/*/seed-?")) == (
        expected[0],
        expected[2],
    )
    assert tuple(run.path for run in open_runs(f"{tmp_path}/def*")) == expected[:2]
    assert len(open_runs(f"{tmp_path}/**")) == 3
    with pytest.raises(RunError, match="Found no run in"):
        open_runs(f"{tmp_path}/nothing*")


def test_relative_patterns(tmp_path, stored_run, monkeypatch):
    shutil.copytree(stored_run, tmp_path / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    assert [str(run.path) for run in open_runs("runs/*")] == ["runs/one"]
    assert open_run("runs/one").checkpoint(0).step == 0


def test_unexpected_entries_are_found(run_path):
    (run_path / "checkpoints" / "notes").mkdir()
    (run_path / "checkpoints" / ".tmp-dead").mkdir()
    (finding,) = open_run(run_path).verify()
    assert (finding.path, finding.problem) == ("checkpoints/notes", "unexpected")


def test_the_resume_state_is_verified_too(run_path):
    (file,) = (run_path / "resume").glob("*/state/_METADATA")
    file.unlink()
    (finding,) = open_run(run_path).verify()
    assert finding.problem == "missing"
    assert finding.path == file.relative_to(run_path).as_posix()


def test_a_checkpoint_knows_its_probe_data(run_path):
    (run_path / "probe_sets" / "task-001.json").unlink()
    findings = open_run(run_path).verify()
    assert [finding.problem for finding in findings] == ["altered"] * 3
    assert all("'task-001' (next)" in str(finding) for finding in findings)
