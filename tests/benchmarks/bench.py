"""What a run of the benchmarks shares: settings, environments, and results that survive a kill."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import problems
from tests.benchmarks.client import BORROWED, TOOLS, Worker
from tests.benchmarks.environments import Environments


@dataclass
class Bench:
    """One run. Every measurement has a key; what is in the file already is not measured again.

    Attributes
    ----------
    environments
        Where the other tools live.
    output
        The JSON file with all results.
    quick
        Small problems, few repeats.
    tools
        The tools to ask.
    """

    environments: Environments
    output: Path
    quick: bool
    tools: tuple[str, ...] = TOOLS
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.output.exists():
            self.results = json.loads(self.output.read_text())
        self.results.setdefault("seconds", {})

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return what is known under a key, or measure and store it."""
        where = self.results
        *parents, last = key.split("/")
        for name in parents:
            where = where.setdefault(name, {})
        if last not in where:
            print(f"{key} ...", end=" ", flush=True)  # noqa: T201
            start = time.perf_counter()
            value = measure()
            seconds = time.perf_counter() - start
            where[last] = value
            self.results["seconds"][key] = round(seconds, 1)
            print(f"{seconds:.1f} s", flush=True)  # noqa: T201
            self.save()
        return where[last]

    def forget(self, questions: list[str]) -> None:
        """Drop the answers to some questions."""
        for question in questions:
            self.results.pop(question, None)
        seconds = self.results["seconds"]
        gone = [key for key in seconds if key.split("/")[0] in questions]
        for key in gone:
            del seconds[key]

    def save(self) -> None:
        """Write all results, replacing the file at once."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        beside = self.output.with_suffix(".partial")
        beside.write_text(json.dumps(self.results, indent=1) + "\n")
        beside.replace(self.output)

    def speed_problem(self, name: str, examples: int | None = None, seed: int = 0) -> Path:
        """Return the file of a synthetic problem."""
        label = name if examples is None else f"{name}-{examples}"
        path = self.environments.folder / "problems" / f"{label}-{seed}.npz"
        return self.problem(path, lambda: problems.speed_problem(name, examples, seed))

    def problem(self, path: Path, make: Callable[[], problems.Arrays]) -> Path:
        """Return the file of a problem, written if it is not there."""
        return path if path.exists() else problems.save(make(), path)

    def workers(
        self,
        path: Path,
        tools: tuple[str, ...] | None = None,
        settings: dict[str, str] | None = None,
    ) -> dict[str, Worker]:
        """Start a process for each tool on a problem, with these environment variables too."""
        chosen = self.tools if tools is None else [t for t in tools if t in self.tools]
        return {name: Worker(name, path, self.environments, settings=settings) for name in chosen}

    @property
    def own_products(self) -> tuple[str, ...]:
        """The tools that have products of their own."""
        return tuple(tool for tool in self.tools if tool not in BORROWED)

    @property
    def speed_problems(self) -> tuple[str, ...]:
        """Problems on which cost is measured."""
        return ("small-mlp",) if self.quick else ("mlp", "nature-cnn", "resnet18")
