"""Progress: what is told while an estimate runs."""

from typing import Any

import jax
import numpy as np
import pytest

from curvlab.spectral import (
    Diagonal,
    Progress,
    diagonal,
    eigenpairs,
    expectation_trace,
    frobenius_norm,
    log_determinant,
    progress_bar,
    slq,
    trace,
    xnystrace,
    xtrace,
)
from tests.spectra import rotated

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


POSITIVE = Diagonal(np.geomspace(1e-2, 1, 300))
POSITIVE.positive_semidefinite = True
PAIRS = eigenpairs(POSITIVE, KEY, largest=3, smallest=0, tolerance=1e-4)
TRACES: dict[str, Any] = {
    "trace": lambda op, tick: trace(op, KEY, tick=tick),
    "trace of pairs": lambda op, tick: trace(op, KEY, deflate=PAIRS, tick=tick),
    "trace of all": lambda op, tick: trace(op, KEY, vectors=300, tick=tick),
    "xtrace": lambda op, tick: xtrace(op, KEY, tick=tick),
    "xnystrace": lambda op, tick: xnystrace(op, KEY, tick=tick),
    "diagonal": lambda op, tick: diagonal(op, KEY, tick=tick),
    "diagonal of pairs": lambda op, tick: diagonal(op, KEY, deflate=PAIRS, tick=tick),
    "frobenius_norm": lambda op, tick: frobenius_norm(op, KEY, tick=tick),
    "frobenius_norm of pairs": lambda op, tick: frobenius_norm(op, KEY, deflate=PAIRS, tick=tick),
    "frobenius_norm of all": lambda op, tick: frobenius_norm(op, KEY, vectors=300, tick=tick),
    "expectation_trace": lambda op, tick: expectation_trace(op, np.cos, KEY, order=4, tick=tick),
    "log_determinant": lambda op, tick: log_determinant(op, KEY, shift=0.1, order=4, tick=tick),
}


@pytest.mark.parametrize("name", TRACES)
def test_trace_like_estimators_tell_what_is_done_of_what_is_planned(name):
    seen: list[Progress] = []
    found = TRACES[name](POSITIVE, seen.append)
    steps = np.diff([0, *(item.products for item in seen)])
    assert len(seen) > 3
    assert steps[1:].min() >= 1
    assert steps[1:].max() <= 4
    assert {item.total for item in seen} == {seen[-1].products}
    assert seen[-1].fraction == 1.0
    floor = 4 if name in ("expectation_trace", "log_determinant") else 0  # measured afterwards
    assert found.matvecs == seen[-1].products + floor
    silent = TRACES[name](POSITIVE, None)
    np.testing.assert_array_equal(silent.value, found.value)


def test_a_trace_tells_its_error_once_it_is_known():
    seen: list[Progress] = []
    op = rotated(np.linspace(1, 2, 400))
    found = trace(op, KEY, vectors=8, tolerance=2e-3, tick=seen.append)
    assert found.method == "two-stage"
    errors: list[Any] = [item.error for item in seen]
    first = next(index for index, error in enumerate(errors) if error is not None)
    assert seen[first - 1].fraction == 1.0  # of the first stage
    assert errors[first] > 2e-3 >= errors[-1]
    assert errors[-1] == pytest.approx((found.high - found.low) / 2 / abs(found.value))
    assert {item.target for item in seen[first:]} == {2e-3}
    assert seen[first + 1].total == seen[-1].products == found.matvecs
    assert seen[-1].fraction == 1.0


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
