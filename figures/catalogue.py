"""Which figures there are, and the studies they are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from curvlab.core.errors import UnknownNameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.study import Study


@dataclass(frozen=True)
class Scale:
    """Where the study of one scale lies, and the preset of ``python -m agents`` that makes it."""

    study: Path
    preset: str


SCALES: Mapping[str, Scale] = {
    "quick": Scale(Path("runs/demo"), "random-labels"),
    "paper": Scale(Path("runs/paper"), "random-labels-paper"),
}


@dataclass(frozen=True)
class Entry:
    """One figure: a module of this package with a function ``draw(study)``.

    ``draw`` returns the figures by what their file names get appended, ``""`` for a single one.
    """

    name: str
    summary: str

    @property
    def draw(self) -> "Callable[[Study], dict[str, Figure]]":
        """Import the module, and with it matplotlib, at the first use."""
        return import_module(f"figures.{self.name}").draw


_ENTRIES = (
    Entry("fig1", "accuracy and dead units while labels are drawn anew (Fig. 1 of the paper)"),
    Entry("spectrum", "the Hessian spectrum over training, with bands and extreme eigenvalues"),
    Entry("sharpness", "largest and smallest Hessian eigenvalue beside dead units and accuracy"),
)

CATALOGUE: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def find_entries(names: Sequence[str]) -> list[Entry]:
    """Return the figures of these names; ``all`` stands for every one.

    Raises
    ------
    UnknownNameError
        If there is none of a name; the message offers the nearest ones.
    """
    if "all" in names:
        return list(CATALOGUE.values())
    for name in names:
        if name not in CATALOGUE:
            raise UnknownNameError("figure", name, [*CATALOGUE, "all"])
    return [CATALOGUE[name] for name in dict.fromkeys(names)]
