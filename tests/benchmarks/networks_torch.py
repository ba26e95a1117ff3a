"""The benchmark networks in PyTorch."""

# These packages are in the environments of the tools, not in this one.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.problems import Arrays, convolutions, residual_blocks


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Return an array in PyTorch's order of axes: kernels (out, in, h, w) or (out, in)."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    moved = array if order is None else np.transpose(array, order)
    return torch.from_numpy(np.ascontiguousarray(moved))


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    """Undo :func:`to_torch`."""
    array = tensor.detach().cpu().numpy()
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return array if order is None else np.transpose(array, order)


# Without torch here, its base class is unknown.
class Network(nn.Module):  # pyright: ignore[reportUntypedBaseClass]
    """A network given by a spec, with weights in the order of :func:`problems.shapes`."""

    def __init__(self, arrays: Arrays):
        super().__init__()
        self.spec: dict[str, Any] = arrays.spec
        self.weights = nn.ParameterList([nn.Parameter(to_torch(p)) for p in arrays.params])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weights = list(self.weights)
        kind = self.spec["kind"]
        if kind == "mlp":
            return self._dense(inputs, weights)
        if kind == "resnet18":
            return _resnet(inputs, weights)
        hidden = inputs
        for _, _, _, stride in convolutions(self.spec):
            kernel, bias, *weights = weights
            hidden = functional.relu(functional.conv2d(hidden, kernel, bias, stride))
        # Flatten as (height, width, channels), the order of the shared weights.
        return self._dense(hidden.permute(0, 2, 3, 1).flatten(1), weights)

    def _dense(self, hidden: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        activation = torch.tanh if self.spec.get("activation") == "tanh" else functional.relu
        for index in range(0, len(weights), 2):
            hidden = functional.linear(hidden, weights[index], weights[index + 1])
            if index + 2 < len(weights):
                hidden = activation(hidden)
        return hidden


def _resnet(hidden: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    taken = iter(weights)

    def convolve_and_scale(images: torch.Tensor, stride: int, size: int) -> torch.Tensor:
        # Normalisation with running mean 0 and variance 1: what is left of it is an affine map.
        images = functional.conv2d(images, next(taken), None, stride, padding=size // 2)
        return images * next(taken)[:, None, None] + next(taken)[:, None, None]

    hidden = functional.relu(convolve_and_scale(hidden, 1, 3))
    for inside, outside, stride in residual_blocks():
        inner = functional.relu(convolve_and_scale(hidden, stride, 3))
        inner = convolve_and_scale(inner, 1, 3)
        short = hidden
        if stride != 1 or inside != outside:
            short = convolve_and_scale(hidden, stride, 1)
        hidden = functional.relu(inner + short)
    return functional.linear(hidden.mean((2, 3)), next(taken), next(taken))


def tensors(arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (channels first) and targets."""
    inputs = arrays.inputs
    if inputs.ndim == 4:
        inputs = np.transpose(inputs, (0, 3, 1, 2))
    return torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(arrays.targets)
