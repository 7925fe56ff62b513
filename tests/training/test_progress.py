"""Progress of a training: speed, and TensorBoard files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from autospike.events import StepEvent
from autospike.training.progress import StepTimer, TensorBoard


def progress(step: int, loss: float) -> StepEvent:
    return StepEvent(
        network="supernet",
        step=step,
        steps=80,
        loss=loss,
        learning_rate=0.1,
        seconds=1.0,
        images_per_second=2.0,
        seconds_left=8.0 - step,
        memory_mb=3.0,
    )


def test_tensorboard_shows_every_tenth_step_of_a_resumed_training_once(tmp_path: Path) -> None:
    """Killed after step 50 and resumed from step 30; read by TensorBoard's own reader."""
    for start, stop in [(0, 50), (30, 80)]:
        with TensorBoard(tmp_path, start=start) as tensorboard:
            for step in range(start + 1, stop + 1):
                tensorboard(progress(step, loss=start + step / 1000))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "images_per_second", "memory_mb"}
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(range(10, 81, 10))
    assert [event.value for event in losses] == pytest.approx([0.01, 0.02, 0.03, 30.04, 30.05, 30.06, 30.07, 30.08])


def test_step_timer_measures_speed_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1, 3 and 2 seconds with 64 images each: 32 images a second, and two seconds for each of the 7 remaining steps."""
    moments = iter([10.0, 11.0, 14.0, 16.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    timer = StepTimer(network="supernet", images=64, steps=10, device=torch.device("cpu"))
    *_, last = [timer.step_finished(step, loss=1.0, learning_rate=0.1) for step in (1, 2, 3)]
    assert (last.seconds, last.images_per_second, last.seconds_left) == (2.0, 32.0, 14.0)
