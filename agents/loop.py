"""The one outer loop: segments between events, and what is written at each event.

The loop knows no learner: it asks for segments, rows and snapshots, and hands them to a
:class:`curvlab.runs.RunWriter`. Nothing it writes depends on time, so that a run which was killed
and started again leaves the same numbers, bit for bit, as one that was not.
"""

import enum
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
from jaxtyping import Array, Key

from agents.learner import Learner
from agents.presets import ScheduleConfig
from agents.schedule import Event, events
from curvlab.runs import RunWriter

State = TypeVar("State")
Progress = Callable[[Event, Mapping[str, float]], None]


class Outcome(enum.Enum):
    """How a call of :func:`train` ended."""

    FINISHED = "finished"
    WAS_COMPLETE = "was complete"
    STOPPED = "stopped"


def _ignore(_: object, __: object = None) -> None:
    return None


def train(
    learner: Learner[State],
    writer: RunWriter,
    schedule: ScheduleConfig,
    key: Key[Array, ""],
    *,
    start: Callable[[int], None] = _ignore,
    progress: Progress = _ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the learner's last step, continuing what the run directory already holds.

    Parameters
    ----------
    learner
        What is trained.
    writer
        The open run. Metrics and checkpoints beyond its newest resume state are dropped and made
        again.
    schedule
        When to log, to checkpoint and to save the full state.
    key
        Decides everything that is random, apart from the learner's data.
    start
        Called with the step from which training goes on (0 for a new run).
    progress
        Called after every event with its metrics row (empty where none was due).
    stop
        Asked after every event; once it is true the full state is saved and the call returns.

    Returns
    -------
    Outcome
        Whether the run was finished, had been complete before, or was stopped in between.

    Raises
    ------
    StorageError
        If the file system refuses to store something. The run can be continued.
    """
    state = learner.init(key)
    restored = writer.restore_resume(state)
    done = -1
    if restored is not None:
        done, state = restored
    if done >= learner.total_steps:
        return Outcome.WAS_COMPLETE
    writer.discard_after(done)
    for probe_set in learner.probe_sets():
        writer.write_probe_set(probe_set.name, probe_set.inputs, probe_set.targets)
    start(max(done, 0))

    pending = [
        event
        for event in events(learner.total_steps, learner.switches, schedule)
        if event.step > done
    ]
    step = max(done, 0)
    for event in pending:
        if event.step > step:
            state, _ = learner.segment(state, event.step - step)
            step = event.step
        state, row = _record(learner, writer, event, state)
        stopping = step < learner.total_steps and stop()
        if event.resume or stopping:
            writer.save_resume(step, state)
        progress(event, row)
        if stopping:
            return Outcome.STOPPED
    return Outcome.FINISHED


def _record(
    learner: Learner[State], writer: RunWriter, event: Event, state: State
) -> tuple[State, Mapping[str, float]]:
    row: Mapping[str, float] = {}
    if event.log:
        state, row = learner.report(state)
        writer.log(event.step, **row)
    if event.checkpoint:
        snapshot = learner.snapshot(state)
        writer.save_checkpoint(
            event.step,
            jax.device_get(snapshot.params),
            jax.device_get(snapshot.opt_state),
            probes=dict(snapshot.probes),
            task=snapshot.task,
            **snapshot.extra,
        )
    return state, row


def diverged(row: Mapping[str, float]) -> bool:
    """Whether a metrics row tells of a loss that is not finite."""
    return not math.isfinite(row.get("loss", 0.0)) or "diverged_at" in row
