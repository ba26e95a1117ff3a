"""``curvlab analyze``: plan all runs, say what it costs, measure, report what could not be."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from curvlab.analysis import Plan, Progress, Spectrum, collect, execute, make_plan, parse_budget
from curvlab.analysis.plan import resolve
from curvlab.cli.command import INCOMPLETE
from curvlab.cli.console import Meter, make_console, noticing_interrupts, say
from curvlab.cli.targets import open_targets
from curvlab.core.errors import RunError
from curvlab.core.texts import duration
from curvlab.plasticity import Diagnostic
from curvlab.runs import Run


def analyze_runs(
    paths: Sequence[Path],
    *,
    diagnostics: Sequence[str] | None,
    operator: str | None,
    steps: Sequence[int] | None,
    probe_sets: Sequence[str],
    budget: str | None,
    spectra: int,
    order: int,
    vectors: int,
) -> int:
    """Analyse every run below the paths; 3 if a checkpoint could not be analysed."""
    console, errors = make_console(), make_console(stderr=True)
    begin = time.monotonic()
    seconds = None if budget is None else parse_budget(budget)
    if spectra < 1:
        raise RunError(f"--spectra {spectra} was asked for. Use 1 or more.")
    chosen = [
        replace(found, order=order, vectors=vectors) if isinstance(found, Spectrum) else found
        for found in resolve(diagnostics, operator)
    ]
    plans: list[Plan] = []
    for run in open_targets(paths):
        plan = _plan(console, run, chosen, probe_sets, steps, spectra)
        say(console, f"{run.path}: {plan.summary()}")
        plans.append(plan)
    if len(plans) > 1:
        total = sum(plan.seconds for plan in plans)
        products = sum(plan.products for plan in plans)
        say(console, f"In all {products} products, about {duration(total)}")
    bad = made = 0
    for number, plan in enumerate(plans):
        if seconds is not None:
            left = begin + seconds - time.monotonic()
            # Planning alone may use up a small budget; the first run makes something all the same.
            left = max(left, 0.0 if made else 1.0)
            plan = plan.within(fair_share([other.seconds for other in plans[number:]], left))
        failures, measured = _carry_out(console, errors, plan)
        bad += failures
        made += measured
    say(console, f"Finished in {duration(time.monotonic() - begin)}")
    return INCOMPLETE if bad else 0


def fair_share(needs: Sequence[float], seconds: float) -> float:
    """Return how much of the time the first of several runs may take.

    Runs that need little get it, and the others share the rest evenly. Asked anew before each run,
    so that what one leaves over goes to the next ones.
    """
    left = seconds
    for number, need in enumerate(sorted(needs)):
        even = left / (len(needs) - number)
        if need >= even:
            return even
        left -= need
    return needs[0] + left


def _plan(
    console: Console,
    run: Run,
    diagnostics: Sequence[Diagnostic],
    probe_sets: Sequence[str],
    steps: Sequence[int] | None,
    spectra: int,
) -> Plan:
    total = len(run.steps if steps is None else set(steps))
    with Meter(console, f"{run.path}: reading checkpoints", total) as meter:
        read = 0

        def tick() -> None:
            nonlocal read
            read += 1
            meter.advance(read, "")

        return make_plan(
            run, diagnostics, probe_sets=probe_sets, steps=steps, spectra=spectra, tick=tick
        )


def _carry_out(console: Console, errors: Console, plan: Plan) -> tuple[int, int]:
    """Measure; return how many checkpoints could not be, and how many measurements were made."""
    reported: set[int] = set()

    def fail(step: int, reason: str) -> None:
        if step not in reported:
            reported.add(step)
            say(errors, f"curvlab: {plan.run.path}, step {step} left out: {reason}")

    for step, reason in plan.problems.items():
        fail(step, reason)
    with Meter(console, str(plan.run.path), 1.0) as meter, noticing_interrupts() as interrupted:

        def show(progress: Progress) -> None:
            if interrupted.is_set():
                raise KeyboardInterrupt
            item = progress.measurement
            if item is None:
                return
            if progress.failure:
                fail(item.step, progress.failure)
            meter.advance(progress.share, f"{item.diagnostic.name} at step {item.step}")

        outcome = execute(plan, show)
    collect(plan, outcome)
    made = len(outcome.measured)
    text = f"{plan.run.path}: {made} measurements made in {duration(outcome.seconds)}"
    if outcome.skipped or plan.left_out:
        text += (
            f", {len(outcome.skipped) + len(plan.left_out)} did not fit the budget "
            "(the same command goes on with them)"
        )
    say(console, f"{text}; results in {plan.run.path / 'results'}")
    return len(outcome.failures), made
