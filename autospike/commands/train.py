"""`autospike train`: the supernet, then the hand-made architecture alone by the same recipe; under torchrun, on all its ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from autospike.console import note, progress, short
from autospike.errors import Interrupted
from autospike.kernels.lif import kernel
from autospike.run_directory import Run
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints, Record
from autospike.training.initialisation import Part, adopt, opened
from autospike.training.progress import Progress
from autospike.training.scalars import Scalars
from autospike.training.setup import Setup, build_supernet, open_run, train_supernet, training_steps

LOG_EVERY_STEPS = 10


def train(run: Run) -> None:
    """Train what is not trained yet, from the newest checkpoints.

    Raises:
        UserError: the data or a checkpoint cannot be read, or the ranks cannot share a batch.
        Interrupted: by a signal, after a checkpoint.
    """
    setup = open_run(run)
    source = run.experiment.training.start_from
    if source is not None and not run.trained:
        opened(source, "supernet")  # before anything is written
    alone = SearchSpace.of(run.experiment.baseline_architecture)
    with setup.ranks.joined(setup.device):
        setup.ranks.first_alone(run.record)
        train_network(run, setup, run.experiment.search_space, run.supernet, name="supernet", part="supernet")
        train_network(run, setup, alone, run.baseline, name="hand-made", part="baseline")


def train_network(run: Run, setup: Setup, space: SearchSpace, folder: Path, *, name: str, part: Part) -> None:
    """Train the supernet of a space in a folder, unless it is trained; go on from its newest checkpoint.

    Args:
        part: of a run to start from, which network.
    """
    checkpoints, tell = Checkpoints(folder=folder), note if setup.ranks.first else _say_nothing
    setup.ranks.first_alone(partial(_recover, run, checkpoints, name))
    record = checkpoints.record
    if record is not None and record.finished:
        tell(f"{name}: trained already, {record.step} steps")
        return
    supernet, source = build_supernet(setup, space), run.experiment.training.start_from
    if source is not None and record is None:
        taken, whole = adopt(supernet, source, part), sum(p.numel() for p in supernet.parameters())
        tell(f"{name}: starts from {source}, {taken:,} of {whole:,} parameters")
    with _telling(run, setup, name, record) if setup.ranks.first else nullcontext(_say_nothing) as report:
        train_supernet(setup, supernet, folder, report)


def _recover(run: Run, checkpoints: Checkpoints, name: str) -> None:
    """Go back behind a damaged checkpoint, and say so."""
    damage = checkpoints.recover()
    if damage is not None:
        note(f"{name}: {damage}")
        run.log("checkpoint damaged", network=name, what=damage)


def _say_nothing(_what: object) -> None:
    """On ranks but the first."""


@contextmanager
def _telling(run: Run, setup: Setup, name: str, record: Record | None) -> Iterator[Callable[[Progress], None]]:
    """A training's bar, its lines in the log, and its scalars, for the length of a block."""
    start, neuron = record.step if record else 0, "compiled" if kernel() else "reference"
    where = {"device": str(setup.device), "ranks": setup.ranks.size, "neuron": neuron}
    run.log("train started", network=name, from_step=start, **where)
    with (
        Scalars(run.folder / "tensorboard" / name, start=start) as scalars,
        progress(f"train {name}", total=training_steps(setup)) as bar,
    ):

        def report(now: Progress) -> None:
            bar(now.step, f"loss {now.loss:.2f} {short(now.images_per_second)}/s {short(now.memory_mb * 1e6)}B")
            if now.step % LOG_EVERY_STEPS == 0 or now.step == now.steps:
                run.log("train", network=name, **_logged(now))
                scalars.write(now)

        try:
            yield report
        except Interrupted as interruption:
            run.log("train interrupted", network=name, step=interruption.step)
            raise
    run.log("train finished", network=name)


def _logged(now: Progress) -> dict[str, float]:
    return {
        "step": now.step,
        "loss": now.loss,
        "learning_rate": now.learning_rate,
        "seconds": now.seconds,
        "images_per_second": round(now.images_per_second, 1),
        "memory_mb": round(now.memory_mb, 1),
        "seconds_left": round(now.seconds_left, 1),
    }
