"""Networks of Atari agents: a torso with a head."""

import flax.linen as nn
from jaxtyping import Array, Num

from curvlab.networks.atari_heads import DistributionHead, DuelingHead, ValueHead
from curvlab.networks.atari_torso import TORSOS, AtariTorso
from curvlab.networks.registry import NETWORKS


@NETWORKS.register("atari")
class AtariNetwork(nn.Module):
    """Stacked frames to action values, or to their distributions.

    ==================== ========================================================================
    agent                settings
    ==================== ========================================================================
    DQN                  the defaults: 1,687,206 parameters with 6 actions
    Double DQN, dqn_zoo  ``shared_bias=True, initial_weights="uniform_fan_in"``
    C51                  ``atoms=51``
    QR-DQN               ``atoms=201``
    Rainbow              ``dueling=True, noisy=True, atoms=51, sigma=0.1``
    ==================== ========================================================================

    Attributes
    ----------
    actions
        Number of actions.
    torso
        ``"nature"`` for frames of 84 × 84, ``"small42"`` for 42 × 42.
    atoms
        Numbers per action (logits of atoms, or quantiles); 0 for plain action values.
    dueling
        Whether value and advantage have streams of their own.
    noisy
        Whether the layers of a dueling head are noisy; the noise is state.
    sigma
        Initial noise of noisy layers.
    shared_bias
        Whether all actions share one output bias; for plain action values.
    width
        Factor on the channels and features of the torso and the hidden layers of the head.
    padding
        Padding of the convolutions.
    layer_norm
        Whether every hidden layer is normalised before its activation.
    norm_axes
        Axes of images that layer norm runs over.
    activation
        Name of the activation function.
    initial_weights
        ``"lecun_normal"`` with zero biases, or ``"uniform_fan_in"`` for weights and biases.

    References
    ----------
    Mnih et al. 2015, *Human-level control through deep reinforcement learning*.
    """

    actions: int = 6
    torso: str = "nature"
    atoms: int = 0
    dueling: bool = False
    noisy: bool = False
    sigma: float = 0.5
    shared_bias: bool = False
    width: float = 1.0
    padding: str = "VALID"
    layer_norm: bool = False
    norm_axes: str = "HWC"
    activation: str = "relu"
    initial_weights: str = "lecun_normal"

    @nn.compact
    def __call__(self, frames: Num[Array, "examples height width frames"]) -> Array:
        """Return ``(examples, actions)``, or ``(examples, actions, atoms)``."""
        if (self.noisy and not self.dueling) or (self.shared_bias and (self.dueling or self.atoms)):
            raise ValueError(
                f"AtariNetwork was given noisy={self.noisy}, shared_bias={self.shared_bias}, "
                f"dueling={self.dueling}, atoms={self.atoms}. Noise goes with a dueling head, a "
                "shared bias with plain action values."
            )
        features = AtariTorso(
            shape=self.torso,
            width=self.width,
            padding=self.padding,
            layer_norm=self.layer_norm,
            norm_axes=self.norm_axes,
            activation=self.activation,
            initial_weights=self.initial_weights,
            top=not self.dueling,
            name="torso",
        )(frames)
        return self._head()(features)

    def _head(self) -> nn.Module:
        if self.dueling:
            return DuelingHead(
                self.actions,
                hidden=round(TORSOS[self.torso].features * self.width),
                atoms=self.atoms,
                noisy=self.noisy,
                sigma=self.sigma,
                layer_norm=self.layer_norm,
                activation=self.activation,
                initial_weights=self.initial_weights,
                name="head",
            )
        if self.atoms:
            return DistributionHead(
                self.actions, self.atoms, initial_weights=self.initial_weights, name="head"
            )
        return ValueHead(
            self.actions,
            shared_bias=self.shared_bias,
            initial_weights=self.initial_weights,
            name="head",
        )
