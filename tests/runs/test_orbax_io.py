"""Trees come back bit for bit, with their types, whatever their leaves are."""

import dataclasses
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import CheckpointError, RunError
from curvlab.runs.orbax_io import load_tree, save_tree

PLAIN = ("bool", "int8", "uint16", "int32", "uint32", "float16", "float32", "complex64")
EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
WIDE = ("int64", "uint64", "float64", "complex128")
SHAPES = st.sampled_from([(), (1,), (0,), (2, 0, 3), (3,), (2, 3)])


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Node:
    inner: Any


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = draw(st.sampled_from(PLAIN + EXTENDED + WIDE))
    shape = draw(SHAPES)
    if dtype in EXTENDED:
        numbers = draw(hnp.arrays(np.float32, shape, elements=st.integers(0, 7)))
        array = numbers.astype(jnp.dtype(dtype))
    else:
        # Any bit pattern: NaN with payload, infinities, denormals.
        array = draw(hnp.arrays(np.dtype(dtype), shape))
    if dtype not in WIDE and draw(st.booleans()):
        return jnp.asarray(array)
    return array


@st.composite
def keys(draw: st.DrawFn) -> jax.Array:
    key = jax.random.key(
        draw(st.integers(0, 9)), impl=draw(st.sampled_from(["threefry2x32", "rbg"]))
    )
    return draw(st.sampled_from([key, jax.random.split(key, 3)]))


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.sampled_from([np.float32(0.1), np.int8(-3), np.bool_(True)]),
)
TREES = st.recursive(
    st.one_of(arrays(), keys(), SCALARS, st.just(None), st.just(optax.EmptyState())),
    lambda inner: st.one_of(
        st.dictionaries(
            st.sampled_from(["a", "kernel", "mlp/~/linear", "step"]), inner, max_size=3
        ),
        st.lists(inner, max_size=2),
        st.tuples(inner),
        st.builds(Pair, inner, inner),
        st.builds(Node, inner),
    ),
    max_leaves=6,
)


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_same_leaf(one, other)


def assert_same_leaf(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, jax.Array) and jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
        assert jax.random.key_impl(found) == jax.random.key_impl(expected)
        found, expected = jax.random.key_data(found), jax.random.key_data(expected)
    one, other = np.asarray(found), np.asarray(expected)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def places():
    # Hundreds of saves; what a disk adds is not what is tested here.
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    numbers = itertools.count()
    yield lambda: root / f"tree-{next(numbers)}"
    shutil.rmtree(root)


@given(tree=TREES)
def test_round_trip_with_a_template(places, tree):
    place = places()
    save_tree(place, tree)
    assert_same(load_tree(place, tree), tree)


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.sgd(0.1),
        optax.adam(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        optax.multi_transform(
            {"a": optax.adam(1e-3), "b": optax.set_to_zero()}, {"w": "a", "v": "b"}
        ),
        optax.adam(optax.cosine_decay_schedule(1e-3, 10)),
    ],
)
def test_optimiser_states_keep_their_types(places, optimiser):
    params = {"w": jnp.arange(6.0).reshape(2, 3), "v": jnp.ones(2, jnp.bfloat16)}
    state = optimiser.init(params)
    place = places()
    save_tree(place, state)
    assert_same(load_tree(place, state), state)
    assert_same(load_tree(place, jax.eval_shape(optimiser.init, params)), state)


def test_without_template_containers_are_plain_and_leaves_exact(places):
    tree: dict[str, Any] = {
        "layers": [(jnp.ones((2, 3)), jnp.zeros(3)), (jnp.ones((3, 1)), jnp.zeros(1))],
        "key": jax.random.key(1),
        "host": np.arange(3, dtype=np.float64),
        "empty": jnp.zeros((0, 2)),
        "rate": 0.5,
        "pair": Pair(jnp.float32(1), True),
    }
    place = places()
    save_tree(place, tree)
    found = load_tree(place)
    expected = dict(tree, pair={"first": tree["pair"].first, "second": True})
    expected["layers"] = [list(layer) for layer in tree["layers"]]
    assert_same(found, expected)


