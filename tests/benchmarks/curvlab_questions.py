"""Questions that only curvlab is asked: its steps, its checkpoints, its memory, its Gram matrix."""

import json
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import linalg

from curvlab.core.precision import float64
from curvlab.curvature import Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import Memory, lanczos, slq
from tests.benchmarks import problems
from tests.benchmarks.curvlab_networks import as_tree, predict_of, state_of
from tests.benchmarks.networks_jax import predictor
from tests.benchmarks.tools import Tool

eigsh: Any = linalg.eigsh  # SciPy is untyped: `tol` would be an int, as its default 0 is

WORKING = 7
"""Vectors of memory with which Lanczos stores no basis (it needs six to work)."""


@dataclass(frozen=True)
class Hidden:
    """A network whose weights pass through a product first: no structure can be read from it."""

    spec: str

    def __call__(self, params: Any, inputs: Any) -> Any:
        passed = jax.tree.map(lambda p: p * jnp.ones_like(p), params)
        return predictor(json.loads(self.spec))(passed, inputs)


class OwnQuestions(Tool):
    """Mixed into the tool; uses its ``_operator``, ``fresh`` and ``problem``."""

    def steps(self, order: int, seed: int, stored: bool = True) -> dict[str, Any]:
        """Run Lanczos on the prepared operator and keep the run for :meth:`orthogonality`."""
        op = self._operator("hessian")
        memory = None if stored else Memory(device=WORKING * op.dim * op.dtype.itemsize)
        self._run = lanczos(op, jax.random.key(seed), order=order, memory=memory)
        return {"tier": str(self._run.tier.value)}

    def orthogonality(self) -> dict[str, Any]:
        """Evaluate ``max |Q Qᵀ - I|`` of the last run in float64 on the host."""
        assert self._run.basis is not None
        with float64():
            rows = np.asarray(self._run.basis.combine(np.eye(self._run.order)), np.float64)
        gap = float(np.abs(rows @ rows.T - np.eye(len(rows))).max())
        return {"orthogonality": self._run.orthogonality, "orthogonality_float64": gap}

    def reference_top(self, count: int) -> dict[str, Any]:
        """Return the largest eigenvalues by ARPACK to a tolerance far below what is asked."""
        start = np.random.default_rng(99).normal(size=self.arrays.dim).astype(np.float32)
        op = self.fresh().to_scipy()
        values = eigsh(op, k=count, which="LA", tol=1e-5, v0=start, ncv=40)[0]
        return {"values": np.sort(values)[::-1]}

    def checkpoints(self, count: int, order: int) -> dict[str, Any]:
        """Compute a density at checkpoints of the same shapes, counting compilations."""
        compiled: list[str] = []

        def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
            if "backend_compile" in event:
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        rows = []
        for seed in range(count):
            weights = problems.initial(self.arrays.spec, seed)
            arrays = problems.Arrays(
                self.arrays.spec, weights, self.arrays.inputs, self.arrays.targets
            )
            before, start = len(compiled), time.perf_counter()
            op = Hessian(_problem(arrays))
            found = slq(op, jax.random.key(0), order=order, vectors=1)
            rows.append(
                {
                    "seconds": time.perf_counter() - start,
                    "compilations": len(compiled) - before,
                    "products": found.matvecs,
                }
            )
        return {"rows": rows}

    def large_density(self, parameters: int, order: int) -> dict[str, Any]:
        """Compute a density of an MLP with so many parameters, without a stored basis."""
        width = max(16, int((parameters / 1.5) ** 0.5))
        spec = {"kind": "mlp", "activation": "relu", "widths": [width // 2, width, width, 10]}
        keys = jax.random.split(jax.random.key(0), 2)
        shapes = problems.shapes(spec)
        params = [
            jax.random.normal(jax.random.fold_in(keys[0], i), shape) / shape[0] ** 0.5
            for i, shape in enumerate(shapes)
        ]
        inputs = np.asarray(jax.random.normal(keys[1], (16, width // 2)))
        arrays = problems.Arrays(spec, params, inputs, np.arange(16) % 10)  # type: ignore[arg-type]
        op = Hessian(_problem(arrays))
        del params, arrays
        memory = Memory(device=WORKING * op.dim * 4)
        found = slq(op, jax.random.key(0), order=order, noise_floor=1e-6, memory=memory)
        return {
            "parameters": op.dim,
            "tier": str(memory.tier(op.dim, op.dtype, order).value),
            "largest": float(found.nodes.max()),
        }

    def dense_eigenvalues(self) -> dict[str, Any]:
        """Return all eigenvalues of the Hessian in float64."""
        with float64():
            matrix = Hessian(_problem(self.arrays.astype(np.float64))).to_dense()
        return {"values": np.linalg.eigvalsh(matrix)}

    def gram(self, way: str) -> dict[str, Any]:
        """Return norm and trace of the matrix of gradient inner products, computed one way."""
        if way == "vmap":
            matrix = self._gram_by_vmap()
        else:
            from curvlab.curvature import gradient_gram

            problem = _problem(self.arrays)
            if way == "generic":
                inputs, targets = self.arrays.inputs, np.asarray(self.arrays.targets, np.int32)
                params = [jnp.asarray(p) for p in self.arrays.params]
                hidden = Hidden(json.dumps(self.arrays.spec, sort_keys=True))
                problem = Problem(hidden, cross_entropy, params, (inputs, targets))
            matrix = gradient_gram(problem, cosine=False, outputs=None).matrix
        return {"norm": float(np.linalg.norm(matrix)), "trace": float(np.trace(matrix))}

    def _gram_by_vmap(self) -> np.ndarray:
        problem = _problem(self.arrays)
        predict = problem.predict
        assert predict is not None

        @jax.jit
        def rows(params: Any, inputs: Any, targets: Any) -> Any:
            def one(image: Any, target: Any) -> Any:
                def loss(point: Any) -> Any:
                    return cross_entropy(predict(point, image[None]), target[None])[0]

                gradient = jax.grad(loss)(params)
                return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

            return jax.vmap(one)(inputs, targets)

        inputs, targets = self.arrays.inputs, np.asarray(self.arrays.targets, np.int32)
        blocks = [slice(i, i + 64) for i in range(0, len(inputs), 64)]
        # Blocks keep the activations small; the gradients of all examples are held at once.
        gradients = jnp.concatenate([rows(problem.params, inputs[b], targets[b]) for b in blocks])
        return np.asarray(gradients @ gradients.T)


def _problem(arrays: problems.Arrays) -> Problem:
    batch = (arrays.inputs, np.asarray(arrays.targets, np.int32))
    return Problem(
        predict_of(arrays.spec), cross_entropy, as_tree(arrays), batch, state=state_of(arrays)
    )
