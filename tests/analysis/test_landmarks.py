"""Which checkpoints get a spectrum."""

from hypothesis import given
from hypothesis import strategies as st

from curvlab.analysis.landmarks import landmarks

# Five tasks of 8,000 steps: log-spaced, every end, and 1, 10, 100 steps into every task.
SPACED = {0, 1, 10, 32, 100, 316, 1000, 3162, 8000, 10000, 16000, 24000, 31623, 32000, 40000}
AFTER = {end + offset for end in (8000, 16000, 24000, 32000) for offset in (1, 10, 100)}
STEPS = sorted(SPACED | AFTER)


def task_of(step: int) -> int:
    return max(0, (step - 1) // 8000)


def test_a_run_of_tasks() -> None:
    marks = landmarks(STEPS, [task_of(step) for step in STEPS])
    assert marks.ends[0] == 40000
    assert sorted(marks.ends) == [8000, 16000, 24000, 32000, 40000]
    assert marks.start == (0,)
    # 1 % of 8,000 steps is nearest to 100.
    assert sorted(marks.switches) == [8100, 16100, 24100, 32100]
    assert set(marks.priority) == set(STEPS)
    chosen = marks.priority[:16]
    assert {0, 8000, 16000, 24000, 32000, 40000} < set(chosen)
    # The six that are left are spread: never the +1 and +10 of a switch before the first task's.
    assert {10, 100, 1000} & set(chosen) or {32, 316} & set(chosen)


def test_the_last_task_end_and_the_start_come_first() -> None:
    priority = landmarks(STEPS, [task_of(step) for step in STEPS]).priority
    assert priority[:2] == (40000, 0)
    assert set(priority[2:6]) == {8000, 16000, 24000, 32000}


def test_without_tasks() -> None:
    marks = landmarks([0, 5, 10, 15, 20], [None] * 5)
    assert marks.priority == (20, 0, 10, 15, 5)


def test_a_single_checkpoint() -> None:
    assert landmarks([7], [None]).priority == (7,)


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 200))
def test_every_step_once(steps: set[int], length: int) -> None:
    ordered = sorted(steps)
    marks = landmarks(ordered, [max(0, (step - 1) // length) for step in ordered])
    assert sorted(marks.priority) == ordered
    assert len(marks.priority) == len(ordered)
