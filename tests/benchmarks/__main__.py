"""Measure curvlab beside the other tools: ``python -m tests.benchmarks [--quick]``.

Every question is one file of this folder. Results go into a JSON file, measurement by measurement:
a run that was killed continues where it stopped, and ``--again`` starts over. A tool that cannot be
installed or fails is a row with its reason. At the end the tables of ``docs/performance.md`` are
drawn from the JSON.
"""

import argparse
import importlib
import os
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
    "next_checkpoint",
    "memory",
    "gradient_gram",
    "scaling",
)


def main() -> None:
    """Ask all questions and draw the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small problems, few repeats")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=QUESTIONS)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--output", type=Path, help="JSON file with the results")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(os.environ.get("CURVLAB_BENCH_ENVIRONMENTS", "build/benchmarks")),
        help="folder for the environments of the other tools",
    )
    parser.add_argument("--page", type=Path, help="page to draw the tables in (none: print them)")
    options = parser.parse_args()
    name = "benchmarks-quick.json" if options.quick else "benchmarks.json"
    output = options.output or Path("build") / name
    if options.again:
        output.unlink(missing_ok=True)
    bench = Bench(Environments(options.environments), output, options.quick, tuple(options.tools))
    start = time.perf_counter()
    for question in options.only:
        try:
            importlib.import_module(f"tests.benchmarks.{question}").ask(bench)
        except Exception:  # one question must not cost the answers to the others
            traceback.print_exc()
    bench.results["machine"] = describe(bench)
    bench.results["total_seconds"] = bench.results.get("total_seconds", 0) + round(
        time.perf_counter() - start
    )
    bench.save()
    print(f"Results in {output}, {time.perf_counter() - start:.0f} s")  # noqa: T201
    report = importlib.import_module("tests.benchmarks.report")
    report.draw(bench.results, options.page)


if __name__ == "__main__":
    main()
