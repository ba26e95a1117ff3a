"""A Lanczos run saved step by step, so that a killed process goes on where it stopped.

A folder holds ``identity.json`` (what is computed), ``steps.jsonl`` (coefficients, exact decimal
representations) and ``rows.bin`` (the Lanczos vectors as raw numbers; only the last two where the
basis is not stored). A row is written before its line; what a kill leaves half written is cut off.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.basis import Tier


@dataclass(frozen=True)
class Step:
    """Coefficients of one Lanczos step, and the scale of the operator as seen so far."""

    alpha: float
    beta: float
    largest: float


def saved_tier(folder: str | os.PathLike[str]) -> Tier | None:
    """Return where the rows of a saved run were kept, or ``None`` if there is none."""
    stamp = Path(folder) / "identity.json"
    if not stamp.exists():
        return None
    name = json.loads(stamp.read_text()).get("tier")
    return Tier(name) if name in {tier.value for tier in Tier} else None


class Journal:
    """The saved steps of one Lanczos run.

    Parameters
    ----------
    folder
        Where it lies; made if missing.
    identity
        What is computed (estimand, key, tier): a journal of something else is refused.
    dim, dtype
        Of the rows.
    window
        Keep only this many rows, or all of them with ``None``.

    Raises
    ------
    OperatorError
        If the folder holds a journal of something else.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: dict[str, Any],
        *,
        dim: int,
        dtype: Any,
        window: int | None = None,
    ):
        self.folder = Path(folder)
        self._dim, self._dtype, self._window = dim, np.dtype(dtype), window
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / "identity.json"
        wanted = json.loads(json.dumps(identity))
        if stamp.exists():
            found = json.loads(stamp.read_text())
            if found != wanted:
                different = [key for key in wanted if found.get(key) != wanted[key]]
                raise OperatorError(
                    f"{self.folder} holds a saved Lanczos run of something else (different: "
                    f"{', '.join(different)}). Choose another folder, or delete this one."
                )
        else:
            partial = stamp.with_suffix(".tmp")
            partial.write_text(json.dumps(wanted))
            partial.replace(stamp)
        self.steps = self._recover()
        self._lines = (self.folder / "steps.jsonl").open("ab", buffering=0)
        self._binary = (self.folder / "rows.bin").open("r+b", buffering=0)

    def rows(self) -> Iterator[Float[np.ndarray, " dim"] | None]:
        """Iterate over the saved rows; ``None`` for those that are no longer kept."""
        for index in range(len(self.steps)):
            if self._window is not None and index < len(self.steps) - self._window:
                yield None
            else:
                self._binary.seek(self._place(index))
                raw = self._binary.read(self._size)
                yield np.frombuffer(raw, self._dtype).copy()

    def record(self, step: Step, row: Float[np.ndarray, " dim"]) -> None:
        """Save one more step."""
        self._binary.seek(self._place(len(self.steps)))
        self._binary.write(np.ascontiguousarray(row, self._dtype).tobytes())
        self._lines.write((json.dumps(asdict(step)) + "\n").encode())
        self.steps.append(step)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._binary.close()

    @property
    def _size(self) -> int:
        return self._dim * self._dtype.itemsize

    def _place(self, index: int) -> int:
        # A window of w rows has w + 1 places: the row being written never replaces one in use.
        return (index if self._window is None else index % (self._window + 1)) * self._size

    def _recover(self) -> list[Step]:
        lines = self.folder / "steps.jsonl"
        binary = self.folder / "rows.bin"
        binary.touch()
        steps: list[Step] = []
        if lines.exists():
            for line in lines.read_bytes().split(b"\n")[:-1]:
                steps.append(Step(**json.loads(line)))
        if self._window is None:
            steps = steps[: binary.stat().st_size // self._size]
        partial = lines.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(asdict(step)) + "\n" for step in steps))
        partial.replace(lines)
        return steps
