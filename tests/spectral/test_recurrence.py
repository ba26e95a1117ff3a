"""Lanczos without a stored basis: the memory of two vectors, and the same vectors every time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.precision import float64
from curvlab.core.sketch import BUCKETS, sketch
from curvlab.spectral import Diagonal, Memory, lanczos, recurrence
from curvlab.spectral.basis import Tier
from curvlab.spectral.operator import DRAWN, random_vector
from curvlab.spectral.soundness import verify

KEY = jax.random.key(3)
DIM = 40_000
VALUES = np.random.default_rng(0).normal(size=DIM).astype(np.float32)
BARE = Memory(7 * 4 * DIM)


class Watched(Diagonal):
    """A matrix that sees how many vectors are held on the device while it works."""

    held = 0.0
    before = 0

    def product(self, vector):
        # What was there before any work (the entries of the matrix, other tests) does not count.
        live = sum(array.nbytes for array in jax.live_arrays() if array.size >= DIM)
        self.held = max(self.held, (live - self.before) / vector.nbytes)
        return super().product(vector)


def watched():
    op = Watched(VALUES)
    op.before = sum(array.nbytes for array in jax.live_arrays() if array.size >= DIM)
    return op


def test_two_vectors_are_held_beside_a_product():
    op = watched()
    verify(op, KEY)
    assert op.held <= 2
    op.held = 0
    run = lanczos(op, KEY, order=6, memory=BARE, start=VALUES)
    assert run.tier is Tier.NONE
    assert 1 < op.held <= 2


def temporaries(function, *arguments, **static):
    """Return the vectors that a compiled program needs beside its arguments and results."""
    with float64():
        found = function.lower(*arguments, **static).compile().memory_analysis()
    extra = found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    return extra / SIZE


MATRIX = jax.ShapeDtypeStruct((1000, 4000), np.float32)
TREE = {"kernel": MATRIX, "bias": jax.ShapeDtypeStruct((4000,), np.float32)}
SIZE = 4 * 4_004_000
NUMBER = jax.ShapeDtypeStruct((), np.float64)


def test_the_recurrence_works_in_the_memory_of_its_vectors():
    assert temporaries(recurrence.inner, TREE, TREE) < 0.05  # no leaf in float64
    assert temporaries(recurrence._times, TREE, NUMBER) < 0.05
    assert temporaries(recurrence._without, TREE, TREE, NUMBER) < 0.05


def test_a_random_vector_is_drawn_in_twice_its_memory():
    # Whole it would take four times: the generator's two words and their sum beside the result.
    program: Any = random_vector.lower(KEY, 64 * DRAWN).compile().memory_analysis()
    assert program.temp_size_in_bytes + program.output_size_in_bytes < 2.2 * 4 * 64 * DRAWN


def test_random_vectors_are_normal_and_differ_from_piece_to_piece():
    dim = 2 * DRAWN + 5
    vector = np.asarray(random_vector(KEY, dim))
    assert vector.shape == (dim,)
    assert len(np.unique(vector[:1000])) == len(np.unique(vector[DRAWN : DRAWN + 1000])) == 1000
    assert not np.isin(vector[:1000], vector[DRAWN:]).all()
    for power, moment in ((1, 0), (2, 1), (4, 3)):
        spread = {1: 1, 2: 2, 4: 96}[power] ** 0.5
        assert abs(np.mean(vector.astype(float) ** power) - moment) < 5 * spread / dim**0.5
    np.testing.assert_array_equal(vector, random_vector(KEY, dim))


def test_a_given_start_vector_is_not_written_over():
    start = jnp.asarray(VALUES)
    lanczos(Diagonal(VALUES), KEY, order=4, memory=BARE, start=start)
    np.testing.assert_array_equal(start, VALUES)


def test_rows_computed_again_are_those_of_the_run():
    run = lanczos(Diagonal(VALUES), KEY, order=20, memory=BARE)
    stored = lanczos(Diagonal(VALUES), KEY, order=20)
    np.testing.assert_allclose(run.diagonal, stored.diagonal, rtol=1e-4)
    with float64():
        again = run._second_pass(np.eye(20))
    vector = again.astype(np.float64)
    # Neighbours stay orthogonal, and the coefficients belong to these very rows.
    np.testing.assert_allclose((vector[1:] * vector[:-1]).sum(1), 0, atol=1e-6)
    np.testing.assert_allclose((vector**2 * VALUES).sum(1), run.diagonal, atol=3e-7)


@pytest.mark.parametrize("size", [1000, 3 * BUCKETS + 17])
def test_a_sketch_keeps_lengths_and_sums(size):
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, size)).astype(np.float32)
    difference = sketch(one) - 2 * sketch(other)
    exact = np.linalg.norm(one.astype(float) - 2 * other)
    assert np.linalg.norm(difference) == pytest.approx(exact, rel=1e-12 if size == 1000 else 0.01)
    # Equal parts of one sign, which buckets without random signs would add up.
    assert np.linalg.norm(sketch(np.ones(size))) == pytest.approx(size**0.5, rel=0.01)
    cut = {"a": one[:700].reshape(7, 100), "b": jnp.asarray(one[700:])}
    np.testing.assert_allclose(sketch(cut), sketch(one), rtol=1e-12)
