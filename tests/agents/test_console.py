"""What people see: plain lines where nobody watches, bars on a terminal."""

import io

import pytest
from rich.console import Console

from agents.console import Display
from curvlab.core.texts import duration


def show(terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, highlight=False)
    with Display(console) as display:
        display.add("tuned/seed-0", 40_000)
        display.started("tuned/seed-0", 2_000)
        for step in (2_100, 8_000):
            row = {"task": 0, "accuracy": 0.5, "loss": 1.25}
            display.row("tuned/seed-0", step, row, switch=step == 8_000)
        nan = {"task": 1, "accuracy": 0.1, "loss": float("nan"), "diverged_at": 8_003}
        display.row("tuned/seed-0", 8_100, nan, switch=False)
        display.row("tuned/seed-0", 8_200, nan, switch=False)
        display.ended("tuned/seed-0", "stopped")
    return stream.getvalue()


def test_lines_where_there_is_no_terminal():
    lines = show(terminal=False).splitlines()
    assert lines == [
        "tuned/seed-0: continuing from step 2,000, 40,000 steps in all",
        "tuned/seed-0: end of task 0 at step 8,000, accuracy 0.500, loss 1.25",
        "tuned/seed-0: diverged, the loss is not finite since step 8,003; the run goes on and is "
        "recorded as it is",
        "tuned/seed-0: stopped at step 8,200 of 40,000 and saved; the same command continues",
    ]


def test_lines_and_bars_on_a_terminal():
    screen = show(terminal=True)
    for text in ("continuing from step 2,000", "diverged", "8200/40000", "steps/s", "left"):
        assert text in screen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (200, "3:20 min"), (7_500, "2:05 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
