"""Named experiments: what `python -m agents supervised PRESET` trains.

A preset holds one complete configuration per arm; a run is a preset, an arm and a seed. Everything
here is plain data, so that listing presets imports neither JAX nor any data set.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from curvlab.core.errors import CurvlabError, UnknownNameError
from curvlab.core.specs import Spec


@dataclass(frozen=True)
class ScheduleConfig:
    """At which steps something is written; a pure function of the configuration, never of time.

    Attributes
    ----------
    log_every
        Steps between metrics rows.
    resume_every
        Steps between savings of the full training state.
    checkpoints_per_decade
        Log-spaced checkpoints per factor of ten in steps, counted from step 1.
    """

    log_every: int = 100
    resume_every: int = 2_000
    checkpoints_per_decade: int = 4


@dataclass(frozen=True)
class SupervisedConfig:
    """Everything that decides the numbers of one supervised run, apart from its seed.

    Attributes
    ----------
    optimiser
        Name and keyword arguments of an optax optimiser.
    data, examples
        Data set, and how many of its examples (shuffled by a fixed seed) the run uses.
    stream
        How tasks follow each other.
    tasks, steps_per_task
        Number of tasks and updates on each.
    network, objective
        Names and settings in curvlab's registries.
    batch
        Examples per update, drawn with replacement.
    evaluation_examples
        Loss and accuracy in the metrics are means over the first so many examples; None for all.
    threads
        Threads of XLA on the CPU. They are part of the configuration because large matrix products
        round differently when they are split over another number of threads.
    """

    optimiser: Spec
    data: str = "digits"
    examples: int = 1_000
    stream: str = "random-labels"
    tasks: int = 5
    steps_per_task: int = 8_000
    network: Spec = field(default_factory=lambda: Spec("mlp", {"widths": [256, 256]}))
    objective: Spec = field(default_factory=lambda: Spec("cross_entropy"))
    batch: int = 128
    evaluation_examples: int | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    threads: int = 1

    @property
    def total_steps(self) -> int:
        """Updates over all tasks."""
        return self.tasks * self.steps_per_task


@dataclass(frozen=True)
class RunConfig:
    """One run: which preset and arm it came from, its seed, and the resolved settings."""

    preset: str
    arm: str
    seed: int
    settings: SupervisedConfig

    def to_json(self) -> dict[str, Any]:
        """Return the plain data that goes into ``run.json``."""
        names = {"kind": "supervised", "preset": self.preset, "arm": self.arm, "seed": self.seed}
        return names | asdict(self.settings)


@dataclass(frozen=True)
class Preset:
    """A named experiment: arms that differ in one thing, trained on the same seeds by default."""

    name: str
    summary: str
    arms: Mapping[str, SupervisedConfig]
    seeds: tuple[int, ...] = (0,)

    def run(self, arm: str, seed: int) -> RunConfig:
        """Return the configuration of one run.

        Raises
        ------
        UnknownNameError
            If the preset has no such arm.
        CurvlabError
            If the seed is negative.
        """
        if arm not in self.arms:
            raise UnknownNameError(f"arm of preset {self.name!r}", arm, self.arms)
        if not 0 <= seed < 2**32:
            raise CurvlabError(
                f"Seed {seed} was asked for. Seeds are integers from 0 to 2**32 - 1."
            )
        return RunConfig(self.name, arm, seed, self.arms[arm])


# Case study 1 of Lyle et al. (2023), "Understanding Plasticity in Neural Networks".
DEFAULT_ADAM = Spec("adam", {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-9})
TUNED_ADAM = Spec(
    "adam", {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.9, "eps": 1e-9, "eps_root": 1e-3}
)


def _optimiser_arms(config: SupervisedConfig) -> dict[str, SupervisedConfig]:
    return {"default": config, "tuned": replace(config, optimiser=TUNED_ADAM)}


_PRESETS = (
    Preset(
        "random-labels",
        "memorise fresh random labels of 1,000 digits, five times over, with two settings of Adam",
        _optimiser_arms(SupervisedConfig(DEFAULT_ADAM)),
    ),
    Preset(
        "random-labels-paper",
        "the same at the scale of the paper: 5,000 MNIST images, MLP 2 x 1024, 90,000 steps",
        _optimiser_arms(
            SupervisedConfig(
                DEFAULT_ADAM,
                data="mnist",
                examples=5_000,
                tasks=6,
                steps_per_task=15_000,
                network=Spec("mlp", {"widths": [1024, 1024]}),
                batch=512,
                evaluation_examples=4_096,
                schedule=ScheduleConfig(log_every=250),
            )
        ),
        seeds=(0, 1, 2),
    ),
    Preset(
        "random-labels-tiny",
        "two tasks of 60 steps with an MLP of 16 units: a run of seconds, to try things out",
        _optimiser_arms(
            SupervisedConfig(
                DEFAULT_ADAM,
                examples=200,
                tasks=2,
                steps_per_task=60,
                network=Spec("mlp", {"widths": [16]}),
                batch=32,
                schedule=ScheduleConfig(log_every=20, resume_every=40, checkpoints_per_decade=1),
            )
        ),
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _PRESETS}


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises
    ------
    UnknownNameError
        If there is none; the message offers the nearest names.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
