"""Drawn spectra: hypothesis strategies for symmetric matrices whose eigenvalues are known.

Spectra are drawn, not matrices: clusters, zeros, repeats, both signs and twelve decades of scale
are what estimators stumble over. Dimensions come from a short list, since each one compiles anew.
The eigenvectors follow from a seed, which is drawn too.
"""

import numpy as np
from hypothesis import strategies as st

from curvlab.spectral import Dense

DIMS = (5, 24)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def spectra(draw, dims=DIMS):
    """Draw eigenvalues, ascending, in float64."""
    dim = draw(st.sampled_from(dims))
    rng = np.random.default_rng(draw(SEEDS))
    kind = draw(
        st.sampled_from(
            [
                "random",
                "clusters",
                "zeros",
                "repeats",
                "decades",
                "identity",
                "two-point",
                "low rank",
            ]
        )
    )
    values = rng.normal(size=dim)
    if kind == "clusters":
        values = rng.choice([-1.0, 0.5, 3.0], dim) + 1e-7 * values
    elif kind == "zeros":
        values[: dim // 2] = 0
    elif kind == "repeats":
        values = np.repeat(values, 5)[:dim]
    elif kind == "decades":
        values = rng.choice([-1.0, 1.0], dim) * np.logspace(-12, 0, dim)
    elif kind == "identity":
        values = np.ones(dim)
    elif kind == "two-point":
        values = rng.choice([-2.0, 1.0], dim)
        values[:2] = -2.0, 1.0
    elif kind == "low rank":
        values[2:] = 0
    scale = 10.0 ** draw(st.integers(-4, 4))
    return np.sort(values) * scale


def rotation(dim, seed=0):
    """Return a random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def rotated(eigenvalues, seed=0, dtype=np.float64):
    """Return a dense operator with the given eigenvalues in a random orthonormal basis."""
    basis = rotation(len(eigenvalues), seed)
    matrix = (basis * eigenvalues) @ basis.T
    return Dense(((matrix + matrix.T) / 2).astype(dtype))
