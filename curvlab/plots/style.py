"""The look that all pictures share, and how they reach the disk.

Colours are those of Okabe and Ito, told apart by colour-blind readers; each series also has its own
line style and marker, so that a grey print keeps them apart. Sizes are for print.
"""

import io
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from curvlab.runs.files import storing, write_atomic

SINGLE_COLUMN = 3.5
"""Width in inches of a figure in one column of a page."""
FULL_WIDTH = 7.0
"""Width in inches of a figure across the page."""
NEUTRAL = "#555555"
"""Colour of what belongs to no series: task boundaries, zero lines."""


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is told apart.

    Attributes
    ----------
    colour
        Hexadecimal colour.
    line
        Line style of matplotlib.
    marker
        Marker of matplotlib.
    """

    colour: str
    line: Any
    marker: str


SERIES = (
    SeriesStyle("#D55E00", "-", "o"),
    SeriesStyle("#0072B2", (0, (4, 1.5)), "s"),
    SeriesStyle("#009E73", (0, (6, 1.5, 1, 1.5)), "^"),
    SeriesStyle("#CC79A7", (0, (1, 1)), "D"),
    SeriesStyle("#E69F00", (0, (8, 2)), "v"),
    SeriesStyle("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "P"),
    SeriesStyle("#000000", "-", "X"),
)
"""Styles in the order in which series take them."""

_SETTINGS = {
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    # TrueType fonts stay searchable and pass the checks of journals; type 3 fonts do not.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 300,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.6,
}

# Without these entries matplotlib writes the time and its own version into every file.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def style(more: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Return a context in which figures are created, drawn and saved with the common look.

    Parameters
    ----------
    more
        Further settings of matplotlib for one kind of output.
    """
    # From the defaults, not from the caller's settings: the same figure for everybody.
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **_SETTINGS, **(more or {})}
    # The backend is the caller's own business, and asking for the default one would choose one.
    settings.pop("backend", None)
    return mpl.rc_context(settings)


def save(figure: Figure, stem: Path, *, formats: Iterable[str] = (".png", ".pdf")) -> list[Path]:
    """Write a figure as ``stem`` plus each suffix; equal figures give equal bytes.

    Parameters
    ----------
    figure
        The figure.
    stem
        Path without suffix; missing directories are made.
    formats
        Suffixes, ``.png`` or ``.pdf``.

    Raises
    ------
    StorageError
        If the file system refuses; an earlier picture is then untouched.
    """
    with storing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for suffix in formats:
        buffer = io.BytesIO()
        with style():
            figure.savefig(buffer, format=suffix[1:], metadata=_METADATA[suffix])
        # Not with_suffix: a name such as "lr-0.1" has a dot of its own.
        path = stem.with_name(stem.name + suffix)
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths
