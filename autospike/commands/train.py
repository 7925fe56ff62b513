"""`autospike train`: the supernet, then the hand-made architecture alone by the same recipe."""

from __future__ import annotations

from pathlib import Path

from autospike.assembly import Assembly
from autospike.commands.display import note, progress
from autospike.nn.kernel import lif_kernel
from autospike.rundir import Run
from autospike.space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.start import Part, adopt, opened
from autospike.training.trainer import Progress

LOG_EVERY_STEPS = 10


def train(run: Run) -> None:
    """Train what is not trained yet, from the newest checkpoints.

    Raises:
        UserError: the data or a checkpoint cannot be read.
    """
    assembly = Assembly.of(run)
    source = run.experiment.training.start_from
    if source is not None and not run.trained:
        opened(source, "supernet")  # before anything is written
    run.record()
    train_network(run, assembly, run.experiment.search_space, run.supernet, name="supernet", part="supernet")
    alone = SearchSpace.of(run.experiment.baseline_architecture)
    train_network(run, assembly, alone, run.baseline, name="hand-made", part="baseline")


def train_network(run: Run, assembly: Assembly, space: SearchSpace, folder: Path, *, name: str, part: Part) -> None:
    """Train the supernet of a space in a folder, unless it is trained; go on from its newest checkpoint.

    Args:
        part: of a run to start from, which network.
    """
    record = Checkpoints(folder=folder).record
    if record is not None and record.finished:
        note(f"{name}: trained already, {record.step} steps")
        return
    supernet, source = assembly.supernet(space), run.experiment.training.start_from
    if source is not None and record is None:
        taken, whole = adopt(supernet, source, part), sum(p.numel() for p in supernet.parameters())
        note(f"{name}: starts from {source}, {taken:,} of {whole:,} parameters")
    with progress(f"train {name}", total=assembly.training_steps()) as bar:

        def report(now: Progress) -> None:
            bar(now.step, f"loss {now.loss:.3f}")
            if now.step % LOG_EVERY_STEPS == 0 or now.step == now.steps:
                details = {"step": now.step, "loss": now.loss, "learning_rate": now.learning_rate, "seconds": now.seconds}
                run.log("train", network=name, **details)

        neuron = "compiled" if lif_kernel() else "vector"
        run.log("train started", network=name, from_step=record.step if record else 0, device=str(assembly.device), neuron=neuron)
        assembly.train(supernet, folder, report)
    run.log("train finished", network=name)
