"""Checking a whole run against its manifests and hashes, for ``curvlab inspect``."""

from collections.abc import Callable

from curvlab.core.errors import RunError
from curvlab.runs.checkpoints import ADVICE, SPEC_FILE, read_spec
from curvlab.runs.files import visible
from curvlab.runs.layout import Layout, parse_step
from curvlab.runs.manifests import Finding, check_manifest
from curvlab.runs.metrics import read_rows
from curvlab.runs.probe_sets import ProbeSets, check_probe_set, probe_set_names
from curvlab.runs.results import list_results, read_netcdf


def verify_run(layout: Layout) -> tuple[Finding, ...]:
    """Check checkpoints, resume state, probe sets, metrics and results of a run.

    Returns
    -------
    tuple of Finding
        Everything that is wrong, in the order of the list above; empty for an intact run.
    """
    findings: list[Finding] = []
    for entry in visible(layout.checkpoints):
        shown = entry.relative_to(layout.root).as_posix()
        if not entry.is_dir() or parse_step(entry.name) is None:
            findings.append(
                Finding(shown, "unexpected", "a step's directory", "another entry", "Move it away.")
            )
            continue
        wrong = check_manifest(entry, root=layout.root, advice=ADVICE)
        findings.extend(wrong or _check_probes(layout, entry.name))
    for entry in visible(layout.resume):
        findings.extend(check_manifest(entry, root=layout.root, advice=ADVICE))
    for name in probe_set_names(layout):
        findings.extend(check_probe_set(layout, name))
    findings.extend(_attempt(layout, "metrics.jsonl", lambda: read_rows(layout.metrics)))
    for result in list_results(layout):
        shown = result.path.relative_to(layout.root).as_posix()
        findings.extend(_attempt(layout, shown, lambda path=result.path: read_netcdf(path)))
    return tuple(findings)


def _attempt(layout: Layout, shown: str, read: Callable[[], object]) -> list[Finding]:
    try:
        read()
    except RunError as error:
        return [Finding(shown, "unreadable", "a readable file", str(error), "See above.")]
    return []


def _check_probes(layout: Layout, name: str) -> list[Finding]:
    """Check that the probe sets a checkpoint names are the ones it was written with."""
    directory = layout.checkpoints / name
    shown = (directory / SPEC_FILE).relative_to(layout.root).as_posix()
    try:
        spec, _ = read_spec(directory, layout.root)
    except RunError as error:
        return [Finding(shown, "unreadable", "a description", str(error), ADVICE)]
    findings: list[Finding] = []
    sets = ProbeSets(layout)
    for role, probe in spec["probes"].items():
        wanted, expected = probe["name"], probe["hash"]
        try:
            found = sets.hash(wanted)
        except RunError as error:
            found = str(error)
        if found != expected:
            what = f"probe set {wanted!r} ({role}) with hash {expected}"
            findings.append(Finding(shown, "altered", what, found, ADVICE))
    return findings
