"""Where a run pauses, and what is written there.

Event steps are a pure function of the configuration. A run that was killed therefore passes through
the same pauses again when it is resumed, which also holds for learners that can only be interrupted
where the host hands over (environments that live outside JAX).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agents.presets import ScheduleConfig

AFTER_SWITCH = (1, 10, 100)


@dataclass(frozen=True)
class Event:
    """A step at which the loop pauses, and what it does there, in this order."""

    step: int
    log: bool = False
    checkpoint: bool = False
    resume: bool = False
    switch: bool = False


def checkpoint_steps(total: int, switches: Sequence[int], per_decade: int) -> list[int]:
    """Return the steps at which a checkpoint is taken.

    Step 0, log-spaced steps from 1, every switch, and 1, 10 and 100 steps after the start and after
    every switch (as long as the next switch has not come).
    """
    steps = {0, total, *switches}
    count = 0
    while (spaced := round(10 ** (count / per_decade))) <= total:
        steps.add(spaced)
        count += 1
    starts = (0, *switches)
    for start, end in zip(starts, (*switches, total), strict=True):
        steps.update(start + offset for offset in AFTER_SWITCH if start + offset < end)
    return sorted(steps)


def events(total: int, switches: Sequence[int], config: ScheduleConfig) -> list[Event]:
    """Return every pause of a run of ``total`` steps in order, the last at ``total``.

    Parameters
    ----------
    total
        Steps of the run.
    switches
        Steps after which the problem changes (the ends of tasks), increasing.
    config
        Intervals of the three kinds of writing.

    Returns
    -------
    list of Event
        A metrics row is also written at every checkpoint, and the full state also saved at every
        switch and at the end.
    """
    inner = [step for step in switches if 0 < step < total]
    checkpoints = set(checkpoint_steps(total, inner, config.checkpoints_per_decade))
    logs = checkpoints | set(range(0, total + 1, config.log_every))
    resumes = {total, *inner, *range(config.resume_every, total + 1, config.resume_every)}
    return [
        Event(
            step,
            log=step in logs,
            checkpoint=step in checkpoints,
            resume=step in resumes,
            switch=step in inner or step == total,
        )
        for step in sorted(logs | resumes)
    ]
