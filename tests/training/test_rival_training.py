"""Training of networks without spikes: reproducible and resumable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_experiment import TINY_EXPERIMENT

from autospike.config import Experiment
from autospike.events import Event, StepEvent
from autospike.models.rivals import Rival
from autospike.training.checkpoint import Checkpoints
from autospike.training.rivals import LARGEST_VIT_LEARNING_RATE, fit_rival, rival_recipe, untrained_rival
from autospike.training.setup import Setup, open_experiment, training_batches


@pytest.fixture(scope="module")
def setup() -> Setup:
    return open_experiment(Experiment.model_validate(TINY_EXPERIMENT))


class _Stop(Exception):  # noqa: N818 - not an error
    pass


def fit(setup: Setup, folder: Path, *, until: int = 100) -> Rival:
    def report(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == until:
            raise _Stop

    rival = untrained_rival(setup, "cnn-small")
    fit_rival(rival, training_batches(setup), rival_recipe(setup, "cnn-small"), Checkpoints(folder=folder), report)
    return rival


def test_a_resumed_training_is_bit_identical(setup: Setup, tmp_path: Path) -> None:
    """Stopped after step 7 of 10; the checkpoint of the first epoch is from step 5."""
    uninterrupted = fit(setup, tmp_path / "one")
    with pytest.raises(_Stop):
        fit(setup, tmp_path / "two", until=7)
    record = Checkpoints(folder=tmp_path / "two").record
    assert record is not None
    assert record.step == 5
    resumed = fit(setup, tmp_path / "two")
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted.state_dict().values(), resumed.state_dict().values(), strict=True))
    fresh = untrained_rival(setup, "cnn-small")
    assert not torch.equal(next(fresh.parameters()), next(resumed.parameters()))


def test_the_learning_rate_of_a_vit_is_limited(setup: Setup) -> None:
    assert rival_recipe(setup, "cnn").learning_rate == 0.01
    assert rival_recipe(setup, "vit").learning_rate == LARGEST_VIT_LEARNING_RATE
