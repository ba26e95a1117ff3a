"""``run.json``: what a run is about, written once when the run is created.

Besides the config it names network, objective and optimiser as specs, so that a checkpoint can be
analysed without the code that trained it. It holds no path and no time of day.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from curvlab.core.errors import RunError
from curvlab.core.specs import Spec
from curvlab.runs.files import to_json, write_atomic
from curvlab.runs.layout import Layout, is_run, runs_below

SCHEMA = 1
_KIND = "curvlab run"
_PACKAGES = ("curvlab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class RunInfo:
    """The content of ``run.json``.

    Attributes
    ----------
    config
        All settings of the training command, as plain data.
    network, objective, optimiser
        Registered names with settings; None for code that is passed when the run is opened.
    seed
        Seed of the run.
    versions
        Versions of Python and of the packages that wrote the run.
    """

    config: Mapping[str, Any]
    network: Spec | None = None
    objective: Spec | None = None
    optimiser: Spec | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def specs(self) -> dict[str, Spec | None]:
        """Network, objective and optimiser by these names."""
        return {
            "network": self.network,
            "objective": self.objective,
            "optimiser": self.optimiser,
        }


def plain(data: Any, what: str) -> Any:
    """Return ``data`` as it will be read back from JSON (tuples become lists).

    Raises
    ------
    RunError
        If it is not plain data: dicts with text keys, lists, texts, finite numbers, booleans, None.
    """
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"The {what} cannot be stored: expected plain data (dicts, lists, texts, finite "
            f"numbers, booleans, None), found {error}. Convert it before creating the run."
        ) from error
    return json.loads(text)


def spec_json(spec: Spec | None, what: str) -> Any:
    """Return the stored form of a spec."""
    return None if spec is None else plain(spec.to_json(), what)


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages in use."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def write_run_file(layout: Layout, info: RunInfo) -> None:
    """Write ``run.json``; from now on the directory is a run."""
    data = {
        "kind": _KIND,
        "schema": SCHEMA,
        "config": plain(dict(info.config), "config"),
        **{name: spec_json(spec, f"{name} spec") for name, spec in info.specs.items()},
        "seed": info.seed,
        "versions": dict(info.versions),
    }
    write_atomic(layout.run_file, to_json(data))


def read_run_file(path: Path) -> RunInfo:
    """Read ``run.json`` of the run at ``path``.

    Raises
    ------
    RunError
        If there is nothing, a file, a study, a directory that is no run, or an unreadable run.
    """
    require_run(path)
    layout = Layout(path)
    try:
        data = json.loads(layout.run_file.read_bytes())
        kind, schema = data["kind"], data["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Cannot open {path} as a run: {layout.run_file.name} is unreadable ({error}). Restore "
            "it from a copy."
        ) from error
    if kind != _KIND or not isinstance(schema, int) or schema > SCHEMA:
        raise RunError(
            f"Cannot open {path} as a run: expected kind {_KIND!r} with schema up to {SCHEMA}, "
            f"found {kind!r} with schema {schema!r}. Use the version of curvlab that wrote it."
        )
    try:
        network, objective, optimiser = (
            None if data[name] is None else Spec.from_json(data[name])
            for name in ("network", "objective", "optimiser")
        )
        return RunInfo(
            dict(data["config"]),
            network,
            objective,
            optimiser,
            data["seed"],
            dict(data["versions"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"Cannot open {path} as a run: an entry of {layout.run_file.name} is missing or has "
            f"another form ({error!r}). Restore it from a copy."
        ) from error


def require_run(path: Path) -> None:
    """Refuse a path that is not a run directory.

    Raises
    ------
    RunError
        Saying what is there instead; for a study it lists the runs below.
    """
    if is_run(path):
        return
    if not path.exists():
        raise RunError(
            f"Cannot open {path} as a run: there is no such directory. Check the path, or create "
            "the run first."
        )
    if not path.is_dir():
        raise RunError(f"Cannot open {path} as a run: it is a file. Pass the run's directory.")
    below = runs_below(path)
    if below:
        names = ", ".join(str(run) for run in below[:8])
        more = f" and {len(below) - 8} more" if len(below) > 8 else ""
        raise RunError(
            f"Cannot open {path} as a run: it is a study with {len(below)} runs below it. Open one "
            f"of {names}{more}, or all of them with open_runs."
        )
    raise RunError(
        f"Cannot open {path} as a run: the directory has no run.json and no runs below it. Pass "
        "the directory that training wrote, or create a run there."
    )


def require_empty(layout: Layout) -> None:
    """Refuse to turn a directory with other content into a run.

    Raises
    ------
    RunError
        If there is a file, a study, or a directory with anything in it.
    """
    root = layout.root
    if not root.exists():
        return
    if not root.is_dir():
        raise RunError(f"Cannot create a run in {root}: it is a file. Choose another path.")
    below = runs_below(root)
    if below:
        raise RunError(
            f"Cannot create a run in {root}: it is a study with {len(below)} runs below it, "
            f"{below[0]} among them. Choose a new directory."
        )
    others = [entry.name for entry in root.iterdir() if not entry.name.startswith(".")]
    if others:
        raise RunError(
            f"Cannot create a run in {root}: it holds other files ({', '.join(sorted(others)[:5])}"
            "). Choose a new or empty directory."
        )


def require_same_config(
    layout: Layout, stored: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    """Refuse to continue a run with another config.

    Raises
    ------
    RunError
        Naming the settings that differ.
    """
    differing = sorted(
        key
        for key in stored.keys() | asked.keys()
        if key not in stored or key not in asked or stored[key] != asked[key]
    )
    if differing:
        details = "; ".join(
            f"{key}: asked {asked.get(key, 'nothing')!r}, found {stored.get(key, 'nothing')!r}"
            for key in differing[:5]
        )
        raise RunError(
            f"Cannot continue {layout.root} with another config ({details}). Use the same "
            "settings, or another directory."
        )
