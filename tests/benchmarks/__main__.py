"""Measure curvlab beside the other tools: ``python -m tests.benchmarks [--quick]``.

Every question is one file of this folder. Results go into a JSON file, one by one: a run that was
killed continues where it stopped; a complete one, or ``--again``, starts over. A tool that cannot
be installed or fails is a row with its reason. ``--publish`` draws the tables of
``docs/performance.md`` from the JSON and keeps a copy of it beside them.
"""

import argparse
import importlib
import os
import shutil
import time
import traceback
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import TOOLS
from tests.benchmarks.environments import Environments
from tests.benchmarks.machine import describe

QUESTIONS = (
    "same_object",
    "product_cost",
    "lanczos_steps",
    "density_time",
    "top_eigenvalues",
    "equal_products",
    "coverage",
    "next_checkpoint",
    "memory",
    "gradient_gram",
    "scaling",
)


PAGE, COPY = Path("docs/performance.md"), Path("docs/benchmarks.json")


def main() -> None:
    """Ask all questions and draw the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small problems, few repeats")
    parser.add_argument("--again", action="store_true", help="forget earlier answers")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--tables", action="store_true", help="measure nothing, draw the tables")
    parser.add_argument("--publish", action="store_true", help=f"write {PAGE} and {COPY}")
    parser.add_argument("--output", type=Path, help="JSON file with the results")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(os.environ.get("CURVLAB_BENCH_ENVIRONMENTS", "build/benchmarks")),
        help="folder for the environments of the other tools",
    )
    options = parser.parse_args()
    name = "benchmarks-quick.json" if options.quick else "benchmarks.json"
    output = options.output or Path("build") / name
    bench = Bench(Environments(options.environments), output, options.quick, tuple(options.tools))
    if not options.tables:
        complete = bench.results.pop("complete", False)
        if options.again or complete:
            bench.forget(options.only)
        _ask(bench, options.only)
    report = importlib.import_module("tests.benchmarks.report")
    report.draw(bench.results, PAGE if options.publish else None)
    if options.publish:
        shutil.copyfile(output, COPY)


def _ask(bench: Bench, questions: list[str]) -> None:
    start, failed = time.perf_counter(), False
    for question in questions:
        try:
            importlib.import_module(f"tests.benchmarks.{question}").ask(bench)
        except Exception:  # one question must not cost the answers to the others
            traceback.print_exc()
            failed = True
    bench.results["machine"] = describe(bench)
    bench.results["complete"] = not failed and list(QUESTIONS) == questions
    bench.save()
    print(f"Results in {bench.output}, {time.perf_counter() - start:.0f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
