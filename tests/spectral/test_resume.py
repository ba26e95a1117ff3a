"""Lanczos runs that save themselves: killed at any moment, they end with the same bits."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, Memory, lanczos, slq

KEY = jax.random.key(7)
DIM = 5000
VALUES = np.linspace(-1, 3, DIM).astype(np.float32)
NO_BASIS = Memory(6 * 4 * DIM + 1)

SCRIPT = """
import sys, time, jax, numpy as np
from curvlab.spectral import Diagonal, Memory, slq
class Slow(Diagonal):
    def product(self, vector):
        time.sleep(0.01)
        return super().product(vector)
values = np.linspace(-1, 3, {dim}).astype(np.float32)
memory = Memory({budget}) if {budget} else None
print("ready", flush=True)
slq(Slow(values), jax.random.key(7), order=30, vectors=2, memory=memory, save=sys.argv[1])
"""


def variables(folder, memory):
    measure = slq(Diagonal(VALUES), KEY, order=30, vectors=2, memory=memory, save=folder)
    return measure.to_dataset()


@pytest.mark.parametrize("memory", [None, NO_BASIS], ids=["basis", "no basis"])
def test_a_killed_slq_goes_on_bit_for_bit(tmp_path, memory):
    budget = 0 if memory is None else memory.device
    script = SCRIPT.format(dim=DIM, budget=budget)
    folder = tmp_path / "run"
    for wait in (0.15, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    resumed = variables(folder, memory)
    assert resumed.identical(variables(tmp_path / "whole", memory))
    assert resumed.identical(variables(folder, memory))  # once more, from what is complete


@pytest.mark.parametrize(
    ("memory", "name", "cut"),
    [
        (None, "steps.jsonl", 1),
        (None, "steps.jsonl", 40),
        (NO_BASIS, "steps.jsonl", 1),
        (NO_BASIS, "steps.jsonl", 40),
        # Without a basis rows.bin has its full length from the third step on.
        (None, "rows.bin", 1),
        (None, "rows.bin", 5 * DIM),
    ],
)
def test_what_a_kill_leaves_half_written_is_cut_off(tmp_path, memory, name, cut):
    whole = lanczos(Diagonal(VALUES), KEY, order=20, memory=memory, save=tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-cut])
    again = lanczos(Diagonal(VALUES), KEY, order=20, memory=memory, save=tmp_path)
    np.testing.assert_array_equal(whole.diagonal, again.diagonal)
    np.testing.assert_array_equal(whole.offdiagonal, again.offdiagonal)
    assert whole.residual == again.residual


def test_a_finished_run_can_be_taken_further(tmp_path):
    lanczos(Diagonal(VALUES), KEY, order=10, save=tmp_path)
    further = lanczos(Diagonal(VALUES), KEY, order=25, save=tmp_path)
    straight = lanczos(Diagonal(VALUES), KEY, order=25)
    np.testing.assert_array_equal(further.diagonal, straight.diagonal)
    assert further.matvecs == 25


def test_a_folder_of_something_else_is_refused(tmp_path):
    lanczos(Diagonal(VALUES), KEY, order=5, save=tmp_path)
    with pytest.raises(OperatorError, match="different: key"):
        lanczos(Diagonal(VALUES), jax.random.key(8), order=5, save=tmp_path)
    with pytest.raises(OperatorError, match="another operator"):
        lanczos(Diagonal(2 * VALUES), KEY, order=6, save=tmp_path)
    (tmp_path / "identity.json").write_text(json.dumps({}))
    with pytest.raises(OperatorError, match="different: estimand"):
        lanczos(Diagonal(VALUES), KEY, order=5, save=Path(tmp_path))
