import itertools

from hypothesis import given
from hypothesis import strategies as st

from agents.presets import PRESETS, ScheduleConfig
from agents.schedule import checkpoint_steps, events

schedules = st.builds(
    ScheduleConfig,
    log_every=st.integers(1, 500),
    resume_every=st.integers(1, 500),
    checkpoints_per_decade=st.integers(1, 10),
)


@given(config=schedules, tasks=st.integers(1, 6), length=st.integers(1, 700))
def test_events_are_ordered_and_hold_all_that_was_asked_for(config, tasks, length):
    total = tasks * length
    switches = [length * (task + 1) for task in range(tasks)]
    plan = events(total, switches, config)
    steps = [event.step for event in plan]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, total)
    assert plan[-1].log
    assert plan[-1].checkpoint
    assert plan[-1].resume

    logs = {event.step for event in plan if event.log}
    assert logs >= set(range(0, total + 1, config.log_every))
    checkpoints = {event.step for event in plan if event.checkpoint}
    assert logs >= checkpoints >= {0, *switches}
    for start in [0, *switches]:
        for offset in (1, 10, 100):
            if offset < length and start < total:
                assert start + offset in checkpoints
    resumes = [0, *(event.step for event in plan if event.resume)]
    assert max(b - a for a, b in itertools.pairwise(resumes)) <= config.resume_every
    assert {event.step for event in plan if event.switch} == set(switches)


def test_checkpoints_of_the_demo():
    config = PRESETS["random-labels"].arms["default"]
    switches = [8_000 * (task + 1) for task in range(5)]
    steps = checkpoint_steps(40_000, switches, config.schedule.checkpoints_per_decade)
    assert steps[:9] == [0, 1, 2, 3, 6, 10, 18, 32, 56]
    assert {8_000, 8_001, 8_010, 8_100, 16_000, 32_100, 40_000} <= set(steps)
    assert 30 <= len(steps) <= 45


def test_spacing_is_logarithmic():
    steps = checkpoint_steps(10**6, [], 4)
    spaced = [step for step in steps if step >= 10]
    ratios = [b / a for a, b in itertools.pairwise(spaced)]
    assert all(1.6 < ratio < 2.0 for ratio in ratios)
