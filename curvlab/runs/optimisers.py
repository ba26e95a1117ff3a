"""Optimisers by name: the optax aliases a spec may refer to.

A spec's settings are the keyword arguments of the alias. It serves to train and, later, to rebuild
the structure of a stored optimiser state.
"""

import inspect
from typing import TYPE_CHECKING, Any

from curvlab.core.errors import RunError, UnknownNameError
from curvlab.core.specs import Spec

if TYPE_CHECKING:
    import optax

OPTIMISERS = (
    "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw",
    "amsgrad", "lamb", "lars", "lion", "nadam", "nadamw", "novograd", "radam", "rmsprop", "rprop",
    "sgd", "sm3", "yogi",
)  # fmt: skip


def build_optimiser(spec: Spec) -> "optax.GradientTransformation":
    """Return the optax transformation that a spec names.

    Raises
    ------
    UnknownNameError
        If the name is not one of ``OPTIMISERS``.
    RunError
        If the alias refuses the settings.
    """
    import optax

    if spec.name not in OPTIMISERS:
        raise UnknownNameError("optimiser", spec.name, OPTIMISERS)
    alias: Any = getattr(optax, spec.name)
    parameters = inspect.signature(alias).parameters
    try:
        inspect.signature(alias).bind(**spec.settings)
        return alias(**spec.settings)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"Optimiser {spec.name!r} was given {dict(spec.settings)}, but {error}. Use the "
            f"keyword arguments of optax.{spec.name}: {', '.join(parameters)}."
        ) from error
