"""Analyse one problem on all devices of one or more processes; run by `test_devices.py`.

Arguments: number of processes, number of this one, port of the coordinator, a folder that all
share, and `everything` to compare more than spectra. Prints one JSON line.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices

PROCESSES, RANK, PORT = (int(word) for word in sys.argv[1:4])
FOLDER = Path(sys.argv[4])
EVERYTHING = "everything" in sys.argv
if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{PORT}", PROCESSES, RANK)
    # Now, while the processes are together: gloo waits 30 seconds for a peer's first sum.
    sync_global_devices("start")

from curvlab.curvature import Batches, GaussNewton, Hessian, Problem  # noqa: E402
from curvlab.objectives import cross_entropy  # noqa: E402
from curvlab.spectral import eigenpairs, lanczos, slq  # noqa: E402
from curvlab.spectral.soundness import verify  # noqa: E402
from tests import problems  # noqa: E402

KEY = jax.random.key(0)
EXAMPLES = 99  # not a multiple of any number of devices


def spectra(problem: Problem) -> dict[str, object]:
    """Return what the tests compare between one device and several."""
    op = Hessian(problem)
    pairs = eigenpairs(op, KEY, order=20, largest=3, smallest=2, noise_floor=1e-7)
    measure = slq(op, KEY, order=20, noise_floor=1e-7)
    return {
        "eigenvalues": pairs.values.tolist(),
        "cdf": [measure.cdf(x).value for x in np.linspace(-0.02, 0.25, 200)],
        "value": problem.value(),
    }


def others(problem: Problem) -> dict[str, object]:
    """Return what else must not depend on the devices, and takes longer to compile."""
    return {
        "sound": str(verify(Hessian(problem), KEY)),
        "gauss_newton": np.asarray(
            GaussNewton(problem).matvec(np.ones(problem.layout.dim))
        ).tolist(),
        "losses": problem.losses().tolist(),
        "gradient": [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(problem.gradient())],
    }


def resumed(problem: Problem) -> dict[str, object]:
    """Go on with a saved run of which one process has lost its last step, and run straight."""
    op, place = Hessian(problem), FOLDER / "saved"
    lanczos(op, KEY, order=4, save=place)
    if RANK == 1:
        steps = place / "process-1" / "steps.jsonl"
        steps.write_text("".join(steps.read_text().splitlines(keepends=True)[:-1]))
    straight, found = lanczos(op, KEY, order=7), lanczos(op, KEY, order=7, save=place)
    return {"straight": straight.diagonal.tolist(), "resumed": found.diagonal.tolist()}


def main() -> None:
    """Compute the same numbers on one device and on all."""
    inputs, targets = problems.digits(EXAMPLES)
    weights = np.linspace(0.5, 1.5, EXAMPLES)
    params = problems.trained(60)

    def make(batch: Any) -> Problem:
        return Problem(problems.predict, cross_entropy, params, batch)

    resident = make((inputs, targets, weights))
    streamed = make(Batches(inputs, targets, size=40, weights=weights))
    found: dict[str, Any] = {
        "devices": len(jax.devices()),
        "resident": spectra(resident.sharded()),
    }
    if EVERYTHING:
        found["resident"] |= others(resident.sharded())
        found |= resumed(resident.sharded())
        found["streamed"] = spectra(streamed.sharded()) | others(streamed.sharded())
    found["one"] = spectra(resident) | (others(resident) if EVERYTHING else {})
    (batch,) = resident.sharded().placed()
    found["rows"] = [shard.data.shape[0] for shard in batch.inputs.addressable_shards]
    run = lanczos(Hessian(resident.sharded()), KEY, order=2)
    assert run.basis is not None
    found["panels"] = [s.data.shape[0] for s in run.basis._blocks[0].addressable_shards]
    sys.stdout.write(json.dumps(found) + "\n")


main()
