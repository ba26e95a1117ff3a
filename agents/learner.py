"""What the outer loop asks of a learner, whatever it learns.

A learner is an init / segment pair plus the few questions that the loop has about its state. The
state is opaque to the loop: any pytree that `curvlab.runs` can store. Learners whose environment
lives on the host do their stepping inside `segment`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Array, Key, PyTree

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What an analysis checkpoint holds.

    Attributes
    ----------
    params, opt_state
        Trees of the network and the optimiser.
    task
        Index of the stationary stretch that the parameters have last been trained on.
    probes
        Names of the probe sets that are ``current`` and ``next`` for this checkpoint.
    extra
        Further named trees (target parameters).
    """

    params: PyTree
    opt_state: PyTree
    task: int
    probes: Mapping[str, str]
    extra: Mapping[str, PyTree] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Frozen data, written once, on which checkpoints are measured."""

    name: str
    inputs: PyTree[np.ndarray]
    targets: PyTree[np.ndarray]


class Learner(Protocol[State]):
    """An init / segment pair, and what the loop wants to know of its state."""

    @property
    def total_steps(self) -> int:
        """Length of the run in updates."""
        ...

    @property
    def switches(self) -> tuple[int, ...]:
        """Steps at which one stationary stretch ends and the next begins."""
        ...

    def probe_sets(self) -> Iterable[ProbeSet]:
        """Return the probe sets that are written when the run starts."""
        ...

    def init(self, key: Key[Array, ""]) -> State:
        """Return the state before the first update."""
        ...

    def segment(self, state: State, steps: int) -> tuple[State, object]:
        """Make ``steps`` updates; return the state and what may be looked at."""
        ...

    def report(self, state: State) -> tuple[State, Mapping[str, float]]:
        """Return a metrics row, and the state with the sums behind it cleared."""
        ...

    def snapshot(self, state: State) -> Snapshot:
        """Return what an analysis checkpoint holds."""
        ...
