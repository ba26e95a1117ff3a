"""One compilation serves all checkpoints of a run."""

import jax
import pytest

from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import eigenpairs, slq, trace
from tests import problems


class CountedPredict:
    """A predict that counts how often Python runs it, that is, how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, inputs):
        self.traces += 1
        return problems.predict(params, inputs)


@pytest.mark.parametrize("matrix", [Hessian, GaussNewton])
def test_tenth_checkpoint_traces_and_compiles_nothing(matrix, compilations):
    predict = CountedPredict()
    inputs, targets = problems.digits(100)

    def analyse(seed):
        problem = Problem(
            predict, cross_entropy, problems.init((64, 16, 10), seed), (inputs, targets)
        )
        op = matrix(problem)
        measure = slq(op, jax.random.key(0), order=8, vectors=2)
        pairs = eigenpairs(op, jax.random.key(1), order=8, largest=2, smallest=2)
        trace(op, jax.random.key(2), deflate=pairs, noise_floor=pairs.noise_floor)
        return measure.nodes.max()

    first = analyse(0)
    traces, compiled = predict.traces, len(compilations)
    assert traces > 0
    assert compiled > 0
    others = [analyse(seed) for seed in range(1, 10)]
    assert predict.traces == traces
    assert len(compilations) == compiled
    assert len({first, *others}) == 10  # parameters are arguments, not constants of the program


def test_compile_time_does_not_grow_with_batches_or_order(compilations):
    inputs, targets = problems.digits(160)
    params = problems.init((64, 16, 10), 0)
    parts = [(inputs[i : i + 20], targets[i : i + 20]) for i in range(0, 160, 20)]

    def analyse(batches, order):
        op = Hessian(Problem(problems.predict, cross_entropy, params, parts[:batches]))
        slq(op, jax.random.key(0), order=order, vectors=2)

    analyse(2, 20)  # two blocks of rows: every program of a step is used
    before = len(compilations)
    assert before > 0
    analyse(2, 5)
    analyse(2, 40)
    analyse(8, 5)
    assert len(compilations) == before
