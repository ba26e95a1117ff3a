"""What a single Krylov space cannot see: runs with fresh vectors beside the pairs found."""

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, Float

from curvlab.spectral.certify import miss_bound, rayleigh_ritz
from curvlab.spectral.deflated import Deflated
from curvlab.spectral.memory import Memory
from curvlab.spectral.operator import SymmetricOperator, random_vector
from curvlab.spectral.ritz import ExtremePairs, extreme_pairs, plan

GAP = 0.01
"""Share of the spectrum's width by which an eigenvalue must stick out to count as missed."""

FRESH = 0x2E57A27
"""Tag of the keys of fresh vectors; far from the small numbers by which callers derive keys."""

AFTERWARDS = 2**20
"""Number of the first fresh vector of a verification, beyond those after breakdowns."""

VERIFICATIONS = 5
"""Most deflated runs at which something new is found, before the search is given up."""


def fresh_vector(op: SymmetricOperator, key: Array, count: int) -> Float[Array, " dim"]:
    """Draw a start vector that no other run of this key has."""
    return random_vector(jax.random.fold_in(jax.random.fold_in(key, FRESH), count), op.dim)


def verified(
    op: SymmetricOperator,
    key: Array,
    found: ExtremePairs,
    wanted: tuple[int, int],
    steps: int,
    memory: Memory | int | None,
) -> tuple[ExtremePairs, Float[np.ndarray, " 2"]]:
    """Look for what a single Krylov space cannot see, on the operator without the pairs found.

    Deflated pairs sit in the middle of the spectrum; values of the complement that are further out
    than a pair found are added to it, until a run finds none.
    """
    complete, attempt = False, 0
    for attempt in range(VERIFICATIONS):
        rest = Deflated(op, found.vectors, found.middle)
        steps = min(steps, op.dim - len(found.values))
        if steps < 1:
            complete = True
            break
        first = rest.project(fresh_vector(op, key, AFTERWARDS + attempt))
        outermost = (min(wanted[0], steps), min(wanted[1], max(steps - wanted[0], 0)))
        extra = extreme_pairs(
            rest,
            first,
            outermost,
            tolerance=1.0,
            order=steps,
            fresh=None,
            room=plan(rest, sum(outermost), steps, memory),
        )
        found = replace(found, matvecs=found.matvecs + extra.matvecs)
        upper, lower = min(wanted[0], len(found.values)), wanted[1]
        outside = np.zeros(len(extra.values), bool)
        margin = 64 * float(np.finfo(op.dtype).eps) * float(np.abs(found.values).max())
        if upper:
            outside |= extra.values > found.values[upper - 1] + margin
        if lower:
            outside |= extra.values < found.values[-min(lower, len(found.values))] - margin
        # Copies of the deflated vectors are nothing new.
        outside &= np.abs(extra.vectors @ found.vectors.T).max(1) < 0.1
        if not outside.any():
            complete = True
            break
        vectors = extra.vectors[outside]
        images = np.asarray(op.matmat(vectors.astype(op.dtype)), np.float64)
        both = rayleigh_ritz(
            np.concatenate([found.vectors, vectors]), np.concatenate([found.images, images])
        )
        spent = found.matvecs + len(vectors)
        union = replace(found, values=both[0], vectors=both[1], images=both[2], matvecs=spent)
        found = union.outermost(*wanted)
    # Any of the runs may have overlooked something: a union bound.
    bound = miss_bound(op.dim - len(found.values), steps, GAP) * (attempt + 1) if steps >= 1 else 0
    miss = np.full(2, min(1.0, bound) if complete else np.nan)
    return found, miss
