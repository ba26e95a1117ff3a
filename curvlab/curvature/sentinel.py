"""Checks that run before any spectrum: the objective is a finite, fixed function, and a smooth one.

What every operator is checked for (linear, symmetric) is in :mod:`curvlab.spectral.soundness`; here
is what only a problem can know: its data, its randomness, and the gradient behind a Hessian.
"""

import re
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from zlib import crc32

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from curvlab.core.devices import place, replicated
from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul
from curvlab.curvature.data import Batch
from curvlab.curvature.objective import batch_total
from curvlab.curvature.problem import Problem
from curvlab.curvature.source import fill, fingerprint

SAMPLE = 8
"""Examples on which the functions are evaluated without jit."""

_verified: set[Hashable] = set()
"""Combinations of functions and shapes that passed; like jit's cache, it only saves work."""

_programs: dict[Hashable, str] = {}


def check_problem(problem: Problem) -> None:
    """Refuse an objective that is not finite, not fixed, or not a mean over examples.

    The whole objective is evaluated once, and an iterator is read a second time. The functions
    alone (randomness, batch statistics) are checked on a few examples, once for each combination of
    functions and shapes.

    Raises
    ------
    ProblemError
        If a loss is NaN or infinite, two readings of the data or two evaluations of the loss
        differ, or the loss of an example depends on the others in its batch.
    """
    _check_processes(problem)
    _check_second_reading(problem)
    if not np.isfinite(problem.value()):
        raise _not_finite(problem)
    few = few_examples(problem, SAMPLE)
    key = _program_key(problem, few)
    if key not in _verified:
        _check_repeatable(problem)
        _check_functions(problem, few)
        _verified.add(key)


def _check_processes(problem: Problem) -> None:
    """Refuse processes that were given different parameters or data."""
    if problem.mesh is None or jax.process_count() == 1:
        return
    census = problem.source.census
    params = b"".join(
        np.asarray(leaf).tobytes()
        for leaf in jax.tree.leaves(problem.params)
        if leaf.is_fully_replicated
    )
    mine = np.array(
        [census.examples, fingerprint(next(problem.batches())), crc32(params)], np.uint32
    )
    everyone = np.asarray(process_allgather(mine)).reshape(-1, len(mine))
    if (everyone != mine).any():
        raise ProblemError(
            "The processes were given different parameters or data (number of examples, first "
            f"batch, parameters as checksums: {everyone.tolist()}). Pass the same, whole data in "
            "every process; each sends only its part."
        )


def _check_second_reading(problem: Problem) -> None:
    first = problem.source.census.fingerprints
    if not first:
        return
    second = tuple(map(fingerprint, problem.batches()))
    # Another order, or another partition, has the same sum: the objective does not depend on it.
    if second != first and sum(second) % 2**32 != sum(first) % 2**32:
        changed = [i for i, pair in enumerate(zip(first, second, strict=False)) if len({*pair}) > 1]
        where = changed[0] if changed else min(len(first), len(second))
        raise ProblemError(
            f"The data iterator gave {len(first)} batches, and the second time {len(second)}; they "
            f"differ from batch {where} on. Every product reads the data anew: let the data "
            "iterator return the same examples every time (a fresh iterator, a fixed shuffle, no "
            "random augmentation)."
        )


def _check_repeatable(problem: Problem) -> None:
    """Evaluate the first batch twice through jit: finds randomness at run time."""
    batch = next(problem.placed())
    with problem.precision(), exact_matmul():
        first, second = (
            float(batch_total(problem.objective, problem.params, batch, problem.state))
            for _ in range(2)
        )
    if not np.isclose(first, second, rtol=1e-5, atol=1e-12):
        raise _not_deterministic(problem, first, second)


