"""`python -m agents` as people run it: exit codes, messages, signals, no orphans."""

import os
import signal
import subprocess
import sys

import pytest

import agents
from agents.__main__ import main
from tests.agents.comparing import assert_same_runs
from tests.agents.processes import ROOT, children, command, finish, gone, read_until, start


def test_list_names_every_preset_without_importing_jax():
    code, output, _ = finish(start("agents", "list"))
    assert code == 0
    for name in ("random-labels", "random-labels-paper", "random-labels-tiny"):
        assert name in output
    probe = "import sys, agents.__main__, agents.study, agents.console; print('jax' in sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True
    )
    assert imported.stdout.strip() == "False", imported.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random-lables"], "Did you mean 'random-labels'"),
        (["random-labels-tiny", "--arms", "tunned"], "Did you mean 'tuned'"),
        (["random-labels-tiny", "--seeds", "-1"], "Seed -1"),
        (["random-labels-tiny", "--jobs", "0"], "--jobs 0"),
        (["random-labels-paper", "--data", "DIR"], "train-images-idx3-ubyte.gz"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, tmp_path, capsys):
    arguments = [str(tmp_path) if argument == "DIR" else argument for argument in arguments]
    study = tmp_path / "study"
    code = main(["supervised", *arguments, "--out", str(study)])
    errors = capsys.readouterr().err
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not study.exists()


def test_a_foreign_package_is_named(monkeypatch, capsys):
    monkeypatch.delattr(agents, "PROJECT")
    assert main(["list"]) == 2
    errors = capsys.readouterr().err
    assert "agents/__init__.py" in errors
    assert "root of the curvlab checkout" in errors


def test_a_complete_study_says_so_and_stays_as_it_is(tiny_study):
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny_study.rglob("*.jsonl"))
    code, output, _ = finish(command("random-labels-tiny", tiny_study, "--arms", "tuned"))
    assert code == 0
    assert "tuned/seed-0: complete already (120 steps), nothing to do" in output
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tiny_study.rglob("*.jsonl"))


def test_another_config_in_the_same_place_is_refused(tiny_study, capsys):
    """Also the new seed is not begun: it would not belong to the study."""
    code = main(["supervised", "random-labels", "--out", str(tiny_study), "--seeds", "0", "1"])
    errors = capsys.readouterr().err
    assert code == 2
    assert "examples: asked 1000, found 200" in errors
    assert errors.count("\n") == 1
    assert not (tiny_study / "default" / "seed-1").exists()


@pytest.mark.long
def test_a_run_that_cannot_be_written_is_reported_and_the_others_go_on(tiny_study, tmp_path):
    """One after the other here, both at once in the fixture: the same bits."""
    (tmp_path / "default").write_text("in the way")
    code, output, errors = finish(command("random-labels-tiny", tmp_path, "--jobs", "1"))
    assert code == 2
    assert "default/seed-0: " in errors
    assert errors.count("\n") == 1
    assert "tuned/seed-0: finished" in output
    assert_same_runs(tmp_path / "tuned" / "seed-0", tiny_study / "tuned" / "seed-0")


def test_ctrl_c_saves_and_the_same_command_continues(tiny_study, tmp_path):
    process = command("random-labels-tiny", tmp_path, "--arms", "tuned")
    read_until(process, "starting")
    # As a terminal does it: to the parent and the worker, and here to the parent once more.
    os.killpg(process.pid, signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, output, errors = finish(process)
    assert code == 130, errors
    assert "and saved; the same command continues" in output
    code, output, errors = finish(command("random-labels-tiny", tmp_path, "--arms", "tuned"))
    assert code == 0, errors
    assert_same_runs(tmp_path / "tuned" / "seed-0", tiny_study / "tuned" / "seed-0")


def test_killing_the_parent_leaves_no_orphan(tmp_path):
    """Left alone, this worker would go on for more than the time it is given to end."""
    process = command("random-labels", tmp_path, "--arms", "tuned")
    read_until(process, "starting")
    (number,) = children(process)
    process.kill()
    with process:
        process.communicate()
    assert gone(number)


def test_a_worker_that_breaks_down_is_reported(tmp_path):
    process = command("random-labels-tiny", tmp_path, "--arms", "tuned")
    read_until(process, "starting")
    (number,) = children(process)
    os.kill(number, signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 1
    assert "tuned/seed-0: killed by signal 9" in errors


def test_sigterm_ends_all_runs_that_are_under_way_or_waiting(tmp_path):
    process = command("random-labels", tmp_path, "--jobs", "1")
    read_until(process, "default/seed-0: starting")
    process.send_signal(signal.SIGTERM)
    code, output, errors = finish(process)
    assert code == 143, errors
    assert "default/seed-0: stopped at step" in output
    assert not (tmp_path / "tuned").exists()


def test_a_full_disk_is_one_clear_message(tmp_path):
    """Files may have 20 KiB here: less than a probe set."""
    shell = (
        f"ulimit -f 20; exec {sys.executable} -m agents supervised random-labels-tiny --out {{}}"
    )
    result = subprocess.run(
        ["bash", "-c", shell.format(tmp_path / "study") + " --arms tuned"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("tuned/seed-0: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr
