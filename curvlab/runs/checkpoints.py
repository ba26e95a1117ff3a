"""One stored step: its directory on disk and the :class:`Checkpoint` that analysis works on.

A step directory holds one Orbax item per sub-directory, ``spec.json`` and a manifest. Which steps a
run has, and who may write, is the matter of :mod:`curvlab.runs.run` and :mod:`curvlab.runs.writer`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Array, PyTree

from curvlab.core.errors import CheckpointError, RunError
from curvlab.core.specs import Spec
from curvlab.core.trees import path_name
from curvlab.runs.files import new_directory, to_json, visible
from curvlab.runs.layout import Layout, parse_step
from curvlab.runs.manifests import require_intact, write_manifest
from curvlab.runs.optimisers import OPTIMISERS, build_optimiser
from curvlab.runs.orbax_io import load_tree, save_tree
from curvlab.runs.probe_sets import ProbeSets, abstract_inputs

if TYPE_CHECKING:
    import curvlab.curvature.metric
    import curvlab.curvature.problem

SCHEMA = 1
SPEC_FILE = "spec.json"
ADVICE = "Restore the directory from a copy, or remove it and train again from an earlier step."

Predict = Callable[[PyTree, PyTree], Any]
Loss = Callable[[Any, PyTree], Array]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint of a run.

    Attributes
    ----------
    layout
        The run it belongs to.
    step
        Training steps done.
    task
        Number of the task being learnt, or just learnt at a task's end; None outside streams.
    params
        The parameters. They may hold NaN or infinity: a diverged run is a result too.
    probes
        Name of the probe set in each role: ``{"current": "task-002", "next": "task-003"}``.
    network, objective, optimiser
        What the checkpoint says it was trained with.
    items
        Names of everything stored, ``"params"`` first.
    digest
        SHA-256 of the content (parameters, optimiser state, extra items, specs, probe sets), equal
        for two runs that computed the same thing.
    given_predict, given_loss
        Functions passed to ``open_run``; they take precedence over the specs.
    """

    layout: Layout = field(repr=False)
    step: int
    task: int | None
    params: PyTree = field(repr=False)
    probes: Mapping[str, str]
    network: Spec | None
    objective: Spec | None
    optimiser: Spec | None
    items: tuple[str, ...]
    digest: str
    given_predict: Predict | None = field(default=None, repr=False)
    given_loss: Loss | None = field(default=None, repr=False)

    @cached_property
    def opt_state(self) -> PyTree | None:
        """The optimiser's state, or None if none was stored.

        With a known optimiser spec it has optax's own types, otherwise it is made of dicts and
        lists.

        Raises
        ------
        CheckpointError
            If it does not fit the optimiser the checkpoint names.
        """
        if "opt_state" not in self.items:
            return None
        template = None
        if self.optimiser is not None and self.optimiser.name in OPTIMISERS:
            template = jax.eval_shape(build_optimiser(self.optimiser).init, self.params)
        return load_tree(self.layout.checkpoint(self.step) / "opt_state", template)

    @cached_property
    def state(self) -> PyTree | None:
        """The network's state (the stored item ``state``), or None if none was stored.

        Flax's collections besides the parameters, as :func:`curvlab.initialise` returns them:
        running statistics, noise.
        """
        return self.extra("state") if "state" in self.items else None

    def extra(self, name: str, template: PyTree | None = None) -> PyTree:
        """Return an additional item that was stored with this checkpoint.

        Raises
        ------
        RunError
            If there is none of that name.
        """
        if name not in self.items[1:]:
            stored = ", ".join(self.items[1:]) or "none"
            raise RunError(
                f"Step {self.step} of {self.layout.root} has no item {name!r}. Stored beside the "
                f"parameters: {stored}."
            )
        return load_tree(self.layout.checkpoint(self.step) / name, template)

    @property
    def predict(self) -> Predict:
        """The network as ``predict(params, inputs)``, equal for all checkpoints of a run.

        With a :attr:`state` it is called as ``predict(params, inputs, state)``.

        Raises
        ------
        RunError
            If the network is not registered and none was passed to ``open_run``.
        """
        if self.given_predict is not None:
            return self.given_predict
        if self.network is None:
            raise RunError(
                f"Step {self.step} of {self.layout.root} names no network. Pass yours: "
                "open_run(path, predict=..., loss=...)."
            )
        from curvlab.networks import Predict as NetworkPredict
        from curvlab.networks import build_network

        return NetworkPredict(build_network(self.network))

    @property
    def loss(self) -> Loss:
        """The per-example loss ``loss(outputs, targets)``.

        Raises
        ------
        RunError
            If the objective is not registered and none was passed to ``open_run``.
        """
        if self.given_loss is not None:
            return self.given_loss
        if self.objective is None:
            raise RunError(
                f"Step {self.step} of {self.layout.root} names no objective. Pass yours: "
                "open_run(path, predict=..., loss=...)."
            )
        from curvlab.objectives import build_objective

        return build_objective(self.objective)

    def probe_set_name(self, probe_set: str = "current") -> str:
        """Return the name of the probe set in a role, or the given name itself.

        Raises
        ------
        RunError
            If it is neither a role of this checkpoint nor a stored probe set.
        """
        name = self.probes.get(probe_set, probe_set)
        known = ProbeSets(self.layout)
        if name not in known:
            raise RunError(
                f"Step {self.step} of {self.layout.root} has no probe set {probe_set!r}. Roles: "
                f"{', '.join(self.probes) or 'none'}; stored: {', '.join(known) or 'none'}."
            )
        return name

    def metric(self) -> "curvlab.curvature.metric.Metric":
        """Return the metric of the optimiser in its state at this step.

        The diagonal ``P`` by which Adam, AdamW and RMSProp divide their steps, from the stored
        optimiser state and the settings in the stored spec.

        Raises
        ------
        RunError
            If the checkpoint names no optimiser, or holds no state of it.
        OperatorError
            If the optimiser has no diagonal metric, or has made no step.
        """
        from curvlab.curvature.metric import optimiser_metric

        if self.optimiser is None or self.opt_state is None:
            missing = "optimiser" if self.optimiser is None else "optimiser state"
            raise RunError(
                f"Step {self.step} of {self.layout.root} holds no {missing}, which the metric is "
                "made of. Save it with the checkpoint, or use curvlab.adam_metric or "
                "curvlab.weight_norm_metric."
            )
        return optimiser_metric(self.optimiser.name, self.optimiser.settings, self.opt_state)

    def problem(self, probe_set: str = "current") -> "curvlab.curvature.problem.Problem":
        """Return loss, parameters and the data of a probe set as one problem.

        Parameters
        ----------
        probe_set
            A role (``"current"``, ``"next"``) or the name of a probe set.

        Raises
        ------
        RunError
            If the probe set, the network or the objective is not known, or the network has running
            statistics that were not stored.
        """
        from curvlab.curvature.problem import Problem

        name = self.probe_set_name(probe_set)
        if self.given_predict is None and self.network is not None:
            self._require_state(self.network, name)
        probe = ProbeSets(self.layout)[name]
        return Problem(
            self.predict,
            self.loss,
            self.params,
            (probe.inputs, probe.targets),
            state=self.state,
            data=f"{probe.name} ({probe.hash[:12]})",
        )

    def _require_state(self, network: Spec, probe_set: str) -> None:
        inputs = abstract_inputs(self.layout, probe_set)
        needed = set(_network_variables(network, inputs)) - {"params"}
        stored = set(self.state) if isinstance(self.state, Mapping) else set[str]()
        if missing := sorted(needed - stored):
            raise RunError(
                f"Network {network.name!r} needs the state {', '.join(missing)}, which step "
                f"{self.step} of {self.layout.root} does not hold. Save it with the checkpoint: "
                "save_checkpoint(..., state=state), as curvlab.initialise returns it."
            )


