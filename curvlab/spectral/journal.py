"""A Lanczos run saved step by step, so that a killed process goes on where it stopped.

A folder holds ``identity.json`` (what is computed), ``steps.jsonl`` (coefficients, exact decimal
representations) and ``rows.bin`` (the Lanczos vectors as raw numbers; only the last two where the
basis is not stored). A row is written before its line; what a kill leaves half written is cut off.

A run that goes on does all it did before, restarts included, and takes from here what would cost
products. The first step is computed again and compared, and the last one that was saved if the run
comes to it; comparisons are bitwise, as products must be.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import Array, Float

from curvlab.core.devices import spans_processes
from curvlab.core.errors import OperatorError
from curvlab.spectral.basis import Tier
from curvlab.spectral.operator import SymmetricOperator


@dataclass(frozen=True)
class Step:
    """Coefficients of one Lanczos step, and the scale of the operator as seen so far."""

    alpha: float
    beta: float
    largest: float


def remembered(path: Path | None, compute: Callable[[], Any]) -> Any:
    """Return what a file holds; without the file compute it and write it there."""
    if path is None:
        return compute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(compute()))
    return json.loads(path.read_text())


def saved_room(
    folder: Path | None, memory: Any, compute: Callable[[], tuple[Tier, int]]
) -> tuple[Tier, int]:
    """Return where rows lie and how many have room; without a budget, as when first saved.

    What is free now may not have been free then.
    """
    tier, rows = remembered(folder / "room.json" if folder and memory is None else None, compute)
    return Tier(tier), rows


def own_folder(save: str | os.PathLike[str] | None, op: SymmetricOperator) -> Path | None:
    """Return where this process saves a run: a folder inside, if several processes share it."""
    if save is None:
        return None
    apart = spans_processes(op.sharding())
    return Path(save) / f"process-{jax.process_index()}" if apart else Path(save)


def open_journal(
    folder: str | os.PathLike[str], op: SymmetricOperator, key: Array, tier: Tier, **further: Any
) -> "Journal":
    """Open the journal of a Lanczos run, or start one.

    Parameters
    ----------
    folder
        Where it lies; made if missing.
    op, key, tier
        Matrix, key of the start vector, and where the rows are kept.
    further
        What else decides the steps.

    Raises
    ------
    OperatorError
        If the folder holds a journal of something else.
    """
    identity = {
        "estimand": op.estimand,
        "dim": op.dim,
        "dtype": str(op.dtype),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "tier": tier.value,
        **further,
    }
    window = 2 if tier is Tier.NONE else None
    journal = Journal(folder, identity, dim=op.dim, dtype=op.dtype, window=window)
    if spans_processes(op.sharding()):  # a kill may have left one process a step ahead
        journal.forget(int(process_allgather(np.array(len(journal))).min()))
    return journal


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
        found = remembered(stamp, lambda: wanted)
        if found != wanted:
            different = [key for key in wanted if found.get(key) != wanted[key]]
            raise OperatorError(
                f"{self.folder} holds a saved Lanczos run of something else (different: "
                f"{', '.join(different)}). Choose another folder, or delete this one."
            )
        self._steps = self._recover()

    def __len__(self) -> int:
        """Return the number of saved steps."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Step:
        return self._steps[index]

    def forget(self, count: int) -> None:
        """Keep the first ``count`` steps only."""
        del self._steps[count:]
        self._write_steps(self._steps)

    def row(self, index: int) -> Float[np.ndarray, " dim"] | None:
        """Return the vector of a saved step; ``None`` if it is no longer kept."""
        if self._window is not None and index < len(self) - self._window:
            return None
        with (self.folder / "rows.bin").open("rb") as rows:
            rows.seek(self._place(index))
            return np.frombuffer(rows.read(self._size), self._dtype)

    def record(self, step: Step, row: Float[np.ndarray, " dim"]) -> None:
        """Save one more step."""
        with (self.folder / "rows.bin").open("r+b") as rows:  # buffered: one write may be short
            rows.seek(self._place(len(self)))
            rows.write(np.ascontiguousarray(row, self._dtype).tobytes())
        with (self.folder / "steps.jsonl").open("ab", buffering=0) as lines:
            lines.write((json.dumps(asdict(step)) + "\n").encode())
        self._steps.append(step)

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
        self._write_steps(steps)
        return steps

    def _write_steps(self, steps: list[Step]) -> None:
        text = "".join(json.dumps(asdict(step)) + "\n" for step in steps)
        _replace(self.folder / "steps.jsonl", text)


def _replace(path: Path, text: str) -> None:
    """Write a file at once: a kill leaves the old one or the new one."""
    partial = path.with_suffix(".tmp")
    partial.write_text(text)
    partial.replace(path)
