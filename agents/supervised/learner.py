"""Supervised learning on a stream of tasks as an init / segment learner.

A segment is one jitted loop whose number of steps is traced, so that segments of all lengths share
one compilation and cutting a segment in two changes no bit. Classification only: the targets of a
stream are class labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from agents.learner import ProbeSet, Snapshot
from agents.presets import SupervisedConfig
from agents.state import Tally, TrainState
from agents.supervised.data import load
from agents.supervised.streams import Stream, build_stream, task_name
from curvlab.networks import Predict, build_network
from curvlab.objectives import accuracy, build_objective
from curvlab.objectives.registry import Loss
from curvlab.runs.optimisers import build_optimiser


@dataclass(frozen=True)
class Rule:
    """What decides an update besides state and data; compared by value, static under jit.

    Attributes
    ----------
    predict, loss, optimiser
        The network, the per-example loss and the optax transformation.
    batch
        Examples per update, drawn uniformly with replacement.
    """

    predict: Predict
    loss: Loss
    optimiser: optax.GradientTransformation
    batch: int


@dataclass(frozen=True, eq=False)
class SupervisedLearner:
    """Trains a network on one task of a stream after another.

    Attributes
    ----------
    rule
        How one update is made.
    stream
        The tasks.
    steps_per_task
        Updates on each.
    evaluation_examples
        Loss and accuracy are reported as means over the first so many examples of the task; None
        for all of them.
    """

    rule: Rule
    stream: Stream
    steps_per_task: int
    evaluation_examples: int | None = None
    _on_device: dict[int, tuple[Array, Array]] = field(default_factory=dict, init=False, repr=False)

    @property
    def total_steps(self) -> int:
        """Updates over all tasks."""
        return self.stream.tasks * self.steps_per_task

    @property
    def switches(self) -> tuple[int, ...]:
        """Steps at which a task has just been finished."""
        return tuple(self.steps_per_task * (task + 1) for task in range(self.stream.tasks))

    def task_at(self, step: int) -> int:
        """Return the task of the ``step``-th update; at a task's end, the task just learnt."""
        return max(step - 1, 0) // self.steps_per_task

    def probe_sets(self) -> Iterator[ProbeSet]:
        """Yield every task of the stream and the one beyond the last."""
        for index in range(self.stream.tasks + 1):
            task = self.stream.task(index)
            yield ProbeSet(task_name(index), task.inputs, task.targets)

    def init(self, key: Key[Array, ""]) -> TrainState:
        """Return the state before the first update."""
        return _init(self.rule, key, self._task(0)[0][:1])

    def segment(self, state: TrainState, steps: int) -> tuple[TrainState, Tally]:
        """Make ``steps`` updates, across ends of tasks where need be."""
        step = int(state.step)
        end = step + steps
        while step < end:
            task = step // self.steps_per_task
            part = min(end, (task + 1) * self.steps_per_task) - step
            state = _segment(self.rule, state, *self._task(task), np.int32(part))
            step += part
        return state, state.tally

    def report(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        """Return a metrics row, and the state with its sums cleared.

        Returns
        -------
        tuple
            The state, and: ``task``; ``loss`` and ``accuracy`` of the present parameters, means
            over the task's examples; ``batch_loss``, ``batch_accuracy`` and ``update_norm``, means
            over the updates since the last row; ``diverged_at``, the first update whose loss was
            not finite. The last four only where there is something to say.
        """
        task = self.task_at(int(state.step))
        inputs, targets = self._task(task)
        count = self.evaluation_examples
        loss, correct = _evaluate(self.rule, state.params, inputs[:count], targets[:count])
        tally = jax.device_get(state.tally)
        row = {"task": task, "loss": float(loss), "accuracy": float(correct)}
        if tally.steps:
            row["batch_loss"] = float(tally.loss / tally.steps)
            row["batch_accuracy"] = float(tally.accuracy / tally.steps)
            row["update_norm"] = float(tally.update_norm / tally.steps)
        if tally.diverged_at >= 0:
            row["diverged_at"] = int(tally.diverged_at)
        cleared = Tally.empty(state.tally.diverged_at)
        return TrainState(state.step, state.key, state.params, state.opt_state, cleared), row

    def snapshot(self, state: TrainState) -> Snapshot:
        """Return what an analysis checkpoint holds."""
        task = self.task_at(int(state.step))
        return Snapshot(
            params=state.params,
            opt_state=state.opt_state,
            task=task,
            probes={"current": task_name(task), "next": task_name(task + 1)},
        )

    def _task(self, index: int) -> tuple[Array, Array]:
        if index not in self._on_device:
            self._on_device.clear()
            task = self.stream.task(index)
            self._on_device[index] = (jnp.asarray(task.inputs), jnp.asarray(task.targets))
        return self._on_device[index]


@partial(jax.jit, static_argnums=0)
def _init(rule: Rule, key: Key[Array, ""], example: Float[Array, "1 ..."]) -> TrainState:
    weights, run = jax.random.split(key)
    params = rule.predict.module.init(weights, example)["params"]
    return TrainState(
        step=jnp.array(0, jnp.int32),
        key=run,
        params=params,
        opt_state=rule.optimiser.init(params),
        tally=Tally.empty(),
    )


@partial(jax.jit, static_argnums=0)
def _segment(
    rule: Rule,
    state: TrainState,
    inputs: Float[Array, "examples ..."],
    targets: Int[Array, " examples"],
    steps: Int[Array, ""],
) -> TrainState:
    def update(_: Int[Array, ""], state: TrainState) -> TrainState:
        key = jax.random.fold_in(state.key, state.step)
        chosen = jax.random.randint(key, (rule.batch,), 0, targets.shape[0])
        x, y = inputs[chosen], targets[chosen]

        def objective(params: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
            outputs = rule.predict(params, x)
            return rule.loss(outputs, y).mean(), accuracy(outputs, y).mean()

        (loss, correct), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        change, opt_state = rule.optimiser.update(gradient, state.opt_state, state.params)
        step = state.step + 1
        return TrainState(
            step=step,
            key=state.key,
            params=optax.apply_updates(state.params, change),
            opt_state=opt_state,
            tally=state.tally.add(step, loss, correct, optax.tree.norm(change)),
        )

    return jax.lax.fori_loop(0, steps, update, state)


@partial(jax.jit, static_argnums=0)
def _evaluate(
    rule: Rule,
    params: PyTree,
    inputs: Float[Array, "examples ..."],
    targets: Int[Array, " examples"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    outputs = rule.predict(params, inputs)
    return rule.loss(outputs, targets).mean(), accuracy(outputs, targets).mean()


def build_learner(
    settings: SupervisedConfig, seed: int, directory: Path | None = None
) -> SupervisedLearner:
    """Return the learner that a configuration describes.

    Parameters
    ----------
    settings
        The resolved configuration.
    seed
        Decides the labels of all tasks; weights and batches follow the key given to ``init``.
    directory
        Where the files of the data set are; None for the cache.

    Raises
    ------
    CurvlabError
        If the configuration names something unknown, or the data cannot be read.
    """
    images = load(settings.data, settings.examples, directory)
    rule = Rule(
        predict=Predict(build_network(settings.network)),
        loss=build_objective(settings.objective),
        optimiser=build_optimiser(settings.optimiser),
        batch=settings.batch,
    )
    stream = build_stream(settings.stream, images.inputs, images.classes, settings.tasks, seed)
    return SupervisedLearner(rule, stream, settings.steps_per_task, settings.evaluation_examples)
