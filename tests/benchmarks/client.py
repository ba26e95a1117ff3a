"""Start workers, ask them in turn, and never fail because one of them did."""

import json
import os
import selectors
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import Environments

ROOT = Path(__file__).parents[2]
HOME = {
    "curvlab": "own",
    "arpack": "own",
    "pyhessian": "torch",
    "curvlinops": "torch",
    "eigenthings": "torch",
    "matfree": "jax",
    "laplax": "jax",
    "traceax": "jax",
}
"""Which environment a tool lives in."""

TOOLS = tuple(HOME)

BORROWED = ("arpack", "traceax")
"""Tools without products of their own: ARPACK is given curvlab's, traceax what matfree is given."""


class Worker:
    """A tool in its own process; requests that fail or take too long return the reason."""

    def __init__(
        self,
        tool: str,
        problem: Path,
        environments: Environments,
        *,
        threads: int = 2,
        timed: bool = True,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.tool, self.dead = tool, ""
        interpreter, reason = environments.interpreter(HOME[tool])
        if interpreter is None:
            self.dead = reason
            return
        log = environments.folder / "logs" / f"{tool}-{problem.stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [str(interpreter), "-m", "tests.benchmarks.worker", tool, str(problem)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("a"),
            text=True,
            cwd=ROOT,
            env={
                **environment(threads),
                **({} if timed else stored(environments.folder)),
                **(settings or {}),
            },
        )
        self.dead = self._read(300).get("error", "")

    def ask(self, do: str, *, limit: float = 600, **request: Any) -> dict[str, Any]:
        """Send a request; the reply has ``error`` or ``absent`` where there is no result."""
        if self.dead:
            return {"error": self.dead}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self.dead = f"the process ended: {error}"
            return {"error": self.dead}
        return self._read(limit)

    def _read(self, limit: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        waiting = selectors.DefaultSelector()
        waiting.register(self._process.stdout, selectors.EVENT_READ)
        if not waiting.select(limit):
            self.dead = f"took longer than {limit:.0f} s"
            self._process.kill()
            return {"error": self.dead}
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self.dead = "killed for memory" if code == -9 else f"the process ended with {code}"
            return {"error": self.dead}
        reply = json.loads(line)
        if "error" in reply and "ready" not in reply and self._process.poll() is not None:
            self.dead = reply["error"]
        return reply

    def close(self) -> None:
        """End the process."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self.dead = self.dead or "closed"

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker: so many threads, and nothing of the caller's JAX."""
    count = str(threads)
    fixed = {name: count for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # No flags and no stored programs: a first call compiles, in every run.
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    if threads == 1:
        fixed["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return {**keep, **fixed, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def stored(folder: Path) -> dict[str, str]:
    """Return the settings with which JAX keeps compiled programs: where no times are compared."""
    always = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), always: "0"}


def median(values: Iterable[float]) -> float:
    """Return the median of times."""
    return statistics.median(list(values))


def taking_turns(
    workers: dict[str, Worker],
    requests: dict[str, dict[str, Any]],
    rounds: int,
    *,
    limit: float = 600,
    patience: float = float("inf"),
) -> dict[str, dict[str, Any]]:
    """Warm every tool up, then let them take turns; return the last reply with all times.

    Turns, not blocks: a machine that slows down for a while slows all tools down. A tool whose
    first call took longer than ``patience`` seconds gets no further turn, unless it is curvlab.
    """
    results: dict[str, dict[str, Any]] = {}
    for turn in range(rounds + 1):
        for name, worker in workers.items():
            known = results.get(name, {})
            slow = name != "curvlab" and known.get("first_seconds", 0) > patience
            if "error" in known or "absent" in known or slow:
                continue
            reply = worker.ask(**requests[name], limit=limit)
            if turn == 0:
                first = reply.pop("seconds", [0.0])[0]
                results[name] = {**reply, "first_seconds": first, "seconds": []}
            elif "seconds" in reply:
                earlier = results[name]
                results[name] = {**reply, "seconds": earlier["seconds"] + reply["seconds"]}
                results[name]["first_seconds"] = earlier["first_seconds"]
            else:
                results[name].update(reply)
    return results
