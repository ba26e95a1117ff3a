"""The output-perturbation loss: how the landscape looks to a target close to the present output.

``l(θ) = mean_c (f_θ(x) - stop(f_θ(x)) + ε)²`` with ``ε ~ N(0, 1)`` for each output. Seen from one
checkpoint this is squared error against the targets ``f(x) - ε``, which are drawn once and stored
as data: the objective is then an ordinary function of the parameters. The draw over a problem's
data is :func:`curvlab.perturb_outputs`.

References
----------
Lyle et al. 2023, *Understanding plasticity in neural networks*, case study 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvlab.objectives.registry import OBJECTIVES
from curvlab.objectives.supervised import squared_error


@OBJECTIVES.register("output_perturbation")
def output_perturbation(
    outputs: Float[Array | np.ndarray, "examples *output"],
    targets: Float[Array | np.ndarray, "examples *output"],
) -> Float[Array, " examples"]:
    """Squared error ``mean_c (f_c - y_c)²`` to perturbed outputs, mean over outputs.

    With targets ``y = f₀ - ε`` fixed at a checkpoint its Hessian there is, in expectation over
    ``ε``, the Gauss-Newton matrix ``(2/nC) JᵀJ``; negative curvature comes from ``ε`` alone.
    """
    return squared_error(outputs, targets)


def perturbed_target(key: Array, output: Float[Array, "*output"]) -> Float[Array, "*output"]:
    """Draw the target ``f - ε`` of one example; the same ``ε`` in every precision."""
    return output - jax.random.normal(key, jnp.shape(output), jnp.float32).astype(output.dtype)
