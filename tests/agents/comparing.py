"""Equality of what runs left on disk, bit for bit."""

from pathlib import Path

import jax
import numpy as np

from curvlab.runs import Run, open_run


def assert_same_bits(tree: object, other: object, what: str = "") -> None:
    """Compare two pytrees: structure, dtypes, and every bit (so that NaN equals NaN)."""
    assert jax.tree.structure(tree) == jax.tree.structure(other), what
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(other), strict=True
    ):
        if not hasattr(one, "dtype"):
            assert one == two, what
            continue
        if jax.numpy.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        one, two = np.asarray(one), np.asarray(two)
        where = f"{what} {jax.tree_util.keystr(path)}"
        assert (one.shape, one.dtype) == (two.shape, two.dtype), where
        assert one.tobytes() == two.tobytes(), where


def assert_same_runs(path: Path, other: Path) -> None:
    """Compare checkpoints, metrics and probe sets of two runs."""
    one, two = open_run(path), open_run(other)
    assert one.steps == two.steps
    for step in one.steps:
        assert_same_checkpoints(one, two, step)
    assert (path / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert list(one.probe_sets) == list(two.probe_sets)
    for name in one.probe_sets:
        assert one.probe_sets.hash(name) == two.probe_sets.hash(name)


def assert_same_checkpoints(one: Run, two: Run, step: int) -> None:
    """Compare every item of one checkpoint."""
    first, second = one.checkpoint(step), two.checkpoint(step)
    assert (first.task, first.probes) == (second.task, second.probes)
    assert_same_bits(first.params, second.params, f"params at {step}")
    assert_same_bits(first.opt_state, second.opt_state, f"opt_state at {step}")
    assert first.digest == second.digest
