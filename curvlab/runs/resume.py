"""The newest full training state of a run, from which training goes on.

Directories are called ``STEP-GENERATION``, and the highest generation counts: the new state is in
place before the previous one goes, also when both belong to the same step.
"""

from pathlib import Path

from jaxtyping import PyTree

from curvlab.runs.checkpoints import read_spec, write_step
from curvlab.runs.files import remove_directory, visible
from curvlab.runs.layout import Layout, parse_step, step_name
from curvlab.runs.orbax_io import load_tree


def save_state(layout: Layout, step: int, state: PyTree) -> None:
    """Store a state, then delete the previous one."""
    before = _states(layout)
    generation = 1 + max((found for _, found, _ in before), default=0)
    write_step(layout.resume / f"{step_name(step)}-{generation}", step, {"state": state}, {})
    for _, _, old in before:
        remove_directory(old)


def restore_state(layout: Layout, template: PyTree) -> tuple[int, PyTree] | None:
    """Return step and state of the newest one, verified; None if there is none."""
    states = _states(layout)
    if not states:
        return None
    step, _, directory = states[-1]
    read_spec(directory, layout.root)
    return step, load_tree(directory / "state", template)


def discard_states_after(layout: Layout, step: int) -> None:
    """Delete states beyond ``step``."""
    for found, _, directory in _states(layout):
        if found > step:
            remove_directory(directory)


def _states(layout: Layout) -> list[tuple[int, int, Path]]:
    """Return (step, generation, directory), the newest last."""
    found: list[tuple[int, int, Path]] = []
    for entry in visible(layout.resume):
        name, _, generation = entry.name.partition("-")
        step = parse_step(name)
        if step is not None and generation.isdigit():
            found.append((step, int(generation), entry))
    return sorted(found, key=lambda state: state[1])