def stored_steps(directory: Path) -> tuple[int, ...]:
    """Return the steps stored in a directory, ascending."""
    steps = (parse_step(entry.name) for entry in visible(directory) if entry.is_dir())
    return tuple(sorted(step for step in steps if step is not None))


def write_step(
    target: Path,
    step: int,
    trees: Mapping[str, PyTree],
    about: Mapping[str, Any],
) -> None:
    """Store trees by name and plain data for ``spec.json`` as a new step directory, atomically."""
    with new_directory(target) as temporary:
        content = {name: save_tree(temporary / name, tree) for name, tree in trees.items()}
        spec = {
            "schema": SCHEMA,
            "step": step,
            "items": list(trees),
            "sha256_of_content": content,
            **about,
        }
        (temporary / SPEC_FILE).write_bytes(to_json(spec))
        write_manifest(temporary)


def read_spec(directory: Path, root: Path) -> tuple[dict[str, Any], str]:
    """Verify a step directory and return its description and the hash of that description.

    Raises
    ------
    CheckpointError
        If any file differs from the manifest, or a newer version wrote it.
    """
    require_intact(directory, root=root, advice=ADVICE)
    data = (directory / SPEC_FILE).read_bytes()
    spec: dict[str, Any] = json.loads(data)
    if spec["schema"] > SCHEMA:
        raise CheckpointError(
            f"Cannot read {directory}: expected schema up to {SCHEMA}, found {spec['schema']}. Use "
            "the version of curvlab that wrote it."
        )
    return spec, hashlib.sha256(data).hexdigest()