def _check_functions(problem: Problem, few: Batch) -> None:
    """Evaluate a few examples without jit: finds what is fixed while tracing.

    That is a dropout mask drawn with a key from a counter, say. Then either half of the examples
    are replaced, which must not move the losses of the others.
    """
    objective, size = problem.objective, few.weights.shape[0]

    def losses(batch: Batch) -> np.ndarray:
        with problem.precision():
            found = objective.losses(problem.params, batch, problem.state)
        return np.asarray(found, np.float64)

    first, places = losses(few), np.arange(size)
    for held in (places < (size + 1) // 2, places >= (size + 1) // 2):
        other = few
        if problem.predict is not None and held.any():
            rows = np.where(held, places, places[held][0])
            other = jax.tree.map(lambda leaf, rows=rows: leaf[rows], few)
        second, least = losses(other), 1e-6 * float(np.abs(first).max())
        if np.allclose(first[held], second[held], rtol=1e-4, atol=least):
            continue
        again = losses(other)
        if not np.allclose(second[held], again[held], rtol=1e-5):
            raise _not_deterministic(problem, float(second[held].mean()), float(again[held].mean()))
        moved, size_of_loss = (
            float(np.abs(change[held]).max()) for change in (first - second, first)
        )
        raise ProblemError(
            f"The {objective.name} of an example depends on the others in its batch: it moved by "
            f"{moved:.2g} (of {size_of_loss:.2g}) when they were replaced. Normalisation on batch "
            "statistics does that: let it use its running statistics (pass them as `state`). For a "
            "loss that is meant to couple examples use Problem.from_loss."
        )


def _not_finite(problem: Problem) -> ProblemError:
    """Say which example of which batch makes the objective NaN or infinite."""
    name = problem.objective.name
    for index, batch in enumerate(problem.batches()):
        losses = problem.batch_losses(batch)
        bad = np.flatnonzero(~np.isfinite(losses) & (np.asarray(batch.weights) > 0))
        if bad.size:
            first = int(bad[0])
            spoilt = [
                side
                for side, part in (("inputs", batch.inputs), ("targets", batch.targets))
                if not all(
                    np.isfinite(np.asarray(leaf[first], np.float64)).all()
                    for leaf in jax.tree.leaves(part)
                    if np.issubdtype(leaf.dtype, np.floating)
                )
            ]
            cause = (
                f"the {' and '.join(spoilt)} of this example hold NaN or infinity"
                if spoilt
                else "its data are finite, so look for an overflow or an invalid target"
            )
            return ProblemError(
                f"In batch {index}, {bad.size} of {losses.size} values of {name} are not finite at "
                f"finite parameters, the first at example {first} ({losses[first]}): {cause}. "
                "Clean the data, or give the example weight zero."
            )
    return ProblemError(
        f"The mean {name} is not finite, though every loss is. Look at the penalty."
    )


def _not_deterministic(problem: Problem, first: float, second: float) -> ProblemError:
    return ProblemError(
        f"Two evaluations of the mean {problem.objective.name} on the same parameters and data "
        f"gave {first!r} and {second!r}. Switch dropout off, and fix the random key in `state`."
    )


def few_examples(problem: Problem, size: int) -> Batch:
    """Return at most ``size`` examples of the first batch that count, on every device."""
    for batch in problem.batches():
        counted = np.flatnonzero(np.asarray(batch.weights) > 0)[:size]
        if counted.size:
            few = jax.tree.map(lambda leaf, rows=counted: leaf[rows], batch)
            few = few if problem.predict is None else fill(few, len(counted))
            with problem.precision():
                if problem.mesh is not None:
                    return place(few, replicated(problem.mesh))
                return jax.tree.map(jax.numpy.asarray, few)
    raise AssertionError("the census found an example that counts")


@contextmanager
def explained_derivatives() -> Generator[None, None, None]:
    """Say what to do when a function of the user's has no forward derivative."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise ProblemError(
            "This matrix needs forward derivatives, and a function inside has only a backward rule "
            "(custom_vjp). Give it a custom_jvp rule, from which JAX derives both, or use the "
            "plain implementation."
        ) from error


def computes_in_float64(problem: Problem) -> bool:
    """Whether the loss of a promoted problem is float64 throughout, with no cast inside.

    Traces the loss of a few examples, once for each combination of functions and shapes. Call it
    inside :func:`curvlab.core.precision.float64`.
    """
    program = _program(problem)
    return bool(program) and not re.search(r"\b(bf16|f16|f32|f8\w*)\[", program)


def remarks(problem: Problem) -> tuple[str, ...]:
    """Return what the traced loss does about precision that the user should know."""
    with problem.precision():
        program = _program(problem)
    notes: list[str] = []
    narrow = sorted(set(re.findall(r"\b(bf16|f16|f8\w*)\[", program)))
    if narrow:
        notes.append(
            f"the loss computes in {', '.join(narrow)} inside: the rounding of these casts is part "
            "of the function, and the noise floor sees only another order of summation"
        )
    own = len(re.findall(r"precision=(?:\(Precision\.(?:DEFAULT|HIGH),|BF16|TF32|F16)", program))
    if own:
        notes.append(
            f"{own} matrix products of the loss set a precision of their own below full float32 "
            "(on accelerators TF32 or bfloat16); curvlab's setting does not reach them"
        )
    return tuple(notes)


def _program(problem: Problem) -> str:
    """Return the traced loss of a few examples as text; empty if it insists on another dtype."""
    few = few_examples(problem, SAMPLE)
    key = _program_key(problem, few)
    if key not in _programs:
        try:
            with exact_matmul():
                program = jax.make_jaxpr(problem.objective.total)(
                    problem.params, few, problem.state
                )
            _programs[key] = str(program)
        except TypeError:
            _programs[key] = ""
    return _programs[key]


def _program_key(problem: Problem, few: Batch) -> Hashable:
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(few))
    return problem.objective, problem.layout, shapes
