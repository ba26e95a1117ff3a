"""Thousands of Lanczos runs at once, on diagonal matrices, for tests of coverage.

A draw through :func:`curvlab.slq` costs milliseconds, nearly all of them in dispatching small
operations. Here the three-term recurrence with full orthogonalisation runs in NumPy for all draws
together; what is tested, the intervals of :class:`curvlab.SpectralMeasure`, is the library's.
"""

import numpy as np

from curvlab.spectral import SpectralMeasure
from curvlab.spectral.brackets import tridiagonal_eigh


def measures(eigenvalues, *, draws, order, vectors=1, noise_floor=0.0, seed=0):
    """Yield spectral measures of a diagonal matrix from independent Gaussian start vectors."""
    values = np.asarray(eigenvalues, np.float64)
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(draws * vectors, len(values)))
    diagonal, offdiagonal = _lanczos(values, starts, order)
    norms = (starts**2).sum(1).reshape(draws, vectors)
    for draw in range(draws):
        rows = slice(draw * vectors, (draw + 1) * vectors)
        yield _measure(
            values, diagonal[rows], offdiagonal[rows], norms[draw], noise_floor=noise_floor
        )


def _lanczos(values, starts, order):
    count = len(starts)
    basis = np.zeros((order, *starts.shape))
    diagonal, offdiagonal = np.zeros((count, order)), np.zeros((count, order))
    vector = starts / np.linalg.norm(starts, axis=1, keepdims=True)
    for step in range(order):
        basis[step] = vector
        image = values * vector
        diagonal[:, step] = (vector * image).sum(1)
        for _ in range(2):
            shares = np.einsum("krn,rn->kr", basis[: step + 1], image)
            image = image - np.einsum("kr,krn->rn", shares, basis[: step + 1])
        offdiagonal[:, step] = np.linalg.norm(image, axis=1)
        vector = image / np.maximum(offdiagonal[:, step : step + 1], 1e-300)
    return diagonal, offdiagonal


def _measure(values, diagonal, offdiagonal, norms, *, noise_floor):
    """Collect runs as :meth:`SpectralMeasure.from_lanczos` does, breakdowns included."""
    count, order = diagonal.shape
    nodes, weights = np.zeros((count, order)), np.zeros((count, order))
    orders, exact = np.full(count, order), np.zeros(count, bool)
    limit = 32 * np.finfo(np.float64).eps * np.abs(values).max()
    for row in range(count):
        ended = np.flatnonzero(offdiagonal[row] <= limit)
        if len(ended):
            orders[row], exact[row] = ended[0] + 1, True
        m = orders[row]
        ritz, vectors = tridiagonal_eigh(diagonal[row, :m], offdiagonal[row, : m - 1])
        nodes[row] = np.pad(ritz, (0, order - m), mode="edge")
        weights[row, :m] = vectors[0] ** 2 / (vectors[0] ** 2).sum()
    return SpectralMeasure(
        nodes,
        weights,
        diagonal,
        offdiagonal,
        orders,
        exact,
        norms / norms.sum(),
        len(values),
        noise_floor,
        random=True,
        matvecs=int(orders.sum()),
        estimand="simulated",
    )
