"""Make the public oracle set: ``python -m tests.oracles.make_set [FOLDER [NAME ...]]``.

Four small classifiers of handwritten digits at points that are hard in different ways, each with
all eigenvalues of its Hessian and Gauss-Newton matrix in float64. Everything is NumPy; the dense
Hessian is then computed a second time by stacked products of JAX's automatic differentiation, and
the two must agree to 1e-9. ``docs/oracle-set.md`` says how to use the set.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from tests.oracles import dense_mlp

FOLDER = Path(__file__).parent / "set"
EXAMPLES = 500
SIZES = (64, 32, 32, 10)
NARROW = (64, 5, 5, 10)
BLOCK = 2
"""Vectors that the second route pushes through at once; divides the number of parameters."""

PROBES = 7
"""Seed of the three fixed vectors whose products are stored."""


def start(rng, sizes, activation):
    """Draw weights of variance 1 / fan-in (2 / fan-in for ReLU) and zero biases."""
    gain = 2.0 if activation == "relu" else 1.0
    pieces = []
    for shape in dense_mlp.shapes(sizes):
        scale = np.sqrt(gain / shape[0]) if len(shape) == 2 else 0.0
        pieces.append(scale * rng.normal(size=shape).ravel())
    return np.concatenate(pieces)


def adam(theta, gradient, rate, steps):
    """Return the point after so many steps of Adam."""
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(1, steps + 1):
        g = gradient(theta, step)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        theta = theta - rate * scaled
    return theta


def healthy(x, y):
    """Train with Adam until most digits are learnt: large curvature of both signs."""
    rng = np.random.default_rng(0)

    def gradient(theta, _):
        rows = rng.integers(0, len(y), 128)
        return dense_mlp.gradient(theta, x[rows], y[rows], SIZES, "tanh")

    return adam(start(rng, SIZES, "tanh"), gradient, 2e-3, 300), y, "tanh"


def dead(x, y):
    """Fit seven tasks of random labels one after the other with ReLU units: many die."""
    rng = np.random.default_rng(1)
    theta, labels = start(rng, SIZES, "relu"), y
    for _ in range(7):
        labels = rng.integers(0, 10, len(y))

        def gradient(point, _, labels=labels):
            rows = rng.integers(0, len(labels), 128)
            return dense_mlp.gradient(point, x[rows], labels[rows], SIZES, "relu")

        theta = adam(theta, gradient, 5e-3, 150)
    return theta, labels, "relu"


def saddle(x, y):
    """Split the units of a narrow network close to a minimum: nearly stationary, no minimum.

    Each unit becomes several with the same inputs whose output weights sum to the old ones, some
    with the opposite sign (Fukumizu and Amari 2000).
    """
    rng = np.random.default_rng(2)

    def value(theta):
        return dense_mlp.loss(theta, x, y, NARROW, "tanh") + 5e-7 * theta @ theta

    def slope(theta):
        return dense_mlp.gradient(theta, x, y, NARROW, "tanh") + 1e-6 * theta

    theta = minimize(value, start(rng, NARROW, "tanh"), jac=slope, method="L-BFGS-B",
                     options={"maxiter": 4000, "maxcor": 50, "maxfun": 8000}).x  # fmt: skip
    for _ in range(20):  # Newton on the loss itself, to a zero of its gradient
        g = dense_mlp.gradient(theta, x, y, NARROW, "tanh")
        values, vectors = np.linalg.eigh(dense_mlp.hessian(theta, x, y, NARROW, "tanh"))
        step = vectors @ ((vectors.T @ g) / np.where(np.abs(values) > 1e-9, values, np.inf))
        theta = theta - min(1.0, 0.5 / np.linalg.norm(step)) * step
        if np.linalg.norm(g) < 1e-13:
            break
    w1, b1, w2, b2, w3, b3 = dense_mlp.unflatten(theta, NARROW)
    wide, narrow = SIZES[1], NARROW[1]
    owner = np.arange(wide) % narrow
    share = rng.normal(1.0, 2.0, size=(2, wide))
    for layer in range(2):
        total = np.zeros(narrow)
        np.add.at(total, owner, share[layer])
        share[layer] /= total[owner]
    w1, b1 = w1[:, owner], b1[owner]
    w2, b2 = (w2[owner] * share[0][:, None])[:, owner], b2[owner]
    w3 = w3[owner] * share[1][:, None]
    return np.concatenate([a.ravel() for a in (w1, b1, w2, b2, w3, b3)]), y, "tanh"


def edge(x, y):
    """Descend with the full batch at a rate that is too large until it just is not any more.

    The largest eigenvalue first exceeds 2 / rate, the iterates oscillate and settle where it falls
    to 2 / rate. The last step is shortened so that it is met to a thousandth.
    """
    rng = np.random.default_rng(3)
    theta = start(rng, SIZES, "tanh")
    vector = rng.normal(size=len(theta))

    def largest(point, repeats):
        nonlocal vector
        value = np.nan
        for _ in range(repeats):  # power iteration, warm from the call before
            vector = vector / np.linalg.norm(vector)
            step = point + 1e-30j * vector
            image = np.imag(dense_mlp.gradient(step, x, y, SIZES, "tanh")) / 1e-30
            value, vector = vector @ image, image
        return value

    def down(point, rate):
        return point - rate * dense_mlp.gradient(point, x, y, SIZES, "tanh")

    for _ in range(20):
        theta = down(theta, EDGE_RATE)
    largest(theta, 20)
    while largest(down(theta, EDGE_RATE), 10) * EDGE_RATE > 2:
        theta = down(theta, EDGE_RATE)
    short, long = 0.0, EDGE_RATE
    for _ in range(10):
        middle = (short + long) / 2
        above = largest(down(theta, middle), 15) * EDGE_RATE > 2
        short, long = (middle, long) if above else (short, middle)
    return down(theta, (short + long) / 2), y, "tanh"


EDGE_RATE = 1.0
CHECKPOINTS = {"healthy": healthy, "dead": dead, "saddle": saddle, "edge": edge}


def stacked_products(theta, x, y, activation):
    """Return the dense Hessian by float64 products of JAX: the second route."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):

        def loss(point):
            hidden = jnp.asarray(x)
            arrays = dense_mlp.unflatten(point, SIZES)
            for index in range(0, len(arrays), 2):
                hidden = hidden @ arrays[index] + arrays[index + 1]
                if index + 2 < len(arrays):
                    hidden = jnp.tanh(hidden) if activation == "tanh" else jax.nn.relu(hidden)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(hidden), jnp.asarray(y)[:, None], 1)
            return -chosen.mean()

        _, product = jax.linearize(jax.grad(loss), jnp.asarray(theta, jnp.float64))
        # The linear map is an argument: as a constant it would be folded into the program.
        many = jax.jit(lambda linear, vectors: jax.vmap(linear)(vectors))
        columns = np.eye(len(theta)).reshape(-1, BLOCK, len(theta))
        rows = [np.asarray(many(product, block)) for block in columns]
    dense = np.concatenate(rows)
    return (dense + dense.T) / 2


