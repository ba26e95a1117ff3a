"""The entries of a tangent kernel, from blocks of explicit Jacobians."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import OperatorError
from curvlab.core.precision import exact_matmul
from curvlab.curvature.problem import Batch, Problem
from curvlab.curvature.tangent_kernel import Rows, TangentKernel


@partial(jax.jit, static_argnames="rows")
def _jacobian(rows: Rows, params: PyTree, batch: Batch, state: PyTree) -> PyTree:
    """Return leaves of shape (examples, rows of an example, entries)."""

    def one(inputs: PyTree, targets: PyTree, weight: Array) -> PyTree:
        single = Batch(inputs, targets, weight)
        return jax.jacrev(lambda point: rows(point, single, state)[0])(params)

    parts = (batch.inputs, batch.targets, batch.weights)
    gradients = jax.vmap(one)(*jax.tree.map(lambda leaf: leaf[:, None], parts))
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:2], -1), gradients)


@partial(jax.jit, static_argnames="traced")
def _gram(left: PyTree, right: PyTree, traced: bool) -> Array:
    formula = "acp,bcp->ab" if traced else "acp,bdp->acbd"
    parts = [
        jnp.einsum(formula, a, b)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    ]
    total = sum(parts[1:], parts[0])
    return total if traced else total.reshape(total.shape[0] * total.shape[1], -1)


def tangent_kernel(
    problem: Problem, *, outputs: str = "full", memory: int = 2**30
) -> Float[np.ndarray, "rows rows"]:
    """Return the entries of a tangent kernel.

    Parameters
    ----------
    problem, outputs
        As for :class:`TangentKernel`.
    memory
        Bytes for two blocks of output gradients; with fewer bytes gradients are computed again.

    Returns
    -------
    The symmetric matrix on the host, ``nC`` or ``n`` rows in the order of the data, not normalised
    (``"gauss_newton"``: divided by the total weight). Cost: one backward pass over the data for
    each output, times half the number of blocks.

    Raises
    ------
    OperatorError
        If the output gradients of two examples do not fit in ``memory``.
    """
    kernel = TangentKernel(problem, outputs=outputs)
    columns = kernel.columns
    each = columns * problem.layout.dim * problem.layout.dtype.itemsize
    size = memory // (2 * each)
    if size < 1:
        raise OperatorError(
            f"tangent_kernel(memory={memory}) cannot hold the output gradients of two examples, "
            f"{2 * each} bytes. Allow more, or use TangentKernel, whose products need none of them."
        )
    whole = problem.together()
    cuts = [slice(start, start + size) for start in range(0, problem.examples, size)]
    rows, per_example = kernel.rows, kernel.dim // problem.examples
    entries = np.empty((kernel.dim, kernel.dim), kernel.dtype)

    def gradients(cut: slice) -> PyTree:
        part: Batch = jax.tree.map(lambda leaf: leaf[cut], whole)
        return _jacobian(rows, problem.params, part, problem.state)

    with problem.precision(), exact_matmul():
        for index, left in enumerate(cuts):
            first = gradients(left)
            for right in cuts[index:]:
                second = first if right is left else gradients(right)
                block = np.asarray(_gram(first, second, outputs == "trace"))
                above, below = (
                    slice(cut.start * per_example, min(cut.stop, problem.examples) * per_example)
                    for cut in (left, right)
                )
                entries[above, below] = block
                entries[below, above] = block.T
    return (entries + entries.T) / 2 * kernel.scale
