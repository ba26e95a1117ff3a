"""Dense curvature matrices by their formulas: explicit Jacobians and Hessians in float64.

A tiny network with weighted examples and a penalty. Nothing of the library is used: losses are
written out, matrices are sums of outer products over examples.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

EXAMPLES, CLASSES = 11, 3
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(EXAMPLES, 3))
LABELS = RNG.integers(0, CLASSES, EXAMPLES)
VALUES = RNG.normal(size=(EXAMPLES, CLASSES))
WEIGHTS = RNG.uniform(0.5, 2, EXAMPLES).astype(np.float32).astype(np.float64)
SHARES = WEIGHTS / WEIGHTS.sum()
DECAY = 0.05


def init(seed):
    """Draw parameters whose alphabetical order is not the order of the layers."""
    rng = np.random.default_rng(seed)
    sizes = {"hidden_0": (3, 4), "hidden_1": (4, 3), "head": (3, CLASSES)}
    return {
        name: {
            "kernel": rng.normal(size=shape) / np.sqrt(shape[0]),
            "bias": 0.1 * rng.normal(size=shape[1]),
        }
        for name, shape in sizes.items()
    }


PARAMS = init(1)
NAMES = [
    f"{layer}/{leaf}"
    for layer in sorted(PARAMS)
    for leaf in sorted(PARAMS[layer])
    for _ in range(PARAMS[layer][leaf].size)
]
"""Path of each entry of the flat vector."""


def predict(params, inputs):
    """Return three outputs of a network with two hidden tanh layers."""
    hidden = inputs
    for name in ("hidden_0", "hidden_1"):
        hidden = jnp.tanh(hidden @ params[name]["kernel"] + params[name]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def penalty(params) -> Any:
    """Return half the decay times the squared norm."""
    return 0.5 * DECAY * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def rows(*paths):
    """Return where the leaves at or below some paths lie in the flat vector."""
    return np.array([i for i, n in enumerate(NAMES) if any(n.startswith(path) for path in paths)])


class Oracle:
    """All matrices of one loss at one point.

    Parameters
    ----------
    loss
        ``"cross_entropy"`` or ``"squared_error"``.
    params
        The point.
    """

    def __init__(self, loss, params=PARAMS):
        with jax.enable_x64(True):
            theta, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))

            def outputs(point):
                return predict(unravel(point), INPUTS)

            def cross_entropy(point):
                f = outputs(point)
                return jnp.log(jnp.exp(f).sum(1)) - f[jnp.arange(EXAMPLES), LABELS]

            def squared_error(point):
                return ((outputs(point) - VALUES) ** 2).sum(1) / CLASSES

            losses = {"cross_entropy": cross_entropy, "squared_error": squared_error}[loss]
            self.dim = theta.size
            self.outputs = np.asarray(jax.jit(outputs)(theta))
            self.jacobian = np.asarray(jax.jit(jax.jacfwd(outputs))(theta))
            self.gradients = np.asarray(jax.jit(jax.jacfwd(losses))(theta))
            self.loss_hessian = np.einsum(
                "i,ipq->pq", SHARES, np.asarray(jax.jit(jax.hessian(losses))(theta))
            )
        self.hessian = self.loss_hessian + DECAY * np.eye(self.dim)
        p = np.exp(self.outputs) / np.exp(self.outputs).sum(1, keepdims=True)
        self.shares_of_labels = p
        if loss == "cross_entropy":
            self.output_hessian = np.stack([np.diag(q) - np.outer(q, q) for q in p])
        else:
            self.output_hessian = np.stack([2 / CLASSES * np.eye(CLASSES)] * EXAMPLES)
        self.gauss_newton = np.einsum(
            "i,icp,icd,idq->pq", SHARES, self.jacobian, self.output_hessian, self.jacobian
        )
        self.residual = self.loss_hessian - self.gauss_newton
        self.second_moment = np.einsum("i,ip,iq->pq", SHARES, self.gradients, self.gradients)
        mean = SHARES @ self.gradients
        self.covariance = np.einsum(
            "i,ip,iq->pq", SHARES, self.gradients - mean, self.gradients - mean
        )

    def fisher(self):
        """Sum over all labels of probability times outer product of gradients (classification)."""
        total = np.zeros((self.dim, self.dim))
        for label in range(CLASSES):
            residual = self.shares_of_labels - np.eye(CLASSES)[label]
            gradients = np.einsum("ic,icp->ip", residual, self.jacobian)
            probability = SHARES * self.shares_of_labels[:, label]
            total += np.einsum("i,ip,iq->pq", probability, gradients, gradients)
        return total

    def sampled_fisher(self, labels):
        """Mean over drawn labels, of shape (examples, samples)."""
        total = np.zeros((self.dim, self.dim))
        for column in np.asarray(labels).T:
            residual = self.shares_of_labels - np.eye(CLASSES)[column]
            gradients = np.einsum("ic,icp->ip", residual, self.jacobian)
            total += np.einsum("i,ip,iq->pq", SHARES, gradients, gradients)
        return total / np.shape(labels)[1]

    def kernel(self, outputs, scales: Any = 1.0):
        """Tangent kernel from the explicit Jacobian, its columns multiplied by scales."""
        j = self.jacobian * scales
        if outputs == "full":
            flat = j.reshape(-1, self.dim)
            return flat @ flat.T
        if outputs == "trace":
            return np.einsum("icp,jcp->ij", j, j)
        if outputs == "logit-sum":
            return j.sum(1) @ j.sum(1).T
        if outputs == "target":
            chosen = j[np.arange(EXAMPLES), LABELS]
            return chosen @ chosen.T
        p = self.shares_of_labels
        scaled = []
        for i in range(EXAMPLES):
            root = np.sqrt(p[i])
            factor = np.diag(root) - np.outer(p[i], root)
            scaled.append(np.sqrt(SHARES[i]) * factor.T @ j[i])
        flat = np.concatenate(scaled)
        return flat @ flat.T
