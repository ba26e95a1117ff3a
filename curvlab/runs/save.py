"""Saving checkpoints from a training loop that knows nothing of :class:`RunWriter`."""

import os
from pathlib import Path

from jaxtyping import PyTree

from curvlab.runs.layout import is_run
from curvlab.runs.writer import Probes, RunWriter


def save_checkpoint(
    run: str | os.PathLike[str] | RunWriter,
    step: int,
    params: PyTree,
    opt_state: PyTree | None = None,
    probes: Probes | None = None,
    **extra: PyTree,
) -> Path:
    """Store a checkpoint from a training loop of your own and return its directory.

    Parameters
    ----------
    run
        A writer, or the path of a run, which is created if need be.
    step
        Training steps done.
    params
        Parameters, any pytree.
    opt_state
        State of the optimiser.
    probes
        Probe set of each role: ``{"current": (inputs, targets)}`` or names of stored ones.
    extra
        More pytrees, each an item of its own. ``state`` is the network's (running statistics,
        noise), which analysis passes to ``predict(params, inputs, state)``.

    Raises
    ------
    RunError
        If the path holds something else, another writer is at work, or the step exists.
    StorageError
        If the file system refuses.
    """
    if isinstance(run, RunWriter):
        return run.save_checkpoint(step, params, opt_state, probes=probes, **extra)
    path = Path(run)
    with RunWriter.open(path) if is_run(path) else RunWriter.create(path, config={}) as writer:
        return writer.save_checkpoint(step, params, opt_state, probes=probes, **extra)
