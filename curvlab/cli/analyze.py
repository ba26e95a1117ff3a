"""``curvlab analyze``: plan all runs, say what it costs, measure, report what could not be."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from curvlab.analysis import Plan, Progress, Spectrum, collect, execute, make_plan, parse_budget
from curvlab.analysis.plan import SECONDS_PER_CHEAP, resolve
from curvlab.cli.command import INCOMPLETE
from curvlab.cli.console import Meter, duration, make_console, noticing_interrupts, say
from curvlab.cli.targets import open_targets
from curvlab.core.errors import RunError
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
    seconds = None if budget is None else parse_budget(budget)
    if spectra < 1:
        raise RunError(f"--spectra {spectra} was asked for. Use 1 or more.")
    chosen = [
        replace(found, order=order, vectors=vectors) if isinstance(found, Spectrum) else found
        for found in resolve(diagnostics, operator)
    ]
    runs = open_targets(paths)
    begin = time.monotonic()
    plans: list[Plan] = []
    for run in runs:
        plan = _plan(console, run, chosen, probe_sets, steps, spectra, seconds, len(runs))
        say(console, f"{run.path}: {plan.summary()}")
        plans.append(plan)
    if len(plans) > 1:
        total = sum(plan.seconds for plan in plans)
        products = sum(plan.products for plan in plans)
        say(console, f"In all {products} products, about {duration(total)}")
    bad = 0
    for plan in plans:
        bad += _carry_out(console, errors, plan)
    say(console, f"Finished in {duration(time.monotonic() - begin)}")
    return INCOMPLETE if bad else 0


def _plan(
    console: Console,
    run: Run,
    diagnostics: Sequence[Diagnostic],
    probe_sets: Sequence[str],
    steps: Sequence[int] | None,
    spectra: int,
    budget: float | None,
    runs: int,
) -> Plan:
    total = len(run.steps if steps is None else set(steps))
    with Meter(console, f"{run.path}: reading checkpoints", total) as meter:
        read = 0

        def tick() -> None:
            nonlocal read
            read += 1
            meter.advance(read, "")

        return make_plan(
            run,
            diagnostics,
            probe_sets=probe_sets,
            steps=steps,
            spectra=spectra,
            budget=None if budget is None else budget / runs,
            tick=tick,
        )


def _carry_out(console: Console, errors: Console, plan: Plan) -> int:
    """Measure, and return how many checkpoints could not be."""
    per_product = plan.seconds_per_product if plan.seconds_per_product > 0 else 0.0
    reported: set[int] = set()

    def fail(step: int, reason: str) -> None:
        if step not in reported:
            reported.add(step)
            say(errors, f"curvlab: {plan.run.path}, step {step} left out: {reason}")

    for step, reason in plan.problems.items():
        fail(step, reason)
    # Work is counted in seconds, so that cheap and costly measurements share one bar.
    total = sum(item.seconds(per_product) for item in plan.to_do)
    with (
        Meter(console, str(plan.run.path), total or 1.0) as meter,
        noticing_interrupts() as interrupted,
    ):

        def show(progress: Progress) -> None:
            if interrupted.is_set():
                raise KeyboardInterrupt
            item = progress.measurement
            if item is None:
                return
            if progress.failure:
                fail(item.step, progress.failure)
            done = progress.products * per_product * 1.3 + progress.finished * SECONDS_PER_CHEAP
            meter.advance(min(done, total), f"{item.diagnostic.name} at step {item.step}")

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
    return len(outcome.failures)
