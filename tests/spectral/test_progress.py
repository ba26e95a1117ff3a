"""Progress: what is told while an estimate runs."""

from typing import Any

import jax
import numpy as np

from curvlab.spectral import Diagonal, Progress, eigenpairs, progress_bar, slq

KEY = jax.random.key(0)
OP = Diagonal(np.r_[np.linspace(-1, 1, 3000), 4.0, 5.0])


def test_known_totals_are_counted_down():
    seen = []
    slq(OP, KEY, order=5, vectors=2, tick=seen.append)
    assert [item.products for item in seen] == list(range(1, 11))
    assert {item.total for item in seen} == {10}
    assert seen[-1].fraction == 1.0


def test_targets_are_approached_and_met():
    for estimate, tolerance in ((slq, 0.06), (eigenpairs, 1e-4)):
        seen = []
        keywords: dict[str, Any] = {"largest": 2, "smallest": 0} if estimate is eigenpairs else {}
        estimate(OP, KEY, tolerance=tolerance, tick=seen.append, **keywords)
        if estimate is slq:  # every single one
            assert {item.products for item in seen} == set(range(1, seen[-1].products + 1))
        told = [item for item in seen if item.error is not None]
        assert told[-1].error <= told[-1].target <= tolerance
        assert told[0].error > told[-1].error
        assert told[-1].fraction == 1.0
        assert 0 <= told[0].fraction < 1


def test_the_bar_takes_what_estimates_tell(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("matrix") as tick:
        tick(Progress(3))
        tick(Progress(4, total=8))
        tick(Progress(5, error=0.1, target=0.01))
    shown = capsys.readouterr().out
    assert "5 products, error 1.0e-01 of 1.0e-02" in shown
    assert "-:--:--" in shown or "0:00:0" in shown  # the time left
