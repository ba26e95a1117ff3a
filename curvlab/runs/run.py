"""Reading runs: :class:`Run`, :func:`open_run`, :func:`open_runs`, :func:`find_runs`.

Opening a run takes no lock and changes nothing; checkpoints are verified when they are asked for.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import PyTree

from curvlab.core.errors import RunError
from curvlab.core.specs import Spec
from curvlab.runs.checkpoints import Checkpoint, Loss, Predict, read_checkpoint, stored_steps
from curvlab.runs.layout import Layout, runs_below
from curvlab.runs.manifests import Finding
from curvlab.runs.metrics import read_metrics
from curvlab.runs.probe_sets import ProbeSets
from curvlab.runs.results import ResultFile, list_results, read_netcdf, result_path, write_result
from curvlab.runs.run_file import RunInfo, read_run_file
from curvlab.runs.verification import verify_run

if TYPE_CHECKING:
    import xarray


class Run:
    """A run directory, opened for reading; only results can be added to it.

    Attributes
    ----------
    path
        The run directory.
    info
        Content of ``run.json``.
    """

    def __init__(
        self,
        path: Path,
        info: RunInfo,
        *,
        predict: Predict | None = None,
        loss: Loss | None = None,
    ):
        self.path = path
        self.info = info
        self._layout = Layout(path)
        self._predict = predict
        self._loss = loss

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self.steps)} checkpoints)"

    @property
    def config(self) -> dict[str, Any]:
        """Settings of the training command."""
        return dict(self.info.config)

    @property
    def specs(self) -> dict[str, Spec | None]:
        """Specs by ``"network"``, ``"objective"``, ``"optimiser"``."""
        return self.info.specs

    @property
    def seed(self) -> int | None:
        """Seed of the run."""
        return self.info.seed

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the stored checkpoints, ascending."""
        return stored_steps(self._layout.checkpoints)

    @property
    def probe_sets(self) -> ProbeSets:
        """Probe sets by name, read and verified when asked for."""
        return ProbeSets(self._layout)

    def checkpoint(self, step: int, *, template: PyTree | None = None) -> Checkpoint:
        """Verify and read the checkpoint of a step.

        Parameters
        ----------
        step
            One of :attr:`steps`.
        template
            Parameters of the same structure, for networks whose parameters are not nested dicts
            and lists.

        Raises
        ------
        RunError
            If the step is not stored; the nearest ones are listed.
        CheckpointError
            If a file is missing, truncated, altered or added, or the parameters do not fit.
        """
        self.require_step(step)
        return read_checkpoint(
            self._layout, step, predict=self._predict, loss=self._loss, template=template
        )

    def require_step(self, step: int) -> None:
        """Refuse a step that is not stored.

        Raises
        ------
        RunError
            If it is not; the nearest ones are listed.
        """
        steps = self.steps
        if step not in steps:
            near = sorted(sorted(steps, key=lambda stored: abs(stored - step))[:4])
            hint = f"Nearest: {', '.join(map(str, near))}." if near else "It has no checkpoint yet."
            raise RunError(f"{self.path} has no checkpoint at step {step}. {hint}")

    def metrics(self) -> "xarray.Dataset":
        """Return the training log over ``step``, NaN where a step has no value.

        Raises
        ------
        RunError
            If a line is not a row.
        """
        return read_metrics(self._layout.metrics)

    def results(self) -> tuple[ResultFile, ...]:
        """Return the stored results, sorted by diagnostic, step and probe set."""
        return list_results(self._layout)

    def write_result(
        self, diagnostic: str, step: int, probe_set: str, key: str, dataset: "xarray.Dataset"
    ) -> Path:
        """Store a result and return its file; one of the same key is replaced in one step.

        Parameters
        ----------
        diagnostic
            Name without ``-``.
        step
            Step of the checkpoint.
        probe_set
            Name of the probe set.
        key
            Hash of settings, probe set and code version, at least 12 hexadecimal digits.
        dataset
            Numbers, texts, booleans; attributes may be any plain data.

        Raises
        ------
        RunError
            If a name or the dataset cannot be stored.
        StorageError
            If the file system refuses.
        """
        path = result_path(self._layout, diagnostic, step, probe_set, key)
        write_result(path, self._layout, dataset)
        return path

    def read_result(
        self, diagnostic: str, step: int, probe_set: str, key: str
    ) -> "xarray.Dataset | None":
        """Return a stored result, or None if there is none for this key.

        Raises
        ------
        CheckpointError
            If the file is damaged.
        """
        return read_netcdf(result_path(self._layout, diagnostic, step, probe_set, key))

    def verify(self) -> tuple[Finding, ...]:
        """Check every stored file and return what is wrong, nothing if the run is intact."""
        return verify_run(self._layout)


def open_run(
    path: str | os.PathLike[str], predict: Predict | None = None, loss: Loss | None = None
) -> Run:
    """Open a run for reading.

    Parameters
    ----------
    path
        The run directory.
    predict, loss
        Your functions, for a network or an objective that is not registered: ``predict(params,
        inputs)`` and a per-example ``loss(outputs, targets)``.

    Raises
    ------
    RunError
        If there is nothing, a file, a study (its runs are listed), or no run.
    """
    path = Path(path)
    return Run(path, read_run_file(path), predict=predict, loss=loss)


def open_runs(
    pattern: str | os.PathLike[str], predict: Predict | None = None, loss: Loss | None = None
) -> tuple[Run, ...]:
    """Open all runs of a study, or of everything that a glob pattern matches.

    Raises
    ------
    RunError
        If there is no run.
    """
    matches = [Path(pattern)]
    if not matches[0].exists():
        # Path.glob takes no absolute patterns.
        anchor = Path(matches[0].anchor)
        matches = sorted(anchor.glob(str(matches[0].relative_to(anchor))))
    paths = dict.fromkeys(run for match in matches for run in runs_below(match))
    if not paths:
        raise RunError(
            f"Found no run in {pattern}: no directory below it has a run.json. Check the path."
        )
    return tuple(open_run(path, predict, loss) for path in paths)


def find_runs(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the run directories at or below a path, sorted with numbers in numeric order.

    Raises
    ------
    RunError
        If there is none.
    """
    found = runs_below(Path(path))
    if not found:
        read_run_file(Path(path))
    return found
