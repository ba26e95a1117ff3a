"""The command `python -m agents`: train a preset's arms and seeds, or list the presets."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

import agents
from curvlab.cli.command import refuse, run_command
from curvlab.cli.console import make_console, say
from curvlab.core.errors import CurvlabError

NAME = "python -m agents"

app = tyro.extras.SubcommandApp()


def _cores() -> int:
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


@app.command
def supervised(
    preset: tyro.conf.Positional[str],
    *,
    out: Path,
    arms: tuple[str, ...] | None = None,
    seeds: tuple[int, ...] | None = None,
    jobs: int | None = None,
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> int:
    """Train a preset's arms and seeds; the same command continues what was interrupted.

    Parameters
    ----------
    preset
        Name of the experiment (see `python -m agents list`).
    out
        Study directory; the runs are OUT/ARM/seed-K.
    arms
        Which arms to train; all by default.
    seeds
        Which seeds; those of the preset by default.
    jobs
        Runs trained at the same time; as many as there are cores by default. The numbers do not
        depend on it.
    data
        Directory with the original files of the data set, so that nothing is downloaded.
    """
    from agents.console import Display
    from agents.presets import find_preset
    from agents.study import Study, check, plan

    chosen = find_preset(preset)
    if jobs is not None and jobs < 1:
        raise CurvlabError(f"--jobs {jobs} was asked for. Use 1 or more.")
    # dict: every name once, in the order given.
    configs = [
        chosen.run(arm, seed)
        for seed in dict.fromkeys(chosen.seeds if seeds is None else seeds)
        for arm in dict.fromkeys(chosen.arms if arms is None else arms)
    ]
    if not configs:
        raise CurvlabError("No arm or no seed was given. Name at least one of each, or none.")
    planned = plan(configs, out)
    check(planned)
    sources = {config.settings.data for config in configs}
    if sources != {"digits"}:
        from agents.supervised.data import fetch

        for source in sorted(sources):
            fetch(source, data)

    limit = min(len(planned), jobs or max(1, _cores() // configs[0].settings.threads))
    console, errors = make_console(), make_console(stderr=True)
    with Display(console) as display:
        study = Study(planned, limit, display, data)
        code = study.run()
    for label, reason in {**study.refused, **study.failed}.items():
        say(errors, f"{label}: {reason}")
    if code == 0:
        say(console, f"{len(planned)} complete runs in {out}")
    return code


@app.command(name="list")
def list_presets() -> int:
    """List the presets."""
    from agents.presets import PRESETS

    table = Table("preset", "arms", "seeds", "steps", "what it trains", box=None, pad_edge=False)
    for preset in PRESETS.values():
        config = next(iter(preset.arms.values()))
        table.add_row(
            preset.name,
            ", ".join(preset.arms),
            ", ".join(map(str, preset.seeds)),
            f"{config.total_steps:,}",
            preset.summary,
        )
    make_console().print(table)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    if getattr(agents, "PROJECT", None) != "curvlab":
        where = getattr(agents, "__file__", None) or "an unknown place"
        return refuse(
            NAME,
            f"The package `agents` was taken from {where}, which belongs to another distribution. "
            "Run `python -m agents` from the root of the curvlab checkout.",
        )
    return run_command(app, NAME, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(main())
