"""Writing a run: :class:`RunWriter`, for training loops.

One writer at a time: it holds an advisory lock until it is closed or its process ends. Results of
an analysis are not written here, since they may appear while training goes on.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import PyTree

from curvlab.core.errors import RunError
from curvlab.core.specs import Spec
from curvlab.runs.checkpoints import stored_steps, write_step
from curvlab.runs.files import Lock, remove_directory, remove_stale, storing
from curvlab.runs.layout import Layout, check_name, check_step, is_run
from curvlab.runs.metrics import append_row, cut_partial_line, sync_metrics, truncate_after
from curvlab.runs.probe_sets import ProbeSets, write_probe_set
from curvlab.runs.results import discard_results_after
from curvlab.runs.resume import discard_states_after, restore_state, save_state
from curvlab.runs.run_file import (
    RunInfo,
    current_versions,
    plain,
    read_run_file,
    require_empty,
    require_run,
    require_same_config,
    spec_json,
    write_run_file,
)

Probes = Mapping[str, str | tuple[PyTree, PyTree]]


class RunWriter:
    """The one writer of a run; a context manager, and safe to kill at any moment.

    Use :meth:`create`, :meth:`open` or :meth:`create_or_open`. Save a checkpoint before the resume
    state of the same step, and after :meth:`restore_resume` call :meth:`discard_after`: then a
    killed and restarted run stores what an uninterrupted one stores.

    Attributes
    ----------
    path
        The run directory.
    info
        Content of ``run.json``.
    """

    def __init__(self, layout: Layout, info: RunInfo, lock: Lock):
        self.path = layout.root
        self.info = info
        self._layout = layout
        self._lock = lock
        remove_stale(layout.root)
        for directory in (layout.checkpoints, layout.resume, layout.probe_sets, layout.arrays):
            with storing(directory):
                directory.mkdir(exist_ok=True)
            remove_stale(directory)
        cut_partial_line(layout.metrics)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        network: Spec | None = None,
        objective: Spec | None = None,
        optimiser: Spec | None = None,
        seed: int | None = None,
    ) -> "RunWriter":
        """Create a run in a new or empty directory and open it for writing.

        Parameters
        ----------
        path
            The run directory; parents are created.
        config
            All settings, as plain data.
        network, objective, optimiser
            Registered names with settings; None for code of your own.
        seed
            Seed of the run.

        Raises
        ------
        RunError
            If the directory holds anything else, or another writer is at work.
        StorageError
            If the file system refuses.
        """
        layout = Layout(Path(path))
        info = RunInfo(
            plain(dict(config), "config"), network, objective, optimiser, seed, current_versions()
        )
        for name, spec in info.specs.items():
            spec_json(spec, f"{name} spec")
        if is_run(layout.root):
            raise RunError(
                f"Cannot create a run in {layout.root}: there is one already. Open it to continue "
                "(RunWriter.open), or choose another directory."
            )
        require_empty(layout)
        with storing(layout.root):
            layout.root.mkdir(parents=True, exist_ok=True)
        lock = Lock(layout.lock)
        try:
            if is_run(layout.root):  # Somebody else was faster.
                raise RunError(f"Cannot create a run in {layout.root}: it has just been created.")
            write_run_file(layout, info)
            return cls(layout, info, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None
    ) -> "RunWriter":
        """Open an existing run for writing.

        Parameters
        ----------
        path
            The run directory.
        config
            If given, it must equal the stored config.

        Raises
        ------
        RunError
            If there is no run, it has another config, or another writer is at work.
        """
        layout = Layout(Path(path))
        require_run(layout.root)
        info = read_run_file(layout.root)
        if config is not None:
            require_same_config(layout, info.config, plain(dict(config), "config"))
        lock = Lock(layout.lock)
        try:
            return cls(layout, info, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def create_or_open(
        cls,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        network: Spec | None = None,
        objective: Spec | None = None,
        optimiser: Spec | None = None,
        seed: int | None = None,
    ) -> "RunWriter":
        """Open the run if it exists (with the same config), else create it."""
        if is_run(Path(path)):
            return cls.open(path, config=config)
        return cls.create(
            path,
            config=config,
            network=network,
            objective=objective,
            optimiser=optimiser,
            seed=seed,
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The stored config."""
        return self.info.config

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the stored checkpoints, ascending."""
        return stored_steps(self._layout.checkpoints)

    def write_probe_set(self, name: str, inputs: PyTree, targets: PyTree) -> str:
        """Store a probe set and return its content hash; storing the same again changes nothing.

        Raises
        ------
        RunError
            If the batch is empty or uneven, or another one has this name.
        StorageError
            If the file system refuses.
        """
        self._require_open()
        write_probe_set(self._layout, check_name("probe set", name), inputs, targets)
        return ProbeSets(self._layout).hash(name)

    def save_checkpoint(
        self,
        step: int,
        params: PyTree,
        opt_state: PyTree | None = None,
        *,
        probes: Probes | None = None,
        task: int | None = None,
        **extra: PyTree,
    ) -> Path:
        """Store a checkpoint and return its directory.

        Parameters
        ----------
        step
            Training steps done.
        params
            Parameters, any pytree; NaN and infinity are stored as they are.
        opt_state
            State of the optimiser.
        probes
            Probe set of each role: a stored name, or ``(inputs, targets)``.
        task
            Number of the task.
        extra
            More pytrees, each an item of its own. ``state`` is the network's (running statistics,
            noise), which analysis passes to ``predict(params, inputs, state)``.

        Raises
        ------
        RunError
            If this step is stored already, or a probe set or a name is not usable.
        StorageError
            If the file system refuses; nothing of this checkpoint is left then.
        """
        self._require_open()
        target = self._layout.checkpoint(check_step(step))
        if target.exists():
            raise RunError(
                f"Asked to store step {step} in {self.path}, found it stored already. Use another "
                f"step, or drop it and all later ones first (discard_after({step - 1}))."
            )
        trees = {"params": params}
        if opt_state is not None:
            trees["opt_state"] = opt_state
        for name, tree in extra.items():
            trees[check_name("checkpoint item", name)] = tree
        about = {
            **{name: spec_json(spec, name) for name, spec in self.info.specs.items()},
            "task": None if task is None else int(task),
            "probes": {role: self._probe(value) for role, value in (probes or {}).items()},
        }
        write_step(target, int(step), trees, about)
        return target

    def save_resume(self, step: int, state: PyTree) -> None:
        """Store the full training state; the previous one goes when the new one is in place.

        Parameters
        ----------
        step
            Training steps done.
        state
            Any pytree: typed keys, optax states, counters.

        Raises
        ------
        StorageError
            If the file system refuses; the previous state is then untouched.
        """
        self._require_open()
        sync_metrics(self._layout.metrics)
        save_state(self._layout, check_step(step), state)

    def restore_resume(self, template: PyTree) -> tuple[int, PyTree] | None:
        """Return step and state of the newest resume state, or None if there is none.

        Parameters
        ----------
        template
            A state of the same structure, such as a freshly initialised one.

        Raises
        ------
        CheckpointError
            If a file is missing or altered, or the state does not fit the template.
        """
        return restore_state(self._layout, template)

    def log(self, step: int, **scalars: Any) -> None:
        """Append a row to the training log.

        Raises
        ------
        RunError
            If a value is not a real number.
        StorageError
            If the file system refuses; earlier rows are untouched.
        """
        self._require_open()
        append_row(self._layout.metrics, check_step(step), scalars)

    def discard_after(self, step: int) -> None:
        """Drop metrics, results, checkpoints and resume states beyond ``step``.

        With -1 everything goes, for a run that was killed before its first resume state.

        Raises
        ------
        StorageError
            If the file system refuses.
        """
        self._require_open()
        discard_states_after(self._layout, step)
        discard_results_after(self._layout, step)
        for found in self.steps:
            if found > step:
                remove_directory(self._layout.checkpoint(found))
        truncate_after(self._layout.metrics, step)

    def close(self) -> None:
        """Sync the log and let the next writer in; closing twice is harmless."""
        try:
            sync_metrics(self._layout.metrics)
        finally:
            self._lock.release()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if not self._lock.held:
            raise RunError(f"The writer of {self.path} is closed. Open the run again.")

    def _probe(self, value: str | tuple[PyTree, PyTree]) -> dict[str, str]:
        name = value if isinstance(value, str) else write_probe_set(self._layout, None, *value)
        return {"name": name, "hash": ProbeSets(self._layout).hash(name)}
