"""The table of per-example losses; other packages add theirs under ``curvlab.objectives``."""

import json
from collections.abc import Callable
from functools import lru_cache, partial

from jaxtyping import Array, Float, PyTree

from curvlab.core.registry import Registry
from curvlab.core.specs import Spec

Loss = Callable[[PyTree, PyTree], Float[Array, " examples"]]

OBJECTIVES: Registry[Loss] = Registry("objective", "curvlab.objectives")


def build_objective(spec: Spec) -> Loss:
    """Return the loss that a spec names, with its settings bound as keyword arguments.

    Equal specs give the same function object, so that all checkpoints of a run share one
    compilation.

    Raises
    ------
    UnknownNameError
        If no loss has the name.
    """
    return _bound(spec.name, json.dumps(dict(spec.settings), sort_keys=True))


@lru_cache
def _bound(name: str, settings: str) -> Loss:
    keywords = json.loads(settings)
    return partial(OBJECTIVES[name], **keywords) if keywords else OBJECTIVES[name]
