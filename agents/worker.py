"""One run in a process of its own: `python -m agents.worker`, started by :mod:`agents.study`.

Every run gets a fresh process, whether alone or beside others, so that its numbers cannot depend on
how many run at once. What happens is told to the parent as one JSON object per line on the
standard output; when the parent dies, its end of the standard input closes and so does the worker.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from agents.presets import RunConfig, find_preset
from curvlab.core.errors import CurvlabError

EXIT_REFUSED = 2


def tell(kind: str, **content: Any) -> None:
    """Send one message to the parent."""
    try:
        sys.stdout.write(json.dumps({"kind": kind, **content}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)


def _die_with_parent() -> None:
    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        # As with any kill, the next start continues from the newest resume state.
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one run; return 0 when it is complete, 2 when it was refused, 128 + n on signal n."""
    parser = argparse.ArgumentParser(prog="python -m agents.worker", description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("arm")
    parser.add_argument("seed", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args(arguments)

    received: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    _die_with_parent()
    try:
        config = find_preset(options.preset).run(options.arm, options.seed)
        finished = _run(config, options.path, options.data, stop=lambda: bool(received))
    except CurvlabError as error:
        tell("refused", message=str(error))
        return EXIT_REFUSED
    return 0 if finished else 128 + received[0]


def _run(config: RunConfig, path: Path, data: Path | None, stop: Callable[[], bool]) -> bool:
    # Imported here, after the signal handlers are in place: these take seconds.
    import jax

    from agents.loop import Outcome, train
    from agents.schedule import Event
    from agents.supervised.learner import build_learner
    from curvlab.runs import RunWriter

    settings = config.settings
    learner = build_learner(settings, config.seed, data)

    def progress(event: Event, row: Mapping[str, float]) -> None:
        if row:
            tell("row", step=event.step, switch=event.switch, row=dict(row))

    with RunWriter.create_or_open(
        path,
        config=config.to_json(),
        network=settings.network,
        objective=settings.objective,
        optimiser=settings.optimiser,
        seed=config.seed,
    ) as writer:
        outcome = train(
            learner,
            writer,
            settings.schedule,
            jax.random.key(config.seed),
            start=lambda step: tell("start", step=step),
            progress=progress,
            stop=stop,
        )
    tell("end", outcome=outcome.value)
    return outcome is not Outcome.STOPPED


if __name__ == "__main__":
    sys.exit(main())
