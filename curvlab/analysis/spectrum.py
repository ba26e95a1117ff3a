"""The spectrum of one checkpoint on one probe set, as a diagnostic.

The Lanczos run of the first start vector serves the measure, the extreme eigenpairs and (through
the eigenvectors) the trace; one noise floor widens all of their intervals.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import xarray as xr

from curvlab.core.errors import OperatorError, UnknownNameError
from curvlab.curvature import OPERATORS as OPERATORS
from curvlab.curvature import CurvatureOperator
from curvlab.curvature import operator_of as operator_of
from curvlab.plasticity import DIAGNOSTICS, Diagnostic
from curvlab.runs import Checkpoint
from curvlab.spectral import (
    Eigenpairs,
    Estimate,
    SpectralMeasure,
    eigenpairs,
    lanczos,
    soundness,
    trace,
)
from curvlab.spectral.noise import NOISE_PRODUCTS, measured_noise_floor
from curvlab.spectral.slq import start_key

TRACE_VECTORS = 8


def pair_names(largest: int, smallest: int) -> list[str]:
    """Return the labels of eigenpairs in the order of :class:`curvlab.Eigenpairs`."""
    return [
        *(f"largest-{rank}" for rank in range(1, largest + 1)),
        *(f"smallest-{rank}" for rank in range(smallest, 0, -1)),
    ]


@dataclass(frozen=True)
class Spectrum(Diagnostic):
    """Measure, extreme eigenpairs, trace and noise floor of a curvature matrix.

    Attributes
    ----------
    operator
        Name of the matrix: ``"hessian"``, ``"gauss_newton"`` or another of ``OPERATORS``.
    order
        Lanczos steps for each start vector.
    vectors
        Start vectors of the measure.
    largest, smallest
        Eigenpairs at each end.
    relative_floor
        The negative fraction counts eigenvalues below ``-relative_floor × max |θ|`` (or below twice
        the noise floor, if that is larger): closer to zero the share is not measurable.
    seed
        Seed of the start vectors, the same ones for every checkpoint, so that differences between
        checkpoints vary less than levels.
    """

    name: ClassVar[str] = "spectrum"
    version: ClassVar[int] = 5
    operator: str = "hessian"
    order: int = 40
    vectors: int = 2
    largest: int = 5
    smallest: int = 5
    relative_floor: float = 1e-3
    seed: int = 0

    def products(self, dim: int) -> int:
        """Return the number of operator products for ``dim`` parameters.

        Raises
        ------
        UnknownNameError
            If the operator is unknown.
        OperatorError
            If the settings cannot be met: order above the dimension, more pairs than steps.
        """
        if self.operator not in OPERATORS:
            raise UnknownNameError("operator", self.operator, OPERATORS)
        if not 1 <= self.order <= dim:
            raise OperatorError(
                f"spectrum(order={self.order}) was asked of a matrix with {dim} rows. Use an order "
                f"from 1 to {dim}."
            )
        if self.vectors < 1:
            raise OperatorError(
                f"spectrum(vectors={self.vectors}) has no start vector. Use vectors >= 1."
            )
        pairs = self.largest + self.smallest
        if min(self.largest, self.smallest) < 1 or pairs > self.order:
            raise OperatorError(
                f"spectrum(largest={self.largest}, smallest={self.smallest}) needs at least one "
                f"pair at each end and at most order={self.order} in total. Change one of them."
            )
        return self.order * self.vectors + pairs + TRACE_VECTORS + 2 * NOISE_PRODUCTS

    def __call__(self, checkpoint: Checkpoint, probe_set: str = "current") -> xr.Dataset:
        """Measure a checkpoint; all variables are prefixed by the operator's name."""
        operator = operator_of(self.operator, checkpoint.problem(probe_set))
        return self.of_operator(operator)

    def of_operator(self, operator: CurvatureOperator) -> xr.Dataset:
        """Measure one matrix."""
        self.products(operator.dim)
        key = jax.random.key(self.seed)
        known = soundness.verify(operator, key)
        runs = [
            lanczos(operator, start_key(key, index), order=self.order)
            for index in range(self.vectors)
        ]
        floor, spent, references = measured_noise_floor(operator, runs[0], key)
        measure = SpectralMeasure.from_lanczos(
            runs,
            dim=operator.dim,
            noise_floor=floor,
            matvecs=sum(run.matvecs for run in runs) + spent,
            estimand=operator.estimand,
        )
        pairs = eigenpairs(
            operator,
            start_key(key, 0),
            order=self.order,
            largest=self.largest,
            smallest=self.smallest,
            noise_floor=floor,
            # A Krylov space that was exhausted early has too few vectors; start anew and restart.
            krylov=None if runs[0].breakdown_step else runs[0],
        )
        total = trace(
            operator,
            jax.random.fold_in(key, 0x7ACE),
            vectors=TRACE_VECTORS,
            deflate=pairs,
            noise_floor=floor,
        )
        # The estimate looks one noise floor to both sides; zero must stay outside.
        threshold = max(2 * floor, self.relative_floor * float(np.abs(measure.nodes).max()))
        negative = measure.negative_fraction(threshold)
        data = {
            **_measure_variables(measure, self.order),
            **_pair_variables(pairs),
            **_estimate_variables("trace", total),
            **_estimate_variables("negative_fraction", negative),
            "negative_floor": ((), threshold),
            "order": ((), self.order),
        }
        beside = {"checks": known.products, "references": references}  # as in Cost
        dataset = xr.Dataset(data, {"pair": pair_names(self.largest, self.smallest)}, beside)
        for name in ("nodes", "eigenvalue", "trace", "negative_fraction"):
            dataset[name].attrs["estimand"] = operator.estimand
            dataset[name].attrs["notes"] = "\n".join(known.notes)
        return dataset.rename({name: f"{self.operator}_{name}" for name in dataset.data_vars})


# Not as a decorator, which would hide the class from type checkers.
DIAGNOSTICS.register("spectrum")(Spectrum)


def _measure_variables(measure: SpectralMeasure, order: int) -> dict[str, Any]:
    """Return a measure's variables, padded to ``order`` nodes as the measure itself pads them."""
    stored = measure.to_dataset()
    missing = order - stored.sizes["node"]
    padded: dict[str, Any] = {}
    for name, variable in stored.data_vars.items():
        values = variable.values
        if "node" in variable.dims and missing:
            how: Any = "edge" if name == "nodes" else "constant"
            values = np.pad(values, ((0, 0), (0, missing)), mode=how)
        padded[str(name)] = (variable.dims, values)
    return padded


def _pair_variables(pairs: Eigenpairs) -> dict[str, Any]:
    return {
        "eigenvalue": ("pair", pairs.values),
        "eigenvalue_low": ("pair", pairs.low),
        "eigenvalue_high": ("pair", pairs.high),
        "eigenvalue_residual": ("pair", pairs.residuals),
        "eigenvalue_converged": ("pair", pairs.converged),
        "eigenvalue_cluster": ("pair", pairs.clusters),
        "eigenvalue_miss": ("pair", pairs.miss, {"gap": pairs.gap}),
    }


def _estimate_variables(name: str, estimate: Estimate) -> dict[str, Any]:
    attributes = {"level": estimate.level, "method": estimate.method}
    parts = {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_stderr": estimate.stderr,
        f"{name}_bracket_low": estimate.bracket_low,
        f"{name}_bracket_high": estimate.bracket_high,
    }
    return {part: ((), value, attributes) for part, value in parts.items()}
