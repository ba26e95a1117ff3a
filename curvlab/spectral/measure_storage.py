"""Spectral measures as datasets: every number that an interval is made of."""

from typing import Any

import numpy as np
import xarray as xr

from curvlab.spectral.basis import Tier
from curvlab.spectral.measure import SpectralMeasure

_TABLES = ("nodes", "weights", "diagonal", "offdiagonal")
_COLUMNS = ("orders", "exact", "vector_weights")


def to_dataset(measure: SpectralMeasure) -> xr.Dataset:
    """Return everything as a dataset over ``vector`` and ``node``, and ``atom`` where there are."""
    deflated: Any = {}
    if len(measure.atoms):
        deflated = {"atoms": (("atom",), measure.atoms)}
    return xr.Dataset(
        {
            **{name: (("vector", "node"), getattr(measure, name)) for name in _TABLES},
            **{name: (("vector",), getattr(measure, name)) for name in _COLUMNS},
            "dim": measure.dim,
            "noise_floor": measure.noise_floor,
            "random": measure.random,
            "matvecs": measure.matvecs,
            "orthogonal": measure.orthogonal,
            "orthogonality": measure.orthogonality,
            "coupling": measure.coupling,
            **deflated,
        },
        attrs={
            "estimand": measure.estimand,
            "notes": "\n".join(measure.notes),
            "tier": str(measure.tier or ""),
        },
    )


def from_dataset(dataset: xr.Dataset) -> SpectralMeasure:
    """Rebuild a measure from :func:`to_dataset`."""
    tables: Any = {name: np.asarray(dataset[name].values, np.float64) for name in _TABLES}
    return SpectralMeasure(
        **tables,
        orders=np.asarray(dataset["orders"].values).astype(int),
        exact=np.asarray(dataset["exact"].values).astype(bool),
        vector_weights=np.asarray(dataset["vector_weights"].values, np.float64),
        dim=int(dataset["dim"]),
        noise_floor=float(dataset["noise_floor"]),
        random=bool(dataset["random"]),
        matvecs=int(dataset["matvecs"]),
        estimand=str(dataset.attrs.get("estimand", "")),
        atoms=np.asarray(dataset.get("atoms", np.zeros(0)), np.float64),
        coupling=float(dataset["coupling"]),
        tier=_tier(dataset),
        orthogonality=float(dataset.get("orthogonality", float("nan"))),
        notes=tuple(str(dataset.attrs.get("notes", "")).splitlines()),
    )


def _tier(dataset: xr.Dataset) -> Tier | None:
    """Return the tier; where attributes were dropped, at least whether there was a basis."""
    name = str(dataset.attrs.get("tier", ""))
    if name:
        return Tier(name)
    return None if bool(dataset["orthogonal"]) else Tier.NONE
