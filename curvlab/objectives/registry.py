"""The table of per-example losses; other packages add theirs under ``curvlab.objectives``."""

from collections.abc import Callable

from jaxtyping import Array, Float, PyTree

from curvlab.core.registry import Registry

Loss = Callable[[PyTree, PyTree], Float[Array, " examples"]]

OBJECTIVES: Registry[Loss] = Registry("objective", "curvlab.objectives")
