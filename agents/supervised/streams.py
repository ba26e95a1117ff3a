"""Streams of tasks: the same network meets one stationary problem after another.

A task is a pure function of the stream's seed and the task's index, so that any task can be drawn
again at any time, in any process. Every stream offers one task beyond its last, which is never
trained on: it is the unseen task on which curvature is measured at the end of a run.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from curvlab.core.errors import UnknownNameError


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs and targets of one stationary problem, with a leading example axis."""

    inputs: Float[np.ndarray, "examples ..."]
    targets: Int[np.ndarray, " examples"]


class Stream(Protocol):
    """A sequence of tasks of equal shapes; ``task(tasks)`` is the one beyond the last."""

    @property
    def tasks(self) -> int:
        """Number of tasks that are trained on."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes among the targets."""
        ...

    def task(self, index: int) -> Task:
        """Return task ``index``, from 0 to ``tasks`` inclusive."""
        ...


def task_name(index: int) -> str:
    """Return the name of a task's probe set, such as ``"task-003"``."""
    return f"task-{index:03d}"


@dataclass(frozen=True, eq=False)
class RandomLabels:
    """Fixed inputs whose labels are drawn anew, uniformly and independently, for every task.

    Attributes
    ----------
    inputs
        The same for all tasks.
    classes
        Labels are ``0 .. classes - 1``.
    tasks
        Number of tasks that are trained on.
    seed
        Together with the task's index this decides its labels.
    """

    inputs: Float[np.ndarray, "examples ..."] = field(repr=False)
    classes: int
    tasks: int
    seed: int

    def task(self, index: int) -> Task:
        """Return task ``index``.

        Raises
        ------
        IndexError
            If the index is negative or more than one beyond the last task.
        """
        if not 0 <= index <= self.tasks:
            raise IndexError(f"Task {index} of a stream of {self.tasks}; use 0 to {self.tasks}.")
        source = np.random.SeedSequence(self.seed, spawn_key=(index,))
        labels = np.random.default_rng(source).integers(
            self.classes, size=len(self.inputs), dtype=np.int32
        )
        return Task(self.inputs, labels)


def build_stream(name: str, inputs: Any, classes: int, tasks: int, seed: int) -> Stream:
    """Return the stream that a configuration names.

    Raises
    ------
    UnknownNameError
        If there is no such stream.
    """
    streams = {"random-labels": RandomLabels}
    if name not in streams:
        raise UnknownNameError("stream", name, streams)
    return streams[name](inputs, classes, tasks, seed)
