"""What a run offers to an analysis: its checkpoints, which of them are usable, and their keys."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax

import curvlab
from curvlab.core.errors import RunError
from curvlab.core.precision import all_finite, is_floating
from curvlab.plasticity.registry import Diagnostic, settings_of
from curvlab.runs import Checkpoint, Run
from curvlab.runs.probe_sets import ROLES

OK = "ok"
# Stands for the probe set in files of diagnostics that do not look at data.
NO_PROBE_SET = "parameters"


@dataclass(frozen=True)
class Entry:
    """One checkpoint as an analysis sees it; the parameters are not kept.

    Attributes
    ----------
    step
        Training steps done.
    status
        ``"ok"``, or why this checkpoint cannot be analysed.
    task
        Number of the task, if the run has tasks.
    probes
        Name of the probe set of each role.
    digest
        Hash of the content.
    dim
        Number of parameters.
    """

    step: int
    status: str
    task: int | None = None
    probes: Mapping[str, str] | None = None
    digest: str = ""
    dim: int = 0

    @property
    def usable(self) -> bool:
        """Whether the checkpoint can be analysed."""
        return self.status == OK


def survey(
    run: Run, steps: Sequence[int] | None = None, *, tick: Callable[[], None] | None = None
) -> tuple[Entry, ...]:
    """Read and check the checkpoints of a run.

    Parameters
    ----------
    run
        An open run.
    steps
        Which checkpoints; all by default.
    tick
        Called after each checkpoint.

    Raises
    ------
    RunError
        If the run has no checkpoint, or none at one of the steps.
    """
    stored = run.steps
    if not stored:
        raise RunError(
            f"The analysis of {run.path} was asked for; it has no checkpoint. Train it, or store "
            "checkpoints with save_checkpoint()."
        )
    for step in steps or ():
        run.require_step(step)
    entries: list[Entry] = []
    for step in stored if steps is None else sorted(set(steps)):
        entries.append(_entry(run, step))
        if tick is not None:
            tick()
    return tuple(entries)


def _entry(run: Run, step: int) -> Entry:
    try:
        checkpoint = run.checkpoint(step)
    except RunError as error:
        return Entry(step, str(error))
    leaves = [leaf for leaf in jax.tree.leaves(checkpoint.params) if is_floating(leaf)]
    status = OK
    if not all_finite(leaves):
        status = (
            f"The parameters at step {step} of {run.path} hold NaN or infinity: training diverged "
            "there. Analyse an earlier checkpoint."
        )
    return Entry(
        step,
        status,
        checkpoint.task,
        dict(checkpoint.probes),
        checkpoint.digest,
        sum(leaf.size for leaf in leaves),
    )


def probe_set_of(run: Run, entry: Entry, probe_set: str) -> str | None:
    """Return the name of a probe set given by role or name; None if this checkpoint has none.

    Raises
    ------
    RunError
        If it is neither a role nor a stored probe set.
    """
    name = (entry.probes or {}).get(probe_set, probe_set)
    if name in run.probe_sets:
        return name
    if probe_set in ROLES:
        return None
    raise RunError(
        f"{run.path} has no probe set {probe_set!r}. Use 'current', 'next', or one of "
        f"{', '.join(run.probe_sets) or 'none'}."
    )


def result_key(diagnostic: Diagnostic, entry: Entry, probe_hash: str) -> str:
    """Return the key under which a result is stored.

    It changes with settings, code version, data and checkpoint content, and with nothing else.
    """
    identity = {
        "diagnostic": diagnostic.name,
        "settings": settings_of(diagnostic),
        "version": [curvlab.__version__, diagnostic.version],
        "probe_set": probe_hash,
        "checkpoint": entry.digest,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def role_of(checkpoint: Checkpoint, name: str) -> list[str]:
    """Return the roles of a probe set for a checkpoint."""
    return [role for role, probe in checkpoint.probes.items() if probe == name]