def gauss_newton(theta, x, activation):
    """Return the dense Gauss-Newton matrix ``(1/n) Σ_i J_iᵀ L_i L_iᵀ J_i``, one row of ``Lᵀ J``
    for all examples at a time, with ``L = diag √p - p √pᵀ``.
    """
    z, inputs, slopes = dense_mlp.forward(theta, x, SIZES, activation)
    arrays = dense_mlp.unflatten(theta, SIZES)
    p = dense_mlp.softmax(z)
    total = np.zeros((len(theta), len(theta)))
    for output in range(SIZES[-1]):
        delta = -p * np.sqrt(p[:, output : output + 1])
        delta[:, output] += np.sqrt(p[:, output])
        pieces = []
        for layer in reversed(range(len(SIZES) - 1)):
            weights = inputs[layer][:, :, None] * delta[:, None, :]
            pieces.append(np.concatenate([weights.reshape(len(x), -1), delta], axis=1))
            if layer:
                delta = (delta @ arrays[2 * layer].T) * slopes[layer - 1]
        rows = np.concatenate(pieces[::-1], axis=1)
        total += rows.T @ rows
    return total / len(x)


def dead_units(theta, x):
    """Return the number of units of each hidden layer that are zero on all examples."""
    w1, b1, w2, b2, _, _ = dense_mlp.unflatten(theta, SIZES)
    first = np.maximum(x @ w1 + b1, 0)
    second = np.maximum(first @ w2 + b2, 0)
    return [int((first == 0).all(0).sum()), int((second == 0).all(0).sum())]


def main(folder, names):
    """Write the data and the checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    digits: Any = load_digits()
    x, y = digits.data[:EXAMPLES] / 16, digits.target[:EXAMPLES]
    np.savez_compressed(folder / "digits.npz", sixteenths=digits.data[:EXAMPLES].astype(np.uint8))
    for name in names:
        make = CHECKPOINTS[name]
        theta, labels, activation = make(x, y)
        theta = theta.astype(np.float32)  # a tool in float32 sees the very same point
        point = theta.astype(np.float64)
        matrix = dense_mlp.hessian(point, x, labels, SIZES, activation)
        second = stacked_products(point, x, labels, activation)
        gap = float(np.abs(matrix - second).max() / np.abs(matrix).max())
        assert gap <= 1e-9, f"{name}: the two routes differ by {gap}"
        values = np.linalg.eigvalsh(matrix)
        positive = np.linalg.eigvalsh(gauss_newton(point, x, activation))
        slope = dense_mlp.gradient(point, x, labels, SIZES, activation)
        vectors = np.random.default_rng(PROBES).normal(size=(3, len(theta)))
        np.savez_compressed(
            folder / f"{name}.npz",
            params=theta,
            targets=labels.astype(np.int8),
            widths=np.array(SIZES),
            activation=np.array(activation),
            eigenvalues=values,
            gauss_newton_eigenvalues=positive,
            products=vectors @ matrix,
            loss=dense_mlp.loss(point, x, labels, SIZES, activation),
            gradient_norm=np.linalg.norm(slope),
            dead_units=np.array(dead_units(point, x) if activation == "relu" else [0, 0]),
            route_gap=gap,
        )
        near = int((np.abs(values) < 1e-6 * values[-1]).sum())
        print(  # noqa: T201
            f"{name}: loss {dense_mlp.loss(point, x, labels, SIZES, activation):.4f}, gradient "
            f"{np.linalg.norm(slope):.2e}, eigenvalues {values[0]:.4g} ... {values[-1]:.4g}, "
            f"{near} near zero, routes differ by {gap:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, sys.argv[2:] or list(CHECKPOINTS))
