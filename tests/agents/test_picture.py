"""Case study 1 of the paper at full length: default Adam loses plasticity, tuned Adam does not."""

import numpy as np
import pytest

from curvlab.runs import Run, open_run
from tests.agents.processes import command


def dead_fraction(run: Run, step: int) -> float:
    """Fraction of hidden units that are zero on every input."""
    params = run.checkpoint(step).params
    hidden = np.asarray(run.probe_sets["task-000"].inputs).reshape(1000, -1)
    dead = []
    for name in ("hidden_0", "hidden_1"):
        layer = params[name]
        hidden = np.maximum(hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
        dead.append((hidden == 0).all(axis=0))
    return float(np.concatenate(dead).mean())


@pytest.mark.long
def test_default_adam_loses_plasticity_and_tuned_adam_keeps_it(tmp_path):
    process = command("random-labels", tmp_path, "--seeds", 0, 1, 2)
    with process:
        _, errors = process.communicate(timeout=1_200)
    assert process.returncode == 0, errors
    # Per run: accuracy at the end of the first task and of the last, dead units at the end.
    found = {}
    for arm in ("default", "tuned"):
        for seed in (0, 1, 2):
            run = open_run(tmp_path / arm / f"seed-{seed}")
            accuracy = run.metrics().accuracy
            ends = (accuracy.sel(step=8_000).item(), accuracy.sel(step=40_000).item())
            found[arm, seed] = (*ends, dead_fraction(run, 40_000))
    # Every run solves the first task; by the last, default Adam has lost plasticity. How far its
    # accuracy has fallen varies chaotically with the seed and the rounding (0.12 to 0.35 on seeds 0
    # to 6, six of them below 0.3), so 0.3 is asked of the median and a looser bound of each seed.
    assert all(first > 0.85 for first, _, _ in found.values()), found
    assert np.median([last for (arm, _), (_, last, _) in found.items() if arm == "default"]) < 0.3
    for (arm, _), (_, last, dead) in found.items():
        if arm == "default":
            assert last < 0.5, found
            assert dead > 0.35, found
        else:
            assert last > 0.85, found
            assert dead < 0.2, found
