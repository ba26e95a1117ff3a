"""Dense Hessian and Gauss-Newton matrix of an MLP classifier, in NumPy, without JAX.

The gradient is written out by hand and is analytic in the parameters (for ReLU, away from kinks),
so a complex step ``Im g(θ + i h e_j) / h`` with ``h = 1e-30`` gives each column of the Hessian to
machine precision: no differences are taken.
"""

import itertools

import numpy as np


def shapes(sizes):
    """Shapes of (weight, bias) for each layer."""
    return [s for i, o in itertools.pairwise(sizes) for s in ((i, o), (o,))]


def unflatten(theta, sizes):
    """Cut a flat vector (weight and bias, layer by layer) into arrays."""
    pieces, at = [], 0
    for shape in shapes(sizes):
        size = int(np.prod(shape))
        pieces.append(theta[at : at + size].reshape(shape))
        at += size
    return pieces


def _activation(name, z):
    if name == "tanh":
        value = np.tanh(z)
        return value, 1 - value**2
    active = (z.real > 0).astype(float)
    return z * active, active


def forward(theta, x, sizes, activation):
    """Return logits, layer inputs and activation slopes."""
    arrays = unflatten(theta, sizes)
    inputs, slopes, hidden, z = [], [], x, x
    for layer in range(len(sizes) - 1):
        inputs.append(hidden)
        z = hidden @ arrays[2 * layer] + arrays[2 * layer + 1]
        if layer < len(sizes) - 2:
            hidden, slope = _activation(activation, z)
            slopes.append(slope)
    return z, inputs, slopes


def softmax(z):
    """Softmax along the last axis, valid for complex logits with small imaginary parts."""
    e = np.exp(z - z.real.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss(theta, x, y, sizes, activation):
    """Mean cross-entropy."""
    z, _, _ = forward(theta, x, sizes, activation)
    p = softmax(z)
    return -np.log(p[np.arange(len(y)), y]).mean()


def backward(delta, theta, inputs, slopes, sizes):
    """Pull output derivatives back to a flat parameter gradient (sum over examples)."""
    arrays = unflatten(theta, sizes)
    grads = []
    for layer in reversed(range(len(sizes) - 1)):
        grads.append([(inputs[layer].T @ delta).ravel(), delta.sum(0)])
        if layer:
            delta = (delta @ arrays[2 * layer].T) * slopes[layer - 1]
    return np.concatenate([piece for pair in reversed(grads) for piece in pair])


def gradient(theta, x, y, sizes, activation):
    """Gradient of the mean cross-entropy."""
    z, inputs, slopes = forward(theta, x, sizes, activation)
    delta = softmax(z)
    delta[np.arange(len(y)), y] -= 1
    return backward(delta / len(y), theta, inputs, slopes, sizes)


def hessian(theta, x, y, sizes, activation):
    """Dense Hessian of the mean cross-entropy, symmetrised."""
    n = len(theta)
    matrix = np.empty((n, n))
    for j in range(n):
        shifted = theta.astype(complex)
        shifted[j] += 1e-30j
        matrix[j] = np.imag(gradient(shifted, x, y, sizes, activation)) / 1e-30
    return (matrix + matrix.T) / 2


def gauss_newton(theta, x, y, sizes, activation):
    """Dense Gauss-Newton matrix ``(1/n) Σ J_iᵀ (diag p - p pᵀ) J_i`` by explicit Jacobians."""
    n = len(theta)
    matrix = np.zeros((n, n))
    z, _, _ = forward(theta, x, sizes, activation)
    p = softmax(z)
    for i in range(len(y)):
        _, inputs, slopes = forward(theta, x[i : i + 1], sizes, activation)
        jacobian = np.stack(
            [backward(row[None], theta, inputs, slopes, sizes) for row in np.eye(sizes[-1])]
        )
        middle = np.diag(p[i]) - np.outer(p[i], p[i])
        matrix += jacobian.T @ middle @ jacobian
    return matrix / len(y)
