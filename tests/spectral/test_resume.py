"""Lanczos runs that save themselves: killed at any moment, they end with the same bits."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, Memory, eigenpairs, lanczos, slq

KEY = jax.random.key(7)
DIM = 5000
VALUES = np.linspace(-1, 3, DIM).astype(np.float32)
NO_BASIS = Memory(6 * 4 * DIM + 1)
FEW_ROWS = Memory(6 * 4 * DIM + 16 * 4 * 8192)


class Counting(Diagonal):
    """A slow matrix that counts its products."""

    products, seconds = 0, 0.0

    def product(self, vector):
        self.products += 1
        time.sleep(self.seconds)
        return super().product(vector)


def of_an_order(op, save, memory=None):
    return slq(op, KEY, order=30, vectors=2, memory=memory, save=save).to_dataset()


def without_basis(op, save):
    return of_an_order(op, save, NO_BASIS)


def to_a_tolerance(op, save):
    return slq(op, KEY, tolerance=0.1, save=save).to_dataset()


def deflated(op, save):
    pairs = eigenpairs(Diagonal(VALUES), KEY, largest=2, smallest=0, tolerance=3e-2)
    return slq(op, KEY, order=30, vectors=2, deflate=pairs, save=save).to_dataset()


def pairs_with_restarts(op, save):
    options: Any = {"largest": 3, "smallest": 2, "tolerance": 3e-2, "memory": FEW_ROWS}
    pairs = eigenpairs(op, KEY, **options, save=save)
    assert pairs.order > 16
    names = ("values", "low", "high", "residuals", "miss")
    columns = {name: ("pair", getattr(pairs, name)) for name in names}
    vectors = (("pair", "entry"), pairs.vectors)
    return xr.Dataset({**columns, "vectors": vectors}, attrs={"products": pairs.matvecs})


def saved_steps(folder):
    """Return how many steps each journal in a folder holds."""
    return [path.read_bytes().count(b"\n") for path in sorted(folder.rglob("steps.jsonl"))]


SCRIPT = """
import sys
from tests.spectral import test_resume as here
op = here.Counting(here.VALUES)
op.seconds = 0.01
getattr(here, sys.argv[1])(op, sys.argv[2])
"""


@pytest.mark.parametrize(
    "call",
    [of_an_order, pairs_with_restarts]
    + [pytest.param(c, marks=pytest.mark.long) for c in (without_basis, to_a_tolerance, deflated)],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, call):
    folder = tmp_path / "run"
    for enough in (5, 12):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, call.__name__, str(folder)])
        while sum(saved_steps(folder)) < enough and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL  # it was still at work
    # All that was saved is taken from there but the first and the last step of a journal.
    spared = sum(max(0, steps - 2) for steps in saved_steps(folder))
    assert spared > 0
    whole, resumed = Counting(VALUES), Counting(VALUES)
    expected = call(whole, tmp_path / "whole")
    assert call(resumed, folder).identical(expected)
    assert resumed.products <= whole.products - spared
    again = Counting(VALUES)
    assert call(again, folder).identical(expected)  # once more, from what is complete
    assert again.products < whole.products / 2


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
    with pytest.raises(OperatorError, match="different: start"):
        lanczos(Diagonal(VALUES), KEY, order=5, start=np.ones(DIM), save=tmp_path)
    with pytest.raises(OperatorError, match="different: start, wanted, rows"):
        eigenpairs(Diagonal(VALUES), KEY, largest=1, smallest=0, save=tmp_path)
    with pytest.raises(OperatorError, match="another operator"):
        lanczos(Diagonal(2 * VALUES), KEY, order=6, save=tmp_path)
    (tmp_path / "identity.json").write_text(json.dumps({}))
    with pytest.raises(OperatorError, match="different: estimand"):
        lanczos(Diagonal(VALUES), KEY, order=5, save=Path(tmp_path))


def test_a_search_with_restarts_is_not_taken_for_one_without(tmp_path):
    options: Any = {"largest": 3, "smallest": 2, "memory": FEW_ROWS, "save": tmp_path}
    eigenpairs(Diagonal(VALUES), KEY, tolerance=3e-2, **options)
    with pytest.raises(OperatorError, match="different: rows"):
        eigenpairs(Diagonal(VALUES), KEY, order=16, **options)


def test_the_noise_floor_is_measured_where_the_run_ends(tmp_path):
    short = slq(Diagonal(VALUES), KEY, order=3, save=tmp_path)
    longer = slq(Diagonal(VALUES), KEY, order=20, save=tmp_path)
    assert short.noise_floor == slq(Diagonal(VALUES), KEY, order=3).noise_floor
    assert longer.noise_floor == slq(Diagonal(VALUES), KEY, order=20).noise_floor


def test_a_saved_run_keeps_its_room(tmp_path, monkeypatch):
    first = slq(Diagonal(VALUES), KEY, order=20, vectors=2, save=tmp_path)
    monkeypatch.setattr(Memory, "free", classmethod(lambda cls: NO_BASIS))
    assert slq(Diagonal(VALUES), KEY, order=20, vectors=2).tier is not first.tier
    again = slq(Diagonal(VALUES), KEY, order=20, vectors=2, save=tmp_path)
    assert again.to_dataset().identical(first.to_dataset())
