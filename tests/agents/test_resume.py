"""`kill -9` at random moments: the same command ends with the same bits."""

import itertools
import os
import random
import signal
import time

import pytest

from tests.agents.comparing import assert_same_runs
from tests.agents.processes import finish, worker


def kill_at_a_random_moment(path, chance: random.Random) -> bool:
    """Start the worker of a run and kill it; return whether it was still at work."""
    with worker("default", path) as process:
        assert process.stdout is not None
        for _ in itertools.islice(process.stdout, chance.randrange(4)):
            pass
        time.sleep(chance.uniform(0, 0.2))
        busy = process.poll() is None
        if busy:
            os.killpg(process.pid, signal.SIGKILL)
    return busy


def killed_and_continued(tiny_study, path, kills: int) -> None:
    chance = random.Random(kills)
    runs = []
    # A quick machine ends a run between two kills; the kills that are left go to a fresh one.
    while kills:
        runs.append(path / f"run-{len(runs)}")
        while kills and kill_at_a_random_moment(runs[-1], chance):
            kills -= 1
    for run in runs:
        code, output, errors = finish(worker("default", run))
        assert code == 0, errors
        assert '"kind": "end"' in output
        # The other run was trained beside a second one, this one alone: that changes nothing.
        assert_same_runs(run, tiny_study / "default" / "seed-0")


def test_two_kills(tiny_study, tmp_path):
    killed_and_continued(tiny_study, tmp_path, 2)


@pytest.mark.long
def test_ten_kills(tiny_study, tmp_path):
    killed_and_continued(tiny_study, tmp_path, 10)
