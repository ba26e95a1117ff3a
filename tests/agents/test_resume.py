"""`kill -9` at random moments: the same command ends with the same bits."""

import os
import random
import signal
import time

import pytest

from tests.agents.comparing import assert_same_runs
from tests.agents.processes import finish, read_until, worker


def kill_at_a_random_moment(path, chance: random.Random) -> bool:
    """Start the worker of a run and kill it; return whether it was still at work."""
    with worker("default", path) as process:
        for _ in range(chance.randrange(4)):
            read_until(process, '"kind": "')
        time.sleep(chance.uniform(0, 0.2))
        busy = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    return busy


def killed_and_continued(tiny_study, path, kills: int) -> None:
    chance = random.Random(kills)
    assert sum(kill_at_a_random_moment(path, chance) for _ in range(kills)) >= kills - 1
    code, output, errors = finish(worker("default", path))
    assert code == 0, errors
    assert '"outcome": "finished"' in output
    # The other run was trained beside a second one, this one alone: that changes nothing either.
    assert_same_runs(path, tiny_study / "default" / "seed-0")


def test_two_kills(tiny_study, tmp_path):
    killed_and_continued(tiny_study, tmp_path / "run", 2)


@pytest.mark.long
def test_ten_kills(tiny_study, tmp_path):
    killed_and_continued(tiny_study, tmp_path / "run", 10)
