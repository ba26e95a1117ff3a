"""Residual network for small images."""

import flax.linen as nn
from jaxtyping import Array, Float

from curvlab.networks.layers import NORM_EPSILON, conv, dense, layer_norm
from curvlab.networks.registry import NETWORKS


@NETWORKS.register("resnet")
class ResNet(nn.Module):
    """Residual network of basic blocks with a 3 × 3 stem; ResNet-18 by default.

    Windows of 3 × 3 see one pixel of padding on every side, with a stride too, as in the original:
    weights trained elsewhere mean the same here.

    11,173,962 parameters with batch norm and ten outputs. With ``norm="batch"`` the network has a
    state (running means and variances, collection ``batch_stats``): ``predict(params, inputs,
    state)`` uses it, so that examples do not mix. Only training loops use batch statistics and
    update the state, by ``apply(..., train=True, mutable=["batch_stats"])``.

    Attributes
    ----------
    blocks
        Basic blocks in each stage; from the second stage on the first one halves the image.
    width
        Channels of the first stage; each stage doubles them.
    outputs
        Number of outputs.
    norm
        ``"batch"``, ``"group"``, ``"layer"`` (over height, width and channels) or ``"none"``.
    groups
        Groups of channels of ``norm="group"``.

    References
    ----------
    He et al. 2016, *Deep residual learning for image recognition*.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    outputs: int = 10
    norm: str = "batch"
    groups: int = 32

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "examples height width channels"], train: bool = False
    ) -> Float[Array, "examples outputs"]:
        """Return the outputs (logits) of a batch of images."""

        def unit(images: Array, channels: int, size: int, stride: int, name: str) -> Array:
            bias = self.norm == "none"
            images = conv(
                images,
                channels,
                size=size,
                stride=stride,
                padding=size // 2,
                bias=bias,
                name=f"{name}_conv",
            )
            return self._normalise(images, train, f"{name}_norm")

        hidden = nn.relu(unit(inputs, self.width, 3, 1, "stem"))
        for stage, count in enumerate(self.blocks):
            channels = self.width * 2**stage
            for block in range(count):
                stride = 2 if stage and not block else 1
                name = f"stage_{stage}_block_{block}"
                inner = nn.relu(unit(hidden, channels, 3, stride, f"{name}_first"))
                inner = unit(inner, channels, 3, 1, f"{name}_second")
                if inner.shape != hidden.shape:
                    hidden = unit(hidden, channels, 1, stride, f"{name}_shortcut")
                hidden = nn.relu(hidden + inner)
        return dense(hidden.mean(axis=(1, 2)), self.outputs, name="output")

    def _normalise(self, images: Array, train: bool, name: str) -> Array:
        if self.norm == "batch":
            norm = nn.BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=NORM_EPSILON, name=name
            )
            return norm(images)
        if self.norm == "group":
            return nn.GroupNorm(self.groups, epsilon=NORM_EPSILON, name=name)(images)
        if self.norm == "layer":
            return layer_norm(images, name=name)
        if self.norm == "none":
            return images
        raise ValueError(
            f"ResNet was asked for norm {self.norm!r}. Use 'batch', 'group', 'layer' or 'none'."
        )
