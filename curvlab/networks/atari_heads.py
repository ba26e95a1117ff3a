"""Heads of Atari agents: features to action values or to their distributions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from curvlab.networks.layers import activate, dense, layer_norm


class ValueHead(nn.Module):
    """Linear action values ``(examples, actions)``.

    Attributes
    ----------
    actions
        Number of actions.
    shared_bias
        Whether all actions share one bias (the tuned Double DQN).
    initial_weights
        Initialiser of the layer.

    References
    ----------
    Mnih et al. 2015; van Hasselt et al. 2016.
    """

    actions: int
    shared_bias: bool = False
    initial_weights: str = "lecun_normal"

    @nn.compact
    def __call__(self, features: Float[Array, "examples features"]) -> Array:
        """Return one value per action."""
        if not self.shared_bias:
            return dense(features, self.actions, name="values", init=self.initial_weights)
        kernel = nn.Dense(self.actions, use_bias=False, name="values")
        return kernel(features) + self.param("bias", nn.initializers.zeros_init(), (1,))


class DistributionHead(nn.Module):
    """One vector of numbers per action, ``(examples, actions, atoms)``.

    Logits of a categorical distribution over fixed returns (C51, two-hot), or quantiles of the
    return (QR-DQN): the objective says which.

    Attributes
    ----------
    actions
        Number of actions.
    atoms
        Numbers per action: atoms or quantiles.
    initial_weights
        Initialiser of the layer.

    References
    ----------
    Bellemare et al. 2017; Dabney et al. 2018.
    """

    actions: int
    atoms: int
    initial_weights: str = "lecun_normal"

    @nn.compact
    def __call__(self, features: Float[Array, "examples features"]) -> Array:
        """Return logits or quantiles."""
        flat = dense(features, self.actions * self.atoms, name="atoms", init=self.initial_weights)
        return flat.reshape(flat.shape[0], self.actions, self.atoms)


class NoisyDense(nn.Module):
    """Fully connected layer with factorised noise.

    ``y = x (μ + σ ⊙ e_in e_outᵀ) + (μ_b + σ_b ⊙ e_out)``

    The noise is data, not randomness inside the network: the variables ``in`` and ``out`` of the
    collection ``noise`` hold ``sign(z) sqrt(|z|)`` of normal numbers ``z``. Without the collection
    the layer uses its means.

    Attributes
    ----------
    units
        Number of outputs.
    sigma
        Initial ``σ`` in units of ``1 / sqrt(inputs)``.

    References
    ----------
    Fortunato et al. 2018, *Noisy networks for exploration*, factorised form.
    """

    units: int
    sigma: float = 0.5

    @nn.compact
    def __call__(self, values: Float[Array, "examples inputs"]) -> Array:
        """Apply the layer with the noise it was given."""
        inputs = values.shape[-1]
        bound = inputs**-0.5

        def uniform(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        scale = nn.initializers.constant(self.sigma * bound)
        kernel = self.param("kernel", uniform, (inputs, self.units))
        bias = self.param("bias", uniform, (self.units,))
        kernel_sigma = self.param("kernel_sigma", scale, (inputs, self.units))
        bias_sigma = self.param("bias_sigma", scale, (self.units,))
        if self.is_initializing() and self.has_rng("noise"):
            self.variable("noise", "in", lambda: _noise(self.make_rng("noise"), inputs))
            self.variable("noise", "out", lambda: _noise(self.make_rng("noise"), self.units))
        if not self.has_variable("noise", "in"):
            return values @ kernel + bias
        left: Array = self.get_variable("noise", "in")
        right: Array = self.get_variable("noise", "out")
        noisy = (values * left) @ kernel_sigma * right
        return values @ kernel + bias + noisy + bias_sigma * right


class DuelingHead(nn.Module):
    """State value plus centred advantages, each from its own hidden layer.

    ``Q = V + A − mean_a A``, for numbers or, with ``atoms``, for the logits of each atom.

    Attributes
    ----------
    actions
        Number of actions.
    hidden
        Units of the hidden layer of each stream.
    atoms
        Numbers per action; 0 for plain action values.
    noisy
        Whether the four layers are noisy (Rainbow).
    sigma
        Initial noise of noisy layers.
    layer_norm
        Whether the hidden layers are normalised before their activation.
    activation
        Name of the activation function.
    initial_weights
        Initialiser of layers without noise.

    References
    ----------
    Wang et al. 2016, *Dueling network architectures*; Hessel et al. 2018, *Rainbow*.
    """

    actions: int
    hidden: int = 512
    atoms: int = 0
    noisy: bool = False
    sigma: float = 0.5
    layer_norm: bool = False
    activation: str = "relu"
    initial_weights: str = "lecun_normal"

    @nn.compact
    def __call__(self, features: Float[Array, "examples features"]) -> Array:
        """Return values ``(examples, actions)`` or logits ``(examples, actions, atoms)``."""
        atoms = max(self.atoms, 1)
        value = self._stream(features, atoms, "value").reshape(-1, 1, atoms)
        advantage = self._stream(features, self.actions * atoms, "advantage")
        advantage = advantage.reshape(-1, self.actions, atoms)
        both = value + advantage - advantage.mean(axis=1, keepdims=True)
        return both if self.atoms else both[..., 0]

    def _stream(self, features: Array, outputs: int, name: str) -> Array:
        hidden = self._dense(features, self.hidden, f"{name}_hidden")
        if self.layer_norm:
            hidden = layer_norm(hidden, name=f"{name}_norm")
        return self._dense(activate(self.activation, hidden), outputs, name)

    def _dense(self, values: Array, units: int, name: str) -> Array:
        if self.noisy:
            return NoisyDense(units, self.sigma, name=name)(values)
        return dense(values, units, name=name, init=self.initial_weights)


def _noise(key: Array, units: int) -> Float[Array, " units"]:
    normal = jax.random.normal(key, (units,))
    return jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))
