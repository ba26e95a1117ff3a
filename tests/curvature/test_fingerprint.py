"""An estimand names its data by their content, read when it is first asked for."""

import gc
import weakref
from itertools import pairwise
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError
from curvlab.curvature import (
    Batches,
    GaussNewton,
    Hessian,
    MonteCarloFisher,
    Problem,
    TangentKernel,
    source,
    weight_norm_metric,
)
from curvlab.curvature.data import Batch
from curvlab.curvature.source import Census, Source, fingerprint
from curvlab.objectives import cross_entropy
from curvlab.spectral import slq
from curvlab.spectral.deflated import Deflated
from tests.oracles import dense_curvature as dense

KEY = jax.random.key(0)
PARAMS = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)
INPUTS, WEIGHTS = dense.INPUTS.astype(np.float32), dense.WEIGHTS.astype(np.float32)


def make(batch: Any = None, **keywords: Any) -> Problem:
    whole = (INPUTS, dense.LABELS, WEIGHTS)
    return Problem(
        dense.predict, cross_entropy, PARAMS, whole if batch is None else batch, **keywords
    )


def cut(*places):
    ends = [0, *places, dense.EXAMPLES]
    parts = [slice(*pair) for pair in pairwise(ends)]
    return [(INPUTS[part], dense.LABELS[part], WEIGHTS[part]) for part in parts]


def test_order_batches_place_and_precision_do_not_change_it():
    expected = make().estimand
    assert expected[-14:-8] == " data "
    int(expected[-8:], 16)
    turned = np.random.default_rng(0).permutation(dense.EXAMPLES)
    same = (
        make(cut(4)),
        make(cut(2, 7)[::-1]),
        make((INPUTS[turned], dense.LABELS[turned], WEIGHTS[turned])),
        make(lambda: iter(cut(5))),
        make(Batches(INPUTS, dense.LABELS, size=4, weights=WEIGHTS)),
        make((jnp.asarray(INPUTS), dense.LABELS, WEIGHTS)),
        make().sharded(),
        make().reordered(),
    )
    assert {problem.estimand for problem in same} == {expected}
    for op in (Hessian(make()), TangentKernel(make()), Hessian(make(lambda: iter(cut(5))))):
        reference = op.reference()
        assert reference is not None
        assert reference.dtype == np.float64
        assert reference.estimand == op.estimand


def test_any_example_changes_it():
    inputs, labels, weights = INPUTS.copy(), dense.LABELS.copy(), WEIGHTS.copy()
    inputs[3, 1] = np.nextafter(inputs[3, 1], 9, dtype=np.float32)
    labels[5] = (labels[5] + 1) % 3
    weights[-1] *= 2
    halves = np.arange(dense.EXAMPLES) < 6
    different = (
        make(),
        make((inputs, dense.LABELS, WEIGHTS)),
        make((INPUTS, labels, WEIGHTS)),
        make((INPUTS, dense.LABELS, weights)),
        make((INPUTS[::-1], dense.LABELS, WEIGHTS)),
        make().subset(halves),
        make().subset(np.roll(halves, 5)),
        *(MonteCarloFisher(make(), jax.random.key(seed)).problem for seed in range(2)),
    )
    assert len({problem.estimand[-8:] for problem in different}) == len(different)
    assert ", task 3 (4f5e), data " in make(data="task 3 (4f5e)").estimand


def test_it_is_computed_once_when_first_asked_for(monkeypatch):
    seen: list[Batch] = []
    monkeypatch.setattr(source, "fingerprint", lambda batch: seen.append(batch) or 7)
    problem = make()
    hessian, kernel = Hessian(problem), TangentKernel(problem)
    metric = weight_norm_metric(PARAMS)
    made = [
        hessian.block("head"),
        hessian.in_metric(metric),
        hessian.block_diagonal(),
        hessian.block_diagonal().blocks["head"],
        hessian - 0.5 * GaussNewton(problem),
        Deflated(hessian, np.eye(1, hessian.dim)),
        kernel.block("head").in_metric(metric),
    ]
    for op in made:
        op.matvec(np.ones(op.dim, np.float32))
    assert not seen
    for op in made:
        assert "data 00000007" in op.estimand
    assert len(seen) == 1


def test_operators_are_let_go_without_the_collector():
    problem, metric = make(), weight_norm_metric(PARAMS)
    gc.disable()
    try:
        for make_op in (
            Hessian,
            TangentKernel,
            lambda p: Hessian(p).in_metric(metric),
            lambda p: Hessian(p).block_diagonal(),
            lambda p: 2 * Hessian(p),
        ):
            op = make_op(problem)
            gone = weakref.ref(op)
            del op
            assert gone() is None
    finally:
        gc.enable()


def test_data_held_by_other_processes_have_none():
    class Elsewhere:
        is_fully_addressable = False

    batch = Batch(Elsewhere(), np.zeros(1), np.ones(1))
    assert Source([batch], census=Census(1, 1.0, 1, ())).fingerprint is None


def test_it_is_the_sum_of_the_checksums_of_all_examples():
    leaves = (
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2],  # with gaps in memory
        jnp.ones((2, 2), jnp.bfloat16),
        np.array([True, False]),
        jax.random.split(KEY, 2),
    )
    rows = [np.asarray(leaf) for leaf in (*leaves[:3], jax.random.key_data(leaves[3]))]
    expected = sum(crc32(b"".join(leaf[i].tobytes() for leaf in rows)) for i in range(2))
    assert fingerprint(Batch(leaves, (), ())) == expected % 2**32


def test_a_saved_run_on_other_data_is_refused(tmp_path):
    slq(Hessian(make()), KEY, order=3, save=tmp_path)
    with pytest.raises(OperatorError, match="different: estimand"):
        slq(Hessian(make((INPUTS + 1, dense.LABELS, WEIGHTS))), KEY, order=3, save=tmp_path)
