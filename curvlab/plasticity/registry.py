"""The table of diagnostics, and what a diagnostic is.

Built-in ones register themselves in this package and in :mod:`curvlab.analysis`; other packages
offer theirs under the entry-point group ``curvlab.diagnostics``.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import xarray as xr

from curvlab.core.registry import Registry
from curvlab.runs import Checkpoint


class Diagnostic(abc.ABC):
    """Base of diagnostics: frozen dataclasses with settings as fields, callable on a checkpoint.

    Attributes
    ----------
    name
        Name in the registry and in the names of result files.
    version
        Raised whenever the same settings would give other numbers; part of the key of a result.
    on_probe_set
        False for what depends on the parameters alone, which is then measured once per checkpoint.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    on_probe_set: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(self, checkpoint: Checkpoint, probe_set: str) -> xr.Dataset:
        """Measure ``checkpoint`` on the probe set of that name, ``"current"`` or ``"next"``."""

    def products(self, dim: int) -> int:
        """Return the cost in operator products for ``dim`` parameters; 0 for forward passes."""
        del dim
        return 0


DIAGNOSTICS: Registry[type[Diagnostic]] = Registry("diagnostic", "curvlab.diagnostics")


def settings_of(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return the settings of a diagnostic as plain data."""
    return dataclasses.asdict(diagnostic)  # type: ignore[call-overload]
