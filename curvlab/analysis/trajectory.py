"""How a spectrum moves from checkpoint to checkpoint of a run.

Every checkpoint sees the same start vectors, and its eigenpairs start from those of the one before.
Pairs are followed by their vectors and not by their rank. What is measured at a step is stored
under a key that knows all steps before it, so that an interrupted call goes on where it was.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array

import curvlab
from curvlab.analysis.survey import Entry, probe_set_of, survey
from curvlab.core.errors import RunError
from curvlab.curvature import operator_of
from curvlab.runs import Run
from curvlab.spectral import (
    Eigenpairs,
    SpectralMeasure,
    eigenpairs,
    match_eigenpairs,
    principal_angles,
    slq,
    wasserstein,
)
from curvlab.spectral.basis import Tier

NAME = "trajectory"
"""What the result files are called."""
_VERSION = 3
_ARRAYS = {
    "values": ("pair",),
    "vectors": ("pair", "parameter"),
    "residuals": ("pair",),
    "residual_gram": ("pair", "other_pair"),
    "low": ("pair",),
    "high": ("pair",),
    "clusters": ("pair",),
    "converged": ("pair",),
    "miss": ("pair",),
}


@dataclass(frozen=True)
class _Settings:
    """What decides the numbers, as plain data."""

    operator: str
    order: int
    vectors: int
    largest: int
    smallest: int
    count: int
    tolerance: float
    key: tuple[int, ...]


def trajectory(
    run: Run,
    key: Array,
    *,
    steps: Sequence[int] | None = None,
    probe_set: str = "current",
    operator: str = "hessian",
    order: int = 40,
    vectors: int = 2,
    largest: int = 6,
    smallest: int = 1,
    count: int = 5,
    tolerance: float = 1e-3,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Follow spectrum and eigenpairs over the checkpoints of a run; stored steps are not repeated.

    Parameters
    ----------
    run
        An open run.
    key
        Key of all start vectors, the same ones at every checkpoint.
    steps
        Which checkpoints; all usable ones by default.
    probe_set
        ``"current"``, ``"next"``, or a name: with one name the data stay fixed and only the
        parameters move.
    operator
        The matrix, as in :func:`curvlab.analyze`.
    order, vectors
        Lanczos steps and start vectors of the measures.
    largest, smallest
        Eigenpairs at each end.
    count
        Dimension of the dominant subspaces whose angles are measured; fewer than all pairs, since
        the error of an angle needs the next pair.
    tolerance
        Of the eigenpairs.
    progress
        Called with every step that is done.

    Returns
    -------
    xarray.Dataset
        Over ``step``: ``eigenvalue(pair)`` with ``_low``, ``_high``; ``track(pair)``, the number
        under which a pair is followed; ``overlap(pair)`` with its predecessor;
        ``angle(direction)`` and ``angle_error`` in radians, ``distance`` and ``null`` (each with
        ``_low``, ``_high``) in units of an eigenvalue, all from the step before (NaN at the first);
        ``products``.

    Raises
    ------
    RunError
        If a step or the probe set does not exist, or fewer than two checkpoints are usable.
    OperatorError
        If a setting does not fit the number of parameters.

    Notes
    -----
    Per checkpoint ``2 order × vectors`` products (half of them for the null) and those of the
    eigenpairs, which a warm start saves where little has moved. Eigenvectors are stored in float32:
    ``4 (largest + smallest) × dim`` bytes for each step.

    References
    ----------
    Björck and Golub 1973 for the angles; :func:`curvlab.wasserstein` for distance and null.
    """
    settings = _Settings(
        operator=operator,
        order=order,
        vectors=vectors,
        largest=largest,
        smallest=smallest,
        count=count,
        tolerance=tolerance,
        key=tuple(np.asarray(jax.random.key_data(key)).ravel().tolist()),
    )
    usable = [entry for entry in survey(run, steps) if entry.usable]
    places = [(entry, probe_set_of(run, entry, probe_set)) for entry in usable]
    known = [(entry, name) for entry, name in places if name is not None]
    if len(known) < 2:
        raise RunError(
            f"A trajectory of {run.path} on {probe_set!r} needs two usable checkpoints, found "
            f"{len(known)}. Name other steps or another probe set."
        )
    pieces: list[xr.Dataset] = []
    before: xr.Dataset | None = None
    chain = ""
    for entry, name in known:
        chain = _chained(chain, settings, entry, run.probe_sets.hash(name))
        found = run.read_result(NAME, entry.step, name, chain)
        if found is None:
            found = _measure(run, key, settings, entry, name, before)
            run.write_result(NAME, entry.step, name, chain, found)
        # The vectors of one step are enough for the next; together they would fill the memory.
        pieces.append(found.drop_dims("parameter"))
        before = found
        if progress is not None:
            progress(entry.step)
    table = xr.concat(
        [_labelled(piece) for piece in pieces],
        xr.Variable("step", [entry.step for entry, _ in known]),
        combine_attrs="drop_conflicts",
    )
    return table.assign(track=(("step", "pair"), _tracks(table["predecessor"].values)))