def test_nan_and_infinity_are_stored_as_they_are(places):
    tree = {"w": jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.0])}
    place = places()
    save_tree(place, tree)
    assert_same(load_tree(place), tree)


def test_the_digest_sees_every_change(places):
    base = {"a": jnp.zeros(3), "b": jnp.int32(1)}
    others = [
        {"a": jnp.zeros(3).at[1].set(-0.0), "b": jnp.int32(1)},
        {"a": jnp.zeros((3, 1)), "b": jnp.int32(1)},
        {"a": jnp.zeros(3, jnp.int32), "b": jnp.int32(1)},
        {"a": np.zeros(3, np.float32), "b": jnp.int32(1)},
        {"a": jnp.zeros(3), "c": jnp.int32(1)},
    ]
    digests = [save_tree(places(), tree) for tree in [base, *others]]
    assert len(set(digests)) == len(digests)
    assert save_tree(places(), jax.tree.map(jnp.copy, base)) == digests[0]


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ({"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}, ["'w'", "(2, 2)", "(2, 3)"]),
        ({"w": jnp.zeros((2, 3), jnp.int32), "b": jnp.zeros(2)}, ["'w'", "int32", "float32"]),
        ({"w": jnp.zeros((2, 3))}, ["'b'", "1 leaves", "2 leaves"]),
        ({"w": jnp.zeros((2, 3)), "b": jnp.zeros(2), "c": 1}, ["'c'", "3 leaves", "2 leaves"]),
        ({"w": jnp.zeros((2, 3)), "b": 1.0}, ["'b'", "float"]),
    ],
)
def test_a_template_that_does_not_fit_is_refused(places, template, parts):
    place = places()
    save_tree(place, {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)})
    with pytest.raises(CheckpointError) as refusal:
        load_tree(place, template)
    for part in [*parts, str(place)]:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("tree", "part"),
    [
        ({"f": np.array(["text"])}, "dtype <U4"),
        ({"f": np.array([object()])}, "dtype object"),
        ({"f": np.zeros(2, "datetime64[s]")}, "datetime64"),
        ({"f": np.zeros(2, np.longdouble)}, "not supported"),
        ({"f": lambda: None}, "builtins.function"),
        ({"f": 2**63}, "64 bits"),
        ({"a": {"b": jnp.zeros(1)}, "a.b": jnp.zeros(1)}, "'a.b'"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(places, tree, part):
    place = places()
    with pytest.raises(RunError, match="Cannot store") as refusal:
        save_tree(place, tree)
    assert part in str(refusal.value)
    assert not place.exists()


def test_other_byte_orders_keep_their_values(places):
    place = places()
    save_tree(place, {"w": np.arange(3, dtype=">f4")})
    np.testing.assert_array_equal(load_tree(place)["w"], [0, 1, 2])


def test_float64_is_never_cut_to_float32(places):
    place = places()
    with jax.enable_x64(True):
        tree = {"w": jnp.full(2, 1 / 3, jnp.float64)}
        save_tree(place, tree)
        assert_same(load_tree(place, tree), tree)
    with pytest.raises(CheckpointError, match="JAX_ENABLE_X64"):
        load_tree(place)


def test_any_orbax_user_can_open_it(places):
    import orbax.checkpoint as ocp

    place = places()
    save_tree(place, {"dense": {"kernel": jnp.ones((2, 3))}})
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(place)
    np.testing.assert_array_equal(found["dense"]["kernel"], np.ones((2, 3)))


def test_no_file_holds_a_path_and_the_tree_can_be_moved(places):
    place, moved = places(), places()
    save_tree(place, {"w": jnp.ones(3)})
    for file in place.rglob("*"):
        assert file.is_dir() or str(place.parent).encode() not in file.read_bytes()
    place.rename(moved)
    np.testing.assert_array_equal(load_tree(moved)["w"], np.ones(3))


def test_a_directory_that_is_no_tree_is_refused(places, capfd):
    place = places()
    place.mkdir()
    with pytest.raises(CheckpointError, match="expected a tree"):
        load_tree(place)
    assert capfd.readouterr() == ("", "")
