"""Events of a training and of a search, which callbacks receive.

A callback is a function of an event. It is called in the process of the command (in a distributed training: of the first rank), and
selects the events that it uses by their type:

    def print_losses(event: Event) -> None:
        match event:
            case StepEvent(network=network, step=step, loss=loss):
                print(network, step, loss)

`fine_tune` may train several networks at the same time, in processes of their own (`at_once`). Callbacks are called in the process
of the command, with one event at a time: those of one network in their order, those of different networks as they come.

An exception of a callback ends the command like any other error. The same command resumes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autospike.measurement import Evaluation


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A training step is finished.

    Attributes:
        network: `supernet`, `hand-made` (the reference network), or `ID/WAY/SEED` of a retrained subnet.
        step: Number of finished steps.
        steps: Number of steps of the whole training.
        loss: Mean over the architectures of the step.
        learning_rate: Of the step.
        seconds: Duration of the step, with loading its batch.
        images_per_second: Of all ranks, as a mean over the last 50 steps.
        seconds_left: Estimated from the last 50 steps.
        memory_mb: Peak memory of the process that trains in 10^6 bytes: allocated CUDA memory on CUDA, else resident memory.
    """

    network: str
    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    images_per_second: float
    seconds_left: float
    memory_mb: float


@dataclass(frozen=True, kw_only=True)
class EpochEvent:
    """An epoch of a training is finished.

    Attributes:
        network: As in `StepEvent`.
        epoch: Number of finished epochs.
        epochs: Number of epochs of the whole training.
        step: Number of finished steps.
        loss: Mean over those steps of the epoch that were trained since the start of the command.
    """

    network: str
    epoch: int
    epochs: int
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """A checkpoint is written.

    Attributes:
        network: As in `StepEvent`.
        step: Number of finished steps, from which the training resumes.
        folder: The folder of the checkpoints.
        finished: Whether it is the last one of the training.
    """

    network: str
    step: int
    folder: Path
    finished: bool


@dataclass(frozen=True, kw_only=True)
class CandidateEvent:
    """A candidate that the search algorithm proposed is evaluated; also one whose measurement was in the archive.

    Attributes:
        evaluation: Its evaluation.
        generation: The generation in which it is proposed, from 0.
    """

    evaluation: Evaluation
    generation: int


@dataclass(frozen=True, kw_only=True)
class GenerationEvent:
    """A generation of a search is finished and archived.

    Attributes:
        generation: Its number, from 0.
        generations: Number of generations of the whole search.
        evaluations: The proposed candidates, in the order of the proposals.
        by_products: The by-product candidates.
        measured: Number of candidates that were measured now: those that were not in the archive.
    """

    generation: int
    generations: int
    evaluations: Sequence[Evaluation]
    by_products: Sequence[Evaluation]
    measured: int


Event = StepEvent | EpochEvent | CheckpointEvent | CandidateEvent | GenerationEvent
Callback = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Callback that does nothing."""
