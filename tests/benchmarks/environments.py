"""The environments of the other tools, made with venv and pip by package name.

They are kept in a folder (``build/benchmarks`` unless ``--environments`` or the variable
``CURVLAB_BENCH_ENVIRONMENTS`` names another) and used again. Where pip should find packages is
pip's own configuration; for a small PyTorch point it at an index with CPU builds.
"""

import json
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "torch": (
        "torch==2.13.0",
        "numpy",
        "scipy",
        "pyhessian==0.1",
        "curvlinops-for-pytorch==3.0.1",
        "hessian-eigenthings==1.0.0a5",
    ),
    "jax": ("jax", "numpy", "scipy", "matfree==0.6.3", "traceax==1.0.2", "laplax==0.0.2"),
}
"""What goes into each environment; versions of the JAX stack come from ``constraints.txt``."""

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


class Environments:
    """Interpreters by environment name, made when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self._known: dict[str, tuple[Path | None, str]] = {
            "own": (Path(sys.executable), ""),
        }

    def interpreter(self, name: str) -> tuple[Path | None, str]:
        """Return the interpreter of an environment, or ``None`` and the reason."""
        if name not in self._known:
            self._known[name] = self._make(name)
        return self._known[name]

    def _make(self, name: str) -> tuple[Path | None, str]:
        home = self.folder / name
        python, stamp = home / "bin" / "python", home / "installed.json"
        wanted = list(PACKAGES[name])
        if stamp.exists() and json.loads(stamp.read_text()) == wanted and python.exists():
            return python, ""
        print(f"Making the environment {home} (once)", flush=True)  # noqa: T201
        constraints = ["-c", str(CONSTRAINTS)] if name == "jax" else []
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "--quiet", *constraints, *wanted],
                check=True,
                capture_output=True,
                text=True,
                timeout=1800,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            return None, f"could not be installed: {said[-1][:160] if said else error}"
        stamp.write_text(json.dumps(wanted))
        return python, ""

    def versions(self) -> dict[str, dict[str, str]]:
        """Return the installed versions of what is compared, in environments that are there."""
        found = {}
        for name in ("own", *PACKAGES):
            there = name in self._known or (self.folder / name / "installed.json").exists()
            python = self.interpreter(name)[0] if there else None
            if python is None:
                continue
            listed = subprocess.run(
                [str(python), "-m", "pip", "list", "--format=json"],
                capture_output=True,
                text=True,
                check=False,
            )
            if listed.returncode == 0:
                rows = json.loads(listed.stdout)
                found[name] = {row["name"].lower(): row["version"] for row in rows}
        return found