def read_checkpoint(
    layout: Layout,
    step: int,
    *,
    predict: Predict | None = None,
    loss: Loss | None = None,
    template: PyTree | None = None,
) -> Checkpoint:
    """Verify and read the checkpoint of a step that exists.

    Raises
    ------
    CheckpointError
        If a file is missing, truncated, altered or added, a probe set has other data than when
        the checkpoint was written, or the parameters do not fit ``template`` or the network.
    """
    directory = layout.checkpoint(step)
    spec, digest = read_spec(directory, layout.root)
    sets = ProbeSets(layout)
    for role, probe in spec["probes"].items():
        if probe["name"] in sets and (found := sets.hash(probe["name"])) != probe["hash"]:
            raise CheckpointError(
                f"{directory}: expected probe set {probe['name']!r} ({role}) with hash "
                f"{probe['hash']}, found {found}. {ADVICE}"
            )
    names = {role: str(probe["name"]) for role, probe in spec["probes"].items()}
    network, objective, optimiser = (
        None if spec[name] is None else Spec.from_json(spec[name])
        for name in ("network", "objective", "optimiser")
    )
    params = load_tree(directory / "params", template)
    if predict is None and template is None and network is not None and "current" in names:
        _check_against_network(layout, network, params, names["current"], directory)
    return Checkpoint(
        layout=layout,
        step=step,
        task=spec["task"],
        params=params,
        probes=names,
        network=network,
        objective=objective,
        optimiser=optimiser,
        items=tuple(spec["items"]),
        digest=digest,
        given_predict=predict,
        given_loss=loss,
    )


def _check_against_network(
    layout: Layout, network: Spec, params: PyTree, probe_set: str, directory: Path
) -> None:
    """Refuse parameters that the named network would not take, before anything is computed."""
    if probe_set not in ProbeSets(layout):
        return
    variables = _network_variables(network, abstract_inputs(layout, probe_set))
    expected = _shapes_of(variables["params"])
    found = _shapes_of(params)
    if found == expected:
        return
    name = min(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    raise CheckpointError(
        f"{directory}: parameter {name!r} of network {network.name!r}: expected "
        f"{_shape(expected, name)}, found {_shape(found, name)}. Store the checkpoint with the "
        "network spec it was trained with, or pass predict= to open_run."
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return f"shape {shapes[name]}" if name in shapes else "no such parameter"


def _shapes_of(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _network_variables(network: Spec, inputs: PyTree) -> Mapping[str, PyTree]:
    """Return shapes of the parameters and of the state that a network cannot do without."""
    leaves, treedef = jax.tree.flatten(inputs)
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    return _variables(json.dumps(network.to_json()), treedef, shapes)


@lru_cache
def _variables(
    network: str, treedef: Any, shapes: tuple[tuple[tuple[int, ...], str], ...]
) -> Mapping[str, PyTree]:
    from curvlab.networks import build_network

    module = build_network(Spec.from_json(json.loads(network)))
    inputs = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(s, d) for s, d in shapes])
    # Without a key for noise: noisy layers can do without it.
    variables: Any = jax.eval_shape(module.init, jax.random.key(0), inputs)
    return variables
