"""Manifests: the size and SHA-256 of every file of a stored directory, and what differs from them.

A manifest is the last file written into a directory before it is renamed into place.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvlab.core.errors import CheckpointError
from curvlab.runs.files import sha256_of, to_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a stored run.

    Attributes
    ----------
    path
        File or directory, relative to the run.
    problem
        ``"missing"``, ``"truncated"``, ``"altered"``, ``"unexpected"`` or ``"unreadable"``.
    expected, found
        What the manifest says and what is there.
    advice
        What to do.
    """

    path: str
    problem: str
    expected: str
    found: str
    advice: str

    def __str__(self) -> str:
        return (
            f"{self.path} is {self.problem}: expected {self.expected}, found {self.found}. "
            f"{self.advice}"
        )


def write_manifest(directory: Path) -> None:
    """Write the manifest of all files in ``directory``, which is still under its temporary name."""
    files = {
        path.relative_to(directory).as_posix(): {
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    data = {"files": files, "sha256_of_files": _digest(files)}
    (directory / MANIFEST).write_bytes(to_json(data))


def _digest(files: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(files)).hexdigest()


def check_manifest(directory: Path, *, root: Path, advice: str) -> tuple[Finding, ...]:
    """Compare a directory with its manifest.

    Parameters
    ----------
    directory
        Written by :func:`write_manifest`.
    root
        Paths in the findings are relative to this directory.
    advice
        What to do about a finding.

    Returns
    -------
    tuple of Finding
        Empty if every file is there with its size and hash and nothing was added.
    """
    shown = directory.relative_to(root).as_posix()

    def finding(name: str, problem: str, expected: str, found: str) -> Finding:
        return Finding(f"{shown}/{name}", problem, expected, found, advice)

    try:
        raw = (directory / MANIFEST).read_bytes()
        data = json.loads(raw)
        files: dict[str, Any] = data["files"]
        sizes = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
        if data["sha256_of_files"] != _digest(files) or raw != to_json(data):
            return (finding(MANIFEST, "altered", "a list with its own hash", "another content"),)
    except FileNotFoundError:
        return (finding(MANIFEST, "missing", "a manifest", "no such file"),)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return (finding(MANIFEST, "unreadable", "JSON of a manifest", f"{error}"),)
    found: list[Finding] = []
    for name, (size, digest) in sizes.items():
        path = directory / name
        try:
            actual = path.stat().st_size
            if actual != size:
                problem = "truncated" if actual < size else "altered"
                found.append(finding(name, problem, f"{size} bytes", f"{actual} bytes"))
            elif (other := sha256_of(path)) != digest:
                found.append(finding(name, "altered", f"SHA-256 {digest}", f"SHA-256 {other}"))
        except FileNotFoundError:
            found.append(finding(name, "missing", f"{size} bytes", "no such file"))
        except OSError as error:
            found.append(finding(name, "unreadable", f"{size} bytes", str(error.strerror)))
    known = sizes.keys() | {MANIFEST}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if not path.is_dir() and name not in known:
            found.append(finding(name, "unexpected", "no such file", "a file"))
    return tuple(found)


def require_intact(directory: Path, *, root: Path, advice: str) -> None:
    """Refuse a directory that differs from its manifest.

    Raises
    ------
    CheckpointError
        Naming the path, the first file that is wrong, what was expected and found.
    """
    findings = check_manifest(directory, root=root, advice=advice)
    if len(findings) > 0:
        more = f" ({len(findings) - 1} more files are wrong.)" if len(findings) > 1 else ""
        raise CheckpointError(f"{root}: {findings[0]}{more}")
