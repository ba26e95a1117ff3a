"""The problems every tool is given, as plain arrays: weights, inputs, targets.

Only NumPy is needed here, so that each environment can read them. Weights are a list in one fixed
order; convolution kernels are (height, width, in, out), dense kernels (in, out), images are
(examples, height, width, channels). `networks_jax` and `networks_torch` are two implementations of
the same functions; `same_object` checks that they are the same before anything is timed.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MLP = {"kind": "mlp", "activation": "relu", "widths": [784, 1024, 1024, 10]}
SMALL = {"kind": "mlp", "activation": "relu", "widths": [64, 256, 256, 10]}
NATURE = {"kind": "nature", "shape": [84, 84, 4], "outputs": 18}
RESNET = {"kind": "resnet18", "shape": [32, 32, 3], "outputs": 10}
DIGITS_CNN = {"kind": "small-cnn", "shape": [8, 8, 1], "outputs": 10}

SPEED: dict[str, tuple[dict[str, Any], int]] = {
    "mlp": (MLP, 1024),
    "nature-cnn": (NATURE, 128),
    "resnet18": (RESNET, 64),
    "small-mlp": (SMALL, 1000),
}
"""Problems whose cost is measured: network and number of synthetic examples."""


@dataclass(frozen=True)
class Arrays:
    """A problem: ``spec`` names the network, the rest are arrays."""

    spec: dict[str, Any]
    params: list[np.ndarray]
    inputs: np.ndarray
    targets: np.ndarray

    @property
    def dim(self) -> int:
        return sum(p.size for p in self.params)

    def astype(self, dtype: Any) -> "Arrays":
        params = [p.astype(dtype) for p in self.params]
        return Arrays(self.spec, params, self.inputs.astype(dtype), self.targets)

    def flatten(self, arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(a).reshape(-1) for a in arrays])

    def unflatten(self, vector: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([p.size for p in self.params])[:-1]
        pieces = np.split(vector, ends)
        return [piece.reshape(p.shape) for piece, p in zip(pieces, self.params, strict=True)]


def convolutions(spec: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """Return (kernel size, in, out, stride) of the convolutions of a plain CNN."""
    channels = spec["shape"][-1]
    if spec["kind"] == "nature":
        return [(8, channels, 32, 4), (4, 32, 64, 2), (3, 64, 64, 1)]
    return [(3, channels, 8, 1), (3, 8, 16, 2)]


def residual_blocks() -> list[tuple[int, int, int]]:
    """Return (in, out, stride) of the eight blocks of ResNet-18."""
    blocks, channels = [], 64
    for width, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first, 1):
            blocks.append((channels, width, stride))
            channels = width
    return blocks


def shapes(spec: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of all weights, in order."""
    if spec["kind"] == "mlp":
        widths = spec["widths"]
        return [s for i, o in itertools.pairwise(widths) for s in ((i, o), (o,))]
    if spec["kind"] == "resnet18":
        found: list[tuple[int, ...]] = [(3, 3, spec["shape"][-1], 64), (64,), (64,)]
        for inside, outside, stride in residual_blocks():
            found += [(3, 3, inside, outside), (outside,), (outside,)]
            found += [(3, 3, outside, outside), (outside,), (outside,)]
            if stride != 1 or inside != outside:
                found += [(1, 1, inside, outside), (outside,), (outside,)]
        return [*found, (512, spec["outputs"]), (spec["outputs"],)]
    found, side, outside = [], spec["shape"][0], spec["shape"][-1]
    for size, inside, outside, stride in convolutions(spec):
        found += [(size, size, inside, outside), (outside,)]
        side = (side - size) // stride + 1
    features = side * side * outside
    hidden = [512] if spec["kind"] == "nature" else []
    widths = [features, *hidden, spec["outputs"]]
    return found + [s for i, o in itertools.pairwise(widths) for s in ((i, o), (o,))]


def initial(spec: dict[str, Any], seed: int) -> list[np.ndarray]:
    """Draw weights with variance 1 / fan-in; scales near one, biases near zero, none of them equal.

    Biases are not exactly zero: a unit with zero input would sit on the kink of its ReLU, where
    frameworks differ.
    """
    rng = np.random.default_rng(seed)
    params, previous = [], 0
    for shape in shapes(spec):
        if len(shape) == 1:
            scale_of_norm = spec["kind"] == "resnet18" and previous == 4
            params.append((1.0 if scale_of_norm else 0.0) + 0.1 * rng.normal(size=shape))
        else:
            fan_in = int(np.prod(shape[:-1]))
            params.append(rng.normal(size=shape) / np.sqrt(fan_in))
        previous = len(shape)
    return [p.astype(np.float32) for p in params]


def speed_problem(name: str, examples: int | None = None, seed: int = 0) -> Arrays:
    """Return a synthetic problem: ten noisy class means, random weights."""
    spec, default = SPEED[name]
    count = examples or default
    rng = np.random.default_rng(1)
    shape = tuple(spec.get("shape", spec.get("widths", [0])[:1]))
    outputs = spec.get("outputs", spec.get("widths", [0])[-1])
    targets = rng.integers(0, outputs, count)
    means = rng.normal(size=(outputs, *shape))
    inputs = (means[targets] + rng.normal(size=(count, *shape))) / np.sqrt(2)
    return Arrays(spec, initial(spec, seed), inputs.astype(np.float32), targets)


def save(arrays: Arrays, path: Path) -> Path:
    """Write a problem without pickling; its spec goes into the file as text."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {f"param_{i:03d}": p for i, p in enumerate(arrays.params)}
    spec = np.frombuffer(json.dumps(arrays.spec).encode(), np.uint8)
    np.savez(path, spec=spec, inputs=arrays.inputs, targets=arrays.targets, **fields)
    return path


def load(path: Path) -> Arrays:
    """Read a problem."""
    import json

    with np.load(path, allow_pickle=False) as file:
        spec = json.loads(file["spec"].tobytes().decode())
        params = [file[name] for name in sorted(file.files) if name.startswith("param_")]
        return Arrays(spec, params, file["inputs"], file["targets"])
