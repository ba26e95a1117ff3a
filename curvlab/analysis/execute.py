"""Make the measurements of a plan, one result file each.

A file is written the moment its measurement is done, so a killed analysis loses the one under way;
the same call goes on from there. A checkpoint that cannot be measured does not stop the others.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import curvlab
from curvlab.analysis.plan import Measurement, Plan
from curvlab.analysis.survey import role_of
from curvlab.core.errors import OperatorError, ProblemError, RunError
from curvlab.core.precision import is_floating
from curvlab.curvature import Problem
from curvlab.plasticity.registry import settings_of
from curvlab.runs import Checkpoint


@dataclass(frozen=True)
class Progress:
    """How far an analysis is.

    Attributes
    ----------
    measurement
        The one that has just ended; None before the first.
    finished, total
        Measurements.
    share
        Of the expected time, from 0 to 1: a spectrum takes as long as hundreds of cheap ones.
    failure
        Why the measurement failed, else ``""``.
    """

    measurement: Measurement | None
    finished: int
    total: int
    share: float
    failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a plan.

    Attributes
    ----------
    failures
        Reason by step, for checkpoints that could not be analysed.
    skipped
        Measurements given up because the budget was used up earlier than expected.
    seconds
        Time spent.
    measured
        The new results.
    """

    failures: dict[int, str]
    skipped: tuple[Measurement, ...]
    seconds: float
    measured: dict[Measurement, xr.Dataset]


class _Remembering(Checkpoint):
    """A checkpoint that builds the problem of each probe set once for all its diagnostics."""

    @cached_property
    def _problems(self) -> dict[str, Problem]:
        return {}

    def problem(self, probe_set: str = "current") -> Problem:
        if probe_set not in self._problems:
            self._problems[probe_set] = super().problem(probe_set)
        return self._problems[probe_set]


def _remembering(checkpoint: Checkpoint) -> Checkpoint:
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    return _Remembering(**values)


def execute(plan: Plan, progress: Callable[[Progress], None] | None = None) -> Outcome:
    """Make and store all measurements of a plan that are not stored yet.

    Parameters
    ----------
    plan
        From :func:`curvlab.analysis.make_plan`.
    progress
        Called before the first and after every measurement.

    Raises
    ------
    StorageError
        If a result cannot be written; those written before are intact.
    """
    report = progress or (lambda _: None)
    begin = time.perf_counter()
    failures = dict(plan.problems)
    skipped: list[Measurement] = []
    measured: dict[Measurement, xr.Dataset] = {}
    per_product = 0.0 if np.isnan(plan.seconds_per_product) else plan.seconds_per_product
    expected = sum(item.seconds(per_product) for item in plan.to_do)
    done = 0.0
    finished = 0
    report(Progress(None, 0, len(plan.to_do), 0.0))
    for step, items in groupby(plan.to_do, key=lambda item: item.step):
        checkpoint: Checkpoint | None = None
        for item in items:
            late = plan.budget is not None and time.perf_counter() - begin > plan.budget
            if late and item.products and finished:
                skipped.append(item)
                continue
            failure = ""
            try:
                # One checkpoint at a time: its parameters are let go with the group.
                checkpoint = checkpoint or _remembering(plan.run.checkpoint(step))
                measured[item] = measure(plan, item, checkpoint)
            except (RunError, ProblemError, OperatorError) as error:
                failure = failures[step] = str(error)
            finished += 1
            done += item.seconds(per_product)
            report(Progress(item, finished, len(plan.to_do), done / expected, failure))
    return Outcome(failures, tuple(skipped), time.perf_counter() - begin, measured)


def measure(plan: Plan, item: Measurement, checkpoint: Checkpoint) -> xr.Dataset:
    """Make and store one measurement.

    Raises
    ------
    CurvlabError
        If the checkpoint cannot be measured or the result cannot be stored.
    """
    start = time.perf_counter()
    dataset = item.diagnostic(checkpoint, item.probe_set)
    hashed = plan.run.probe_sets.hash(item.probe_set) if item.diagnostic.on_probe_set else ""
    dataset = dataset.assign_attrs(
        diagnostic=item.diagnostic.name,
        diagnostic_version=item.diagnostic.version,
        curvlab_version=curvlab.__version__,
        settings=settings_of(item.diagnostic),
        step=item.step,
        task=-1 if checkpoint.task is None else checkpoint.task,
        probe_set=item.probe_set,
        probe_set_hash=hashed,
        roles=role_of(checkpoint, item.probe_set),
        checkpoint=checkpoint.digest,
        products=item.products,
        seconds=time.perf_counter() - start,
        **_circumstances(checkpoint),
    )
    plan.run.write_result(item.diagnostic.name, item.step, item.probe_set, item.key, dataset)
    return dataset


def _circumstances(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what the last digits of a number depend on."""
    leaves = [leaf for leaf in jax.tree.leaves(checkpoint.params) if is_floating(leaf)]
    return {
        "dtype": str(jnp.result_type(*leaves)) if leaves else "none",
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
    }
