"""Data that do not stay on the device: read ahead, padded exactly, bounded in memory."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import ProblemError
from curvlab.core.precision import float64
from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.curvature.data import Batch, Batches
from curvlab.curvature.source import fill, padded_size, sum_over
from curvlab.objectives import cross_entropy
from tests import problems

INPUTS, TARGETS = problems.digits(100)
PARAMS = problems.init((64, 8, 10), 0)
KEY = jax.random.key(0)


def problem(batch, **changes):
    return Problem(problems.predict, cross_entropy, PARAMS, batch, **changes)


@given(size=st.integers(1, 500), larger=st.integers(0, 500), devices=st.sampled_from([1, 2, 8]))
def test_padded_sizes_are_few_and_not_twice_too_large(size, larger, devices):
    largest = size + larger
    padded = padded_size(size, largest=largest, multiple=devices)
    assert padded >= size
    assert padded % devices == 0
    assert padded <= 2 * size + devices
    assert padded_size(largest, largest=largest, multiple=1) == largest
    sizes = {padded_size(s, largest=largest, multiple=1) for s in range(1, largest + 1)}
    assert len(sizes) <= 2 + np.log2(largest)


@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=9).filter(any),
    extra=st.integers(0, 5),
)
def test_filling_changes_no_weighted_sum(weights, extra):
    size = len(weights)
    rng = np.random.default_rng(size)
    values = rng.normal(size=(size, 3))
    values[np.array(weights) == 0] = np.nan
    filled = fill(Batch(values, np.arange(size), np.array(weights)), size + extra)
    assert filled.weights.shape == filled.targets.shape == (size + extra,)
    expected = sum(w * v for w, v in zip(weights, values, strict=True) if w)
    np.testing.assert_allclose(filled.weights @ filled.inputs, expected, atol=1e-12)


@pytest.mark.parametrize("matrix", [Hessian, GaussNewton])
def test_weighted_uneven_streams_equal_one_batch(matrix, x64):
    inputs, weights = INPUTS.astype(np.float64), np.linspace(0, 3, 100)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
    whole = matrix(Problem(problems.predict, cross_entropy, params, (inputs, TARGETS, weights)))
    data = Batches(inputs, TARGETS, size=32, weights=weights)  # 32, 32, 32, 4
    stream = matrix(Problem(problems.predict, cross_entropy, params, data))
    rows = np.random.default_rng(0).normal(size=(6, whole.dim))
    expected = np.stack([np.asarray(whole.matvec(row)) for row in rows])
    np.testing.assert_allclose(stream.matvec(rows[0]), expected[0], atol=1e-13)
    np.testing.assert_allclose(stream.matmat(rows), expected, atol=1e-13)  # blocks of 4 and 2
    assert stream.problem.value() == pytest.approx(whole.problem.value(), rel=1e-12)
    for one, other in zip(
        jax.tree.leaves(stream.problem.gradient()),
        jax.tree.leaves(whole.problem.gradient()),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-14)
    np.testing.assert_allclose(stream.problem.losses(), whole.problem.losses(), rtol=1e-12)


def test_uneven_batches_share_their_programs(compilations):
    def stream(*sizes):
        ends = np.cumsum(sizes)
        return [(INPUTS[e - s : e], TARGETS[e - s : e]) for s, e in zip(sizes, ends, strict=True)]

    vector = np.ones(Hessian(problem((INPUTS, TARGETS))).dim)
    even = stream(30, 30)
    Hessian(problem(lambda: iter(even))).matvec(vector)
    before = len(compilations)
    uneven = stream(30, 29, 23, 18)
    product = Hessian(problem(lambda: iter(uneven))).matvec(vector)
    assert len(compilations) == before
    np.testing.assert_allclose(
        product, Hessian(problem((INPUTS, TARGETS))).matvec(vector), atol=1e-6
    )


def test_a_block_reads_the_data_once():
    readings = []

    def fresh():
        readings.append(1)
        yield INPUTS[:50], TARGETS[:50]
        yield INPUTS[50:], TARGETS[50:]

    op = Hessian(problem(fresh))
    before = len(readings)
    op.matmat(np.ones((4, op.dim)))
    assert len(readings) == before + 1


def test_the_next_batch_is_sent_before_the_current_product_is_awaited(monkeypatch):
    events = []
    wait = jax.block_until_ready

    def recorded(tree):
        events.append(f"await {int(tree)}")
        return wait(tree)

    monkeypatch.setattr(jax, "block_until_ready", recorded)

    def batches():
        for index in range(4):
            events.append(f"send {index}")
            yield jnp.asarray(10**index)

    def term(batch):
        events.append("start")
        return batch

    assert int(sum_over(batches(), term)) == 1111
    expected = "send 0,start,send 1,start,await 1,send 2,start,await 11,send 3"
    assert ",".join(events).startswith(expected)


def test_the_device_computes_while_the_next_batch_is_read():
    started, busy = [], []

    @jax.jit
    def slow(matrix):
        return jax.lax.fori_loop(0, 40, lambda _, m: jnp.tanh(m @ m), matrix).sum()

    def batches():
        for _ in range(3):
            busy.extend(not result.is_ready() for result in started[-1:])
            yield jnp.full((700, 700), 1e-3)

    def term(batch):
        started.append(slow(batch))
        return started[-1]

    jax.block_until_ready(slow(jnp.zeros((700, 700))))
    sum_over(batches(), term)
    assert busy == [True, True]


def test_no_more_than_two_batches_are_alive():
    alive, most = [], []

    def fresh():
        for start in range(0, 100, 10):
            most.append(sum(leaf.nbytes for leaf in jax.live_arrays()))
            yield INPUTS[start : start + 10], TARGETS[start : start + 10]

    op = Hessian(problem(fresh))
    vector = np.ones(op.dim)
    op.matvec(vector)
    most.clear()
    op.matvec(vector)
    alive = np.diff(most)
    # After the first two batches nothing is added: each that comes replaces one that goes.
    assert np.abs(alive[3:]).max() <= 2 * (op.dim * 4 + 4096)


def test_batches_and_their_errors():
    data = Batches({"x": INPUTS}, TARGETS, size=30)
    assert len(data) == 4
    assert [batch.weights.size for batch in data] == [30, 30, 30, 10]
    with pytest.raises(ProblemError, match="size=0"):
        Batches(INPUTS, TARGETS, size=0)
    with pytest.raises(ProblemError, match="inputs: 100, targets: 99"):
        Batches(INPUTS, TARGETS[:99], size=10)
    with pytest.raises(
        ProblemError, match=r"has to be a tuple .*; got ndarray of length 100\. Put"
    ):
        problem(INPUTS)
    with pytest.raises(ProblemError, match=r"has to be a tuple .*; got dict of length 1\. Put"):
        problem({"x": INPUTS})


def test_float64_arrays_stay_float32_inside_lanczos(compilations):
    """Lanczos computes its sums in float64; what users pass must not change with that."""
    op = Hessian(problem(Batches(INPUTS.astype(np.float64), TARGETS, size=40)))
    vector = np.ones(op.dim, np.float32)
    expected = op.matvec(vector)
    before = len(compilations)
    with float64():
        found = op.matvec(vector)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert len(compilations) == before


MEMORY = """
import json, sys, threading, time
import numpy as np, jax
from curvlab.curvature import Batches, Hessian, Problem
from tests import problems
from curvlab.objectives import cross_entropy

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) for l in status if l.startswith("RssAnon")) / 1024

inputs = np.load(sys.argv[1], mmap_mode="r")
targets = np.zeros(len(inputs), np.int32)
params = problems.init((inputs.shape[1], 4, 10), 0)

def make(examples):
    data = Batches(inputs[:examples], targets[:examples], size=2048)
    return Problem(problems.predict, cross_entropy, params, data)

def product(examples):
    op = Hessian(make(examples))
    return np.asarray(op.matvec(np.ones(op.dim, np.float32)))

product(4096)
base, peak, done = anonymous(), [0.0], threading.Event()

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
found = product(len(inputs))
done.set()
watcher.join()
print(json.dumps({"growth": peak[0] - base, "norm": float(np.linalg.norm(found))}))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_bounded_on_a_file_larger_than_allowed(tmp_path):
    path, examples, width = tmp_path / "inputs.npy", 65536, 512  # 128 MiB
    array = np.lib.format.open_memmap(path, "w+", np.float32, (examples, width))
    rng = np.random.default_rng(0)
    for start in range(0, examples, 8192):
        array[start : start + 8192] = rng.random((8192, width), np.float32)
    array.flush()
    size = array.nbytes / 2**20
    del array
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    found = json.loads(done.stdout)
    assert found["norm"] > 0
    assert 5 * found["growth"] < size, found
