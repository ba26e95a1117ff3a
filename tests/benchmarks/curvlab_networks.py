"""The benchmark networks as curvlab has them, filled with the shared weights."""

import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from curvlab.networks import MLP, NETWORKS, Predict
from tests.benchmarks.networks_jax import predictor
from tests.benchmarks.problems import Arrays, residual_blocks


@dataclass(frozen=True)
class Native:
    """A benchmark network written with JAX's native operations, compared by value."""

    spec: str

    def __call__(self, params: Any, inputs: Any) -> Any:
        return predictor(json.loads(self.spec))(params, inputs)


def predict_of(spec: dict[str, Any]) -> Any:
    """Return curvlab's own network of this architecture, or the native one where it has none."""
    if _layers(spec) is None:
        return Native(json.dumps(spec, sort_keys=True))
    if spec["kind"] == "mlp":
        widths = tuple(spec["widths"])
        return Predict(MLP(widths=widths[1:-1], outputs=widths[-1], activation=spec["activation"]))
    if spec["kind"] == "nature":
        return Predict(NETWORKS["atari"](actions=spec["outputs"]))
    return Predict(NETWORKS["resnet"](outputs=spec["outputs"]))


def state_of(arrays: Arrays) -> Any:
    """Return the running statistics: mean 0 and a variance that the network's epsilon makes 1."""
    if arrays.spec["kind"] != "resnet18" or _layers(arrays.spec) is None:
        return None
    dtype = arrays.inputs.dtype

    def statistics(scale: Any) -> dict[str, Any]:
        return {
            "mean": jnp.zeros(scale.shape, dtype),
            "var": jnp.full(scale.shape, 1 - 1e-5, dtype),
        }

    params = as_tree(arrays)
    norms = {name: statistics(leaf["scale"]) for name, leaf in params.items() if "scale" in leaf}
    return {"batch_stats": norms}


def as_tree(arrays: Arrays) -> Any:
    """Return the shared weights as the parameters of :func:`predict_of`."""
    return _tree(arrays.spec, [jnp.asarray(p) for p in arrays.params])


def flat_order(arrays: Arrays) -> np.ndarray:
    """Return where each shared weight lies in curvlab's flat vectors."""
    ends = np.cumsum([p.size for p in arrays.params])
    places = [
        np.arange(end - p.size, end).reshape(p.shape)
        for end, p in zip(ends, arrays.params, strict=True)
    ]
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(_tree(arrays.spec, places))]
    return np.argsort(np.concatenate(leaves), kind="stable")


def _layers(spec: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]] | None:
    """Return the path and the leaves of each layer in the shared order; None: not curvlab's."""
    if spec.get("native") or spec["kind"] == "small-cnn":
        return None
    affine, normalised = ("kernel", "bias"), ("scale", "bias")
    if spec["kind"] == "mlp":
        names = [f"hidden_{i}" for i in range(len(spec["widths"]) - 2)]
        return [(name, affine) for name in [*names, "output"]]
    if spec["kind"] == "nature":
        names = [*(f"torso/conv_{i}" for i in range(3)), "torso/features", "head/values"]
        return [(name, affine) for name in names]
    units = ["stem"]
    for index, (inside, outside, stride) in enumerate(residual_blocks()):
        name = f"stage_{index // 2}_block_{index % 2}"
        units += [f"{name}_first", f"{name}_second"]
        units += [f"{name}_shortcut"] * (stride != 1 or inside != outside)
    pairs = [((f"{u}_conv", ("kernel",)), (f"{u}_norm", normalised)) for u in units]
    return [*(layer for pair in pairs for layer in pair), ("output", affine)]


def _tree(spec: dict[str, Any], weights: list[Any]) -> Any:
    layers = _layers(spec)
    if layers is None:
        return list(weights)
    rest, tree = iter(weights), {}
    for path, leaves in layers:
        node = tree
        for name in path.split("/"):
            node = node.setdefault(name, {})
        node.update({leaf: next(rest) for leaf in leaves})
    return tree
