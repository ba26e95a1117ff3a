"""How a number changes with the amount of data: on all examples, on halves, on quarters.

For everything that is not linear in the distribution of the data. The largest eigenvalue of a
subset is biased upward (it is convex in the matrix) and ranks are bounded by the number of its
examples, so there is no interval for the population: a curve that has become flat is what supports
a number, a curve that still moves says that it belongs to this amount of data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from curvlab.core.errors import ProblemError
from curvlab.curvature.problem import Problem
from curvlab.spectral.estimate import Estimate

Number = SupportsFloat | Estimate
Statistic = Callable[[Problem], Number | Mapping[str, Number]]


@dataclass(frozen=True, eq=False)
class DataCurve:
    """Statistics of a problem on subsets of its examples; ``print`` shows the table.

    Attributes
    ----------
    sizes
        Share of the data that each subset was to hold.
    examples
        Number of examples that it holds.
    values
        Each statistic on each subset.
    estimand
        The data of which these are subsets.
    """

    sizes: Float[np.ndarray, " subsets"]
    examples: Int[np.ndarray, " subsets"]
    values: dict[str, Float[np.ndarray, " subsets"]]
    estimand: str

    def mean(self, name: str = "value") -> dict[float, float]:
        """Return the mean of a statistic over the subsets of each size."""
        found = self.values[name]
        return {
            float(size): float(found[self.sizes == size].mean())
            for size in dict.fromkeys(self.sizes)
        }

    def __str__(self) -> str:
        lines = [
            f"subsets of: {self.estimand}; no interval for the population",
            f"{'share':>8} {'subsets':>8} {'examples':>10}"
            + "".join(f"  {f'{name} (mean [min, max])':>34}" for name in self.values),
        ]
        for size in dict.fromkeys(self.sizes):
            inside = self.sizes == size
            cells = [
                f"{some.mean():.4g} [{some.min():.4g}, {some.max():.4g}]"
                for some in (found[inside] for found in self.values.values())
            ]
            counts = f"{size:8.4g} {inside.sum():8d} {self.examples[inside].mean():10.6g}"
            lines.append(counts + "".join(f"  {cell:>34}" for cell in cells))
        return "\n".join(lines)


def data_curve(
    problem: Problem,
    key: Array,
    statistic: Statistic,
    *,
    sizes: Sequence[float] = (1, 1 / 2, 1 / 4),
    repeats: int = 4,
    blocks: Shaped[Array | np.ndarray, " examples"] | None = None,
) -> DataCurve:
    """Evaluate a statistic on random subsets of the examples.

    Subsets of one size are disjoint, and the smaller ones lie within the larger where their sizes
    divide. No interval follows from the scatter between them: what they share is the bias.

    Parameters
    ----------
    problem
        The objective, with data in memory.
    key
        Key of the order in which examples are cut into subsets.
    statistic
        ``statistic(problem)`` returns a number, an :class:`~curvlab.Estimate` (whose value is
        kept), or several of them by name. Inside, use one key for all subsets.
    sizes
        Shares of the data, each in (0, 1].
    repeats
        Most subsets of each size; there are never more than disjoint ones.
    blocks
        Label of each example: those with the same label (an episode) stay together, and subsets
        hold about as many examples as their size says.

    Returns
    -------
    The statistic on every subset. Cost: for each size, the statistic on at most all of the data
    once.

    Raises
    ------
    ProblemError
        If a size is not in (0, 1], there is no repeat, not one label per example, a subset would be
        empty, data are streamed, or the statistic's names differ between subsets.
    """
    if problem.streamed:
        raise ProblemError(
            "data_curve needs data in memory, and these are streamed. Evaluate the statistic on "
            "iterators over some of the batches instead."
        )
    if repeats < 1 or not sizes or not all(0 < size <= 1 for size in sizes):
        raise ProblemError(
            f"data_curve needs sizes in (0, 1] and a repeat, got sizes={tuple(sizes)} and "
            f"repeats={repeats}. Use for example sizes=(1, 1/2, 1/4)."
        )
    chosen = [
        (size, rows)
        for size in sizes
        for rows in _subsets(problem.examples, key, size, repeats, blocks)
    ]
    found = [
        _named(statistic(problem if len(rows) == problem.examples else problem.subset(rows)))
        for _, rows in chosen
    ]
    if any(other.keys() != found[0].keys() for other in found):
        raise ProblemError(
            f"The statistic returned {sorted(found[0])} on the first subset and other names on "
            "another. Return the same names, with NaN for what is not defined."
        )
    return DataCurve(
        np.array([size for size, _ in chosen], np.float64),
        np.array([len(rows) for _, rows in chosen]),
        {name: np.array([other[name] for other in found]) for name in found[0]},
        problem.estimand,
    )


def _subsets(
    examples: int,
    key: Array,
    size: float,
    repeats: int,
    blocks: Shaped[Array | np.ndarray, " examples"] | None,
) -> list[Int[np.ndarray, " chosen"]]:
    """Return the examples of each subset of one size, in the order of the data."""
    labels = np.arange(examples) if blocks is None else np.asarray(blocks)
    if labels.shape != (examples,):
        raise ProblemError(
            f"blocks= must hold one label for each of {examples} examples, got shape "
            f"{labels.shape}. Repeat the label of an episode for each of its examples."
        )
    members, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    order = np.asarray(jax.random.permutation(key, len(counts)))
    # Blocks lie side by side in a random order; a subset holds those with their middle in a window.
    middle = np.empty(len(counts))
    middle[order] = np.cumsum(counts[order]) - counts[order] / 2
    length = int(size * examples + 1e-9)
    starts = [int(i * size * examples + 1e-9) for i in range(min(repeats, int(1 / size + 1e-9)))]
    found = [np.flatnonzero(((a <= middle) & (middle < a + length))[members]) for a in starts]
    if not all(map(len, found)):
        raise ProblemError(
            f"A subset of size {size:g} holds none of {len(counts)} blocks with {examples} "
            "examples. Use larger sizes."
        )
    return found


def _named(result: Number | Mapping[str, Number]) -> dict[str, float]:
    named = result if isinstance(result, Mapping) else {"value": result}
    return {
        name: float(value.value if isinstance(value, Estimate) else value)
        for name, value in named.items()
    }
