"""Probe sets are stored once, found again bit for bit, and never confused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import CheckpointError, RunError
from curvlab.runs import RunWriter, open_run

DTYPES = ["float32", "uint8", "int64", "bool", "bfloat16", "float16"]


@pytest.fixture
def writer(tmp_path):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        yield writer


def leaf(dtype: str, examples: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2, (examples, 2, 1))
    return values.astype(jnp.dtype(dtype))


TREES = st.recursive(
    st.tuples(st.sampled_from(DTYPES), st.integers(0, 3)),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["x", "mask", "a/b"]), inner, min_size=1, max_size=2),
        st.lists(inner, min_size=1, max_size=2),
    ),
    max_leaves=4,
)


def build(tree, examples):
    if isinstance(tree, tuple):
        return leaf(tree[0], examples, tree[1])
    if isinstance(tree, dict):
        return {key: build(value, examples) for key, value in tree.items()}
    return [build(value, examples) for value in tree]


def test_any_batch_comes_back(writer):
    names = iter(range(10**6))

    @given(tree=TREES, examples=st.integers(1, 4))
    def holds(tree, examples):
        inputs, targets = build(tree, examples), (np.arange(examples), None)
        name = f"set-{next(names)}"
        digest = writer.write_probe_set(name, inputs, targets)
        found = open_run(writer.path).probe_sets[name]
        assert (found.name, found.hash, found.examples) == (name, digest, examples)
        assert jax.tree.structure(found.inputs) == jax.tree.structure(inputs)
        assert type(found.targets) is tuple
        for one, other in zip(
            jax.tree.leaves((found.inputs, found.targets)),
            jax.tree.leaves((inputs, targets)),
            strict=True,
        ):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)

    holds()


def test_typed_keys_can_be_data(writer):
    keys = jax.random.split(jax.random.key(0), 3)
    writer.write_probe_set("noise", {"x": np.zeros((3, 2)), "key": keys}, np.zeros(3))
    found = open_run(writer.path).probe_sets["noise"].inputs["key"]
    assert found.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(keys))


def test_the_hash_is_of_content_alone(writer):
    x, y = np.ones((3, 2), np.float32), np.arange(3, dtype=np.int32)
    digest = writer.write_probe_set("a", x, y)
    assert writer.write_probe_set("b", jnp.asarray(x), jnp.asarray(y)) == digest
    assert writer.write_probe_set("c", np.asfortranarray(x), y) == digest
    different = [
        (x.astype(np.float64), y),
        (x, y[::-1]),
        ({"x": x}, y),
        (x.reshape(3, 1, 2), y),
        (y, x),
    ]
    hashes = [writer.write_probe_set(f"d{i}", *pair) for i, pair in enumerate(different)]
    assert len({digest, *hashes}) == 1 + len(different)


def test_shared_inputs_are_stored_once(writer):
    inputs = np.ones((10, 4), np.float32)
    for task in range(5):
        writer.write_probe_set(f"task-{task:03d}", inputs, np.full(10, task))
    assert len(list((writer.path / "probe_sets" / "arrays").iterdir())) == 6


def test_storing_the_same_again_changes_nothing(writer):
    first = writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2))
    before = {f: f.stat().st_mtime_ns for f in writer.path.rglob("*") if f.is_file()}
    assert writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2)) == first
    assert {f: f.stat().st_mtime_ns for f in writer.path.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize(
    ("name", "inputs", "targets", "parts"),
    [
        ("a", np.ones((3, 1)), np.zeros(3), ["'a'", "another name"]),
        ("b", np.ones((3, 1)), np.zeros(2), ["inputs of [3]", "targets of [2]"]),
        ("b", {"x": np.ones((3, 1)), "m": np.ones(2)}, np.zeros(3), ["inputs of [2, 3]"]),
        ("b", np.ones((0, 1)), np.zeros(0), ["shape (0, 1)", "leading axis"]),
        ("b", np.float32(1), np.zeros(1), ["shape ()"]),
        ("b", {}, np.zeros(1), ["inputs of []"]),
        ("b", np.ones(1), None, ["targets of []"]),
        ("b", {1: np.ones(1)}, np.ones(1), ["keys that are no texts"]),
        ("b", np.array(["x"]), np.ones(1), ["dtype <U1"]),
        ("b", st, np.ones(1), ["builtins.module"]),
        ("../b", np.ones(1), np.ones(1), ["'../b'", "letters"]),
        ("next", np.ones(1), np.ones(1), ["'next'", "role"]),
    ],
)
def test_bad_probe_sets_are_refused_and_nothing_is_written(writer, name, inputs, targets, parts):
    writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2))
    before = sorted(writer.path.rglob("*"))
    with pytest.raises(RunError) as refusal:
        writer.write_probe_set(name, inputs, targets)
    for part in parts:
        assert part in str(refusal.value)
    assert sorted(writer.path.rglob("*")) == before


def test_an_altered_or_missing_array_is_refused(writer):
    writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2))
    run = open_run(writer.path)
    array = next((writer.path / "probe_sets" / "arrays").iterdir())
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered: expected SHA-256"):
        run.probe_sets["a"]
    array.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        run.probe_sets["a"]
    assert [finding.path for finding in run.verify()] == ["probe_sets/a.json"]


def test_an_altered_description_is_refused(writer):
    writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2))
    file = writer.path / "probe_sets" / "a.json"
    file.write_text(file.read_text().replace("float64", "float32"))
    with pytest.raises(CheckpointError, match="altered: expected hash"):
        open_run(writer.path).probe_sets["a"]
    file.write_text("{")
    with pytest.raises(CheckpointError, match="unreadable"):
        open_run(writer.path).probe_sets["a"]


def test_an_unknown_name_lists_the_known_ones(writer):
    writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2))
    sets = open_run(writer.path).probe_sets
    assert (list(sets), len(sets), "a" in sets, "b" in sets) == (["a"], 1, True, False)
    with pytest.raises(RunError, match=r"no probe set 'b'.*Stored: a"):
        sets["b"]


def test_a_leftover_of_a_killed_process_is_completed(writer):
    digest = writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2))
    (writer.path / "probe_sets" / "a.json").unlink()
    array = next((writer.path / "probe_sets" / "arrays").iterdir())
    array.write_bytes(array.read_bytes()[:-1])
    assert writer.write_probe_set("a", np.ones((2, 1)), np.zeros(2)) == digest
    assert open_run(writer.path).verify() == ()