def _chained(chain: str, settings: _Settings, entry: Entry, probe_hash: str) -> str:
    """Return the key of a step: warm starts make it depend on all steps before."""
    identity = [chain, vars(settings), entry.digest, probe_hash, curvlab.__version__, _VERSION]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _measure(
    run: Run,
    key: Array,
    settings: _Settings,
    entry: Entry,
    probe_set: str,
    before: xr.Dataset | None,
) -> xr.Dataset:
    begin = time.perf_counter()
    op = operator_of(settings.operator, run.checkpoint(entry.step).problem(probe_set))
    earlier = None if before is None else _stored_pairs(before)
    pairs = eigenpairs(
        op,
        jax.random.fold_in(key, 1),
        largest=settings.largest,
        smallest=settings.smallest,
        tolerance=settings.tolerance,
        start=earlier,
    )
    floor = pairs.noise_floor
    measure, fresh = (
        slq(
            op,
            jax.random.fold_in(key, number),
            order=settings.order,
            vectors=settings.vectors,
            noise_floor=floor,
        )
        for number in (2, 3)
    )
    data: dict[str, Any] = {
        name: (dims, getattr(pairs, name).astype(np.float32 if name == "vectors" else np.float64))
        for name, dims in _ARRAYS.items()
    }
    data["products"] = ((), float(pairs.matvecs + measure.matvecs + fresh.matvecs))
    costs = [part.cost for part in (pairs, measure, fresh) if part.cost]
    described = {
        field.name: getattr(pairs, field.name)
        for field in fields(Eigenpairs)
        if field.name not in (*_ARRAYS, "layout", "cost")
    }
    found = xr.Dataset(data).assign(_comparison(settings, before, pairs, measure))
    stored = {
        **{f"measure_{name}": variable for name, variable in measure.to_dataset().items()},
        **{f"fresh_{name}": variable for name, variable in fresh.to_dataset().items()},
    }
    return found.assign(stored).assign_attrs(
        diagnostic=NAME,
        curvlab_version=curvlab.__version__,
        settings={name: list(v) if name == "key" else v for name, v in vars(settings).items()},
        step=entry.step,
        task=-1 if entry.task is None else entry.task,
        checkpoint=entry.digest,
        checks=sum(cost.checks for cost in costs),
        references=sum(cost.references for cost in costs),
        pairs=described,
        measure=dict(measure.to_dataset().attrs),
        fresh=dict(fresh.to_dataset().attrs),
        seconds=time.perf_counter() - begin,
    )


def _comparison(
    settings: _Settings, before: xr.Dataset | None, pairs: Eigenpairs, measure: SpectralMeasure
) -> dict[str, Any]:
    """Compare with the checkpoint before: all NaN, and no predecessors, at the first."""
    size = len(pairs.values)
    predecessor, overlap = np.full(size, -1.0), np.full(size, np.nan)
    angles, error = np.full(settings.count, np.nan), np.nan
    distances = dict.fromkeys((f"{n}{e}" for n in ("distance", "null") for e in _ENDS), np.nan)
    if before is not None:
        earlier = _stored_pairs(before)
        matching = match_eigenpairs(earlier, pairs)
        predecessor[matching.second] = matching.first
        overlap[matching.second] = matching.overlaps
        between = principal_angles(earlier, pairs, count=settings.count)
        angles, error = between.radians, between.error
        moved = wasserstein(
            _stored_measure(before, "measure"), measure, fresh=_stored_measure(before, "fresh")
        )
        for name, estimate in (("distance", moved.distance), ("null", moved.null)):
            for end, value in zip(
                _ENDS, (estimate.value, estimate.low, estimate.high), strict=True
            ):
                distances[f"{name}{end}"] = value
    return {
        "predecessor": ("pair", predecessor),
        "overlap": ("pair", overlap),
        "angle": ("direction", angles),
        "angle_error": ((), error),
        **{name: ((), value) for name, value in distances.items()},
    }


_ENDS = ("", "_low", "_high")


def _stored_pairs(found: xr.Dataset) -> Eigenpairs:
    """Return eigenpairs as they are stored, so that live and resumed calls see the same bits."""
    arrays: dict[str, Any] = {name: found[name].values.astype(np.float64) for name in _ARRAYS}
    arrays["clusters"] = arrays["clusters"].astype(np.int64)
    arrays["converged"] = arrays["converged"].astype(bool)
    told: dict[str, Any] = {**found.attrs["pairs"]}
    told["tier"] = Tier(told["tier"])
    told["notes"] = tuple(told.get("notes", ()))  # a list in the file
    return Eigenpairs(**arrays, **told, layout=None)


def _stored_measure(found: xr.Dataset, name: str) -> SpectralMeasure:
    names = {n: str(n).removeprefix(f"{name}_") for n in found if str(n).startswith(f"{name}_")}
    one = found[list(names)].rename(names)
    return SpectralMeasure.from_dataset(one.drop_attrs().assign_attrs(found.attrs[name]))


def _labelled(piece: xr.Dataset) -> xr.Dataset:
    """Keep what a reader of the trajectory needs."""
    inner = ("measure_", "fresh_", "residual_gram", "miss")
    kept = piece.drop_vars([name for name in piece if str(name).startswith(inner)])
    return kept.rename(
        values="eigenvalue", low="eigenvalue_low", high="eigenvalue_high"
    ).drop_attrs()


def _tracks(predecessors: np.ndarray) -> np.ndarray:
    """Give matched pairs the number of their predecessor, and others the next free one."""
    tracks = np.zeros(predecessors.shape, np.int64)
    free = 0
    for row, links in enumerate(predecessors.astype(np.int64)):
        for column, link in enumerate(links):
            if row and link >= 0:
                tracks[row, column] = tracks[row - 1, link]
            else:
                tracks[row, column] = free
                free += 1
    return tracks
