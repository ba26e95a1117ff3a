"""What an analysis will do, decided and priced before it starts.

A :class:`Plan` lists every measurement, which of them are stored already, and what the rest costs.
Measuring is in :mod:`curvlab.analysis.execute`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np

from curvlab.analysis.landmarks import SPECTRA_PER_RUN, Landmarks, landmarks
from curvlab.analysis.spectrum import OPERATORS, Spectrum, operator_of
from curvlab.analysis.survey import NO_PROBE_SET, Entry, probe_set_of, result_key, survey
from curvlab.core.errors import CurvlabError, RunError, UnknownNameError
from curvlab.plasticity import DIAGNOSTICS, Diagnostic
from curvlab.runs import Run
from curvlab.runs.probe_sets import ROLES

# Lanczos spends this much beside the products (orthogonalisation, host work).
LANCZOS_OVERHEAD = 1.3
# Of a forward pass with its bookkeeping, and of compiling one operator; neither is worth measuring.
SECONDS_PER_CHEAP = 0.03
SECONDS_TO_COMPILE = 5.0

DEFAULT_PROBE_SETS = ROLES
CHEAP = ("performance", "ranks", "units", "weights")


@dataclass(frozen=True)
class Measurement:
    """One diagnostic of one checkpoint on one probe set.

    Attributes
    ----------
    diagnostic
        The diagnostic with its settings.
    step
        Step of the checkpoint.
    probe_set
        Name of the probe set.
    roles
        What the probe set was asked for as: ``("current",)``, or a name.
    key
        Key of the result file.
    products
        Operator products it takes.
    stored
        Whether the result exists already.
    """

    diagnostic: Diagnostic
    step: int
    probe_set: str
    roles: tuple[str, ...]
    key: str
    products: int
    stored: bool

    def seconds(self, per_product: float) -> float:
        """Return the expected time for a measurement that is not stored."""
        if self.stored:
            return 0.0
        return SECONDS_PER_CHEAP + self.products * per_product * LANCZOS_OVERHEAD


@dataclass(frozen=True)
class Plan:
    """The measurements of an analysis in the order in which they will be made.

    Attributes
    ----------
    run
        The run.
    entries
        The checkpoints, unusable ones included.
    probe_sets
        Roles or names, as asked for.
    measurements
        What will be in the result: cheap diagnostics first, then spectra by priority.
    left_out
        Measurements that did not fit the budget.
    seconds_per_product
        Measured on the first usable checkpoint; NaN if nothing is left to do.
    budget
        Seconds that may be spent, or None.
    """

    run: Run
    entries: tuple[Entry, ...]
    probe_sets: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    left_out: tuple[Measurement, ...] = ()
    seconds_per_product: float = float("nan")
    budget: float | None = None

    @cached_property
    def to_do(self) -> tuple[Measurement, ...]:
        """Measurements that are not stored yet."""
        return tuple(item for item in self.measurements if not item.stored)

    @property
    def products(self) -> int:
        """Operator products still to be spent."""
        return sum(item.products for item in self.to_do)

    @property
    def seconds(self) -> float:
        """Expected time, compilation included."""
        per_product = 0.0 if np.isnan(self.seconds_per_product) else self.seconds_per_product
        kinds = {item.diagnostic for item in self.to_do if item.products}
        work = sum(item.seconds(per_product) for item in self.to_do)
        return work + SECONDS_TO_COMPILE * len(kinds)

    @property
    def problems(self) -> dict[int, str]:
        """Why a checkpoint cannot be analysed, by step."""
        return {entry.step: entry.status for entry in self.entries if not entry.usable}

    def within(self, seconds: float) -> "Plan":
        """Return the part of this plan that fits a time, in order of priority.

        Any time above zero leaves at least one measurement, so that repeating a command with a
        small budget always goes further.
        """
        kept: list[Measurement] = []
        left_out: list[Measurement] = []
        per_product = 0.0 if np.isnan(self.seconds_per_product) else self.seconds_per_product
        spent = 0.0
        compiled: set[Diagnostic] = set()
        for item in self.measurements:
            cost = item.seconds(per_product)
            if cost and item.products and item.diagnostic not in compiled:
                cost += SECONDS_TO_COMPILE
            # Once something does not fit, nothing of lower priority of its kind may jump the queue.
            blocked = any(other.diagnostic == item.diagnostic for other in left_out)
            if not cost or (not blocked and (spent + cost <= seconds or spent == 0 < seconds)):
                kept.append(item)
                spent += cost
                if cost and item.products:
                    compiled.add(item.diagnostic)
            else:
                left_out.append(item)
        return replace(
            self,
            measurements=tuple(kept),
            left_out=(*self.left_out, *left_out),
            budget=seconds,
        )

    def summary(self) -> str:
        """Say in one line what will be done and what it costs."""
        spectra = sum(item.products > 0 for item in self.to_do)
        usable = sum(entry.usable for entry in self.entries)
        parts = [
            f"{usable} checkpoints",
            f"{len(self.to_do)} measurements to make ({spectra} spectra, {self.products} products)",
            f"{len(self.measurements) - len(self.to_do)} stored already",
        ]
        if self.left_out:
            parts.append(f"{len(self.left_out)} do not fit the budget")
        if self.to_do:
            parts.append(f"about {self.seconds:.0f} s")
        return ", ".join(parts)


def resolve(
    diagnostics: Sequence[str | Diagnostic] | None, operator: str | None
) -> tuple[Diagnostic, ...]:
    """Return diagnostics by name with default settings, instances as they are.

    Without names: the cheap ones and the spectrum of ``operator``, the Hessian by default, which
    the Gauss-Newton matrix then accompanies.

    Raises
    ------
    UnknownNameError
        If a name is not registered.
    """
    if operator is not None and operator not in OPERATORS:
        raise UnknownNameError("operator", operator, OPERATORS)
    if diagnostics is None:
        operators = ("hessian", "gauss_newton") if operator is None else (operator,)
        spectra = [Spectrum(operator=name) for name in operators]
        return (*(DIAGNOSTICS[name]() for name in CHEAP), *spectra)
    found: list[Diagnostic] = []
    for item in diagnostics:
        if item == "spectrum":
            found.append(Spectrum(operator=operator or "hessian"))
        else:
            found.append(DIAGNOSTICS[item]() if isinstance(item, str) else item)
    return tuple(dict.fromkeys(found))


def make_plan(
    run: Run,
    diagnostics: Sequence[str | Diagnostic] | None = None,
    *,
    probe_sets: Sequence[str] = DEFAULT_PROBE_SETS,
    operator: str | None = None,
    steps: Sequence[int] | None = None,
    budget: float | None = None,
    spectra: int = SPECTRA_PER_RUN,
    tick: Callable[[], None] | None = None,
) -> Plan:
    """Decide what to measure on which checkpoint, and what it costs.

    Parameters
    ----------
    run
        An open run.
    diagnostics
        Names or instances; by default the cheap diagnostics at every checkpoint, the Hessian's
        spectrum at up to ``spectra`` (start, task ends, task switches, the rest evenly spread) and
        the Gauss-Newton matrix's at the task ends.
    probe_sets
        Roles (``"current"``, ``"next"``) or names of probe sets. Spectra are measured on the first
        one everywhere, on the others at the start and the task ends.
    operator
        Matrix of the spectrum diagnostic.
    steps
        Measure everything at these checkpoints, and nothing elsewhere.
    budget
        Seconds, planning included; measurements are chosen by priority (cheap ones, task ends,
        start, task switches, the rest evenly spread) until the expected time is used up. Stored
        results cost nothing, so repeating the command goes further.
    spectra
        Checkpoints that get a spectrum when ``steps`` is not given.
    tick
        Called for each checkpoint that has been read.

    Returns
    -------
    Plan
        Nothing has been measured yet, but for a few products to learn what one costs.

    Raises
    ------
    RunError
        If a step or a probe set does not exist, or the budget is not positive.
    UnknownNameError
        If a diagnostic or operator is unknown.
    OperatorError
        If the settings do not fit the number of parameters.
    """
    if budget is not None and not budget > 0:
        raise RunError(f"A budget of {budget} s leaves no time for anything. Give more than 0.")
    begin = time.monotonic()
    chosen = resolve(diagnostics, operator)
    entries = survey(run, steps, tick=tick)
    usable = [entry for entry in entries if entry.usable]
    for diagnostic in chosen:
        for dim in {entry.dim for entry in usable}:
            diagnostic.products(dim)  # refuses impossible settings before anything is measured
    probe_sets = tuple(dict.fromkeys(probe_sets))
    most = spectra if steps is None else None
    measurements = _measurements(run, usable, chosen, probe_sets, most)
    plan = Plan(run, entries, probe_sets, tuple(measurements))
    costly = [item for item in plan.to_do if item.products]
    if costly:
        plan = replace(plan, seconds_per_product=_time_product(run, costly))
    if budget is None:
        return plan
    return plan.within(max(budget - (time.monotonic() - begin), SECONDS_PER_CHEAP))


def _measurements(
    run: Run,
    entries: Sequence[Entry],
    diagnostics: Sequence[Diagnostic],
    probe_sets: Sequence[str],
    spectra: int | None,
) -> list[Measurement]:
    """Return all measurements, cheap ones by step, then costly ones by priority."""
    if not entries:
        return []
    by_step = {entry.step: entry for entry in entries}
    marks = landmarks(tuple(by_step), [entry.task for entry in entries])
    hashes = {name: run.probe_sets.hash(name) for name in run.probe_sets}
    stored = {(r.diagnostic, r.step, r.probe_set, r.key) for r in run.results()}

    def of(
        step: int, diagnostic: Diagnostic, probe_sets: Sequence[str] = probe_sets
    ) -> list[Measurement]:
        entry = by_step[step]
        roles: dict[str, list[str]] = {}
        if diagnostic.on_probe_set:
            for role in probe_sets:
                name = probe_set_of(run, entry, role)
                if name is not None:
                    roles.setdefault(name, []).append(role)
        else:
            roles[NO_PROBE_SET] = []
        found: list[Measurement] = []
        for name, asked in roles.items():
            key = result_key(diagnostic, entry, hashes.get(name, ""))[:12]
            done = (diagnostic.name, step, name, key) in stored
            cost = diagnostic.products(entry.dim)
            found.append(Measurement(diagnostic, step, name, tuple(asked), key, cost, done))
        return found

    cheap = [d for d in diagnostics if not d.products(entries[0].dim)]
    costly = [d for d in diagnostics if d.products(entries[0].dim)]
    wanted = {d: set(_steps(d, diagnostics, marks, spectra)) for d in costly}
    # Curvature on further probe sets is worth its price where a task has been learnt.
    both = {*marks.ends, *marks.start} if spectra is not None else set(by_step)
    return [
        *(item for step in by_step for d in cheap for item in of(step, d)),
        *(
            item
            for step in marks.priority
            for d in costly
            if step in wanted[d]
            for item in of(step, d, probe_sets if step in both else probe_sets[:1])
        ),
    ]


def _steps(
    diagnostic: Diagnostic, others: Sequence[Diagnostic], marks: Landmarks, spectra: int | None
) -> tuple[int, ...]:
    """Return where a costly diagnostic is measured; everywhere without a number of spectra."""
    if spectra is None:
        return marks.priority
    companion = (
        isinstance(diagnostic, Spectrum)
        and diagnostic.operator == "gauss_newton"
        and any(isinstance(d, Spectrum) and d.operator == "hessian" for d in others)
    )
    chosen = marks.priority[:spectra]
    return tuple(step for step in chosen if step in marks.ends) if companion else chosen


def _time_product(run: Run, items: Sequence[Measurement]) -> float:
    """Return the seconds of one product, compilation excluded.

    A problem that is refused here will be reported when it is measured; nothing is known then.
    """
    first = items[0]
    name = getattr(first.diagnostic, "operator", "hessian")
    try:
        operator = operator_of(name, run.checkpoint(first.step).problem(first.probe_set))
        vector = np.ones(operator.dim, operator.dtype) / np.sqrt(operator.dim)
        jax.block_until_ready(operator.matvec(vector))
        seconds: list[float] = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(operator.matvec(vector))
            seconds.append(time.perf_counter() - start)
    except CurvlabError:
        return float("nan")
    return float(np.median(seconds))


def parse_budget(text: str) -> float:
    """Return the seconds of a budget such as ``"10m"``, ``"90s"``, ``"1.5h"`` or ``"90"``.

    Raises
    ------
    RunError
        If it is no positive time.
    """
    units: Mapping[str, float] = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise RunError(f"The budget {text!r} is not a positive time. Write it as 90s, 10m or 1.5h.")
    return seconds
