"""Which checkpoints deserve a spectrum: a fixed order of priority over the steps of a run.

Pure functions of steps and tasks, so that the same run always gets the same choice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SPECTRA_PER_RUN = 16


@dataclass(frozen=True)
class Landmarks:
    """The remarkable steps of a run, each group in order of priority.

    Attributes
    ----------
    ends
        Last step of every task: the last task first, then spread over the run.
    start
        The first step.
    switches
        For every task but the first, the checkpoint nearest to 1 % of the task after its beginning.
    rest
        All others, each as far as possible (in the list of steps) from those before it.
    """

    ends: tuple[int, ...]
    start: tuple[int, ...]
    switches: tuple[int, ...]
    rest: tuple[int, ...]

    @property
    def priority(self) -> tuple[int, ...]:
        """All steps, the most important first."""
        first, *others = self.ends
        return (first, *self.start, *others, *self.switches, *self.rest)


def landmarks(steps: Sequence[int], tasks: Sequence[str | int | None]) -> Landmarks:
    """Sort the steps of a run into landmarks; without task names only the ends of the run count."""
    steps = list(steps)
    last = {task: index for index, task in enumerate(tasks)}
    ends = sorted({*last.values(), len(steps) - 1})
    switches: list[int] = []
    for before, end in pairwise(ends):
        inside = range(before + 1, end)
        if inside:
            wanted = math.log(max(1.0, 0.01 * (steps[end] - steps[before])))
            switches.append(
                min(inside, key=lambda i, a=before: abs(math.log(steps[i] - steps[a]) - wanted))
            )
    start = [index for index in (0,) if index not in ends]
    ordered_ends = [ends[-1], *_spread(ends[:-1], [ends[-1]])]
    chosen = [*ordered_ends, *start]
    ordered_switches = _spread([i for i in switches if i not in chosen], chosen)
    chosen += ordered_switches
    rest = _spread([i for i in range(len(steps)) if i not in chosen], chosen)
    groups = (ordered_ends, start, ordered_switches, rest)
    return Landmarks(*(tuple(steps[index] for index in group) for group in groups))


def _spread(candidates: Sequence[int], taken: Sequence[int]) -> list[int]:
    """Order candidates so that each is as far as possible from all before it (ties: the later)."""
    remaining, ordered, near = sorted(candidates), [], list(taken)
    while remaining:
        best = max(remaining, key=lambda i: (min((abs(i - j) for j in near), default=0), i))
        remaining.remove(best)
        ordered.append(best)
        near.append(best)
    return ordered
