"""Early exit: hand-made logits with known exits, and a network against runs of each of its images alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from builders import small
from torch import Tensor

from autospike.data.batches import Batch
from autospike.energy.conventions import DEFAULT
from autospike.energy.counts import LayerCount
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.early_exit import StepPredictions, measure_exits, predict_steps
from autospike.evaluation.single import measure_stepwise
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.models.early_exit import confidence_margins, exit_steps, exited, running_means

STEPS = 4


def with_margin(margin: float) -> list[float]:
    """Logits of two classes whose probabilities differ by a margin: softmax of (a, 0) with a = log((1 + m) / (1 - m))."""
    return [float(np.log((1 + margin) / (1 - margin))), 0.0]


def logits_of(*outputs: list[list[float]]) -> Tensor:
    """Logits of single steps `[T, B, 2]`, whose running means are these outputs of each image after each step."""
    means = torch.tensor(outputs).transpose(0, 1)
    sums = means * torch.arange(1, len(means) + 1)[:, None, None]
    return torch.cat([sums[:1], sums[1:] - sums[:-1]])


SURE = [with_margin(0.9)] * 3
LATE = [with_margin(0.1), with_margin(0.3), with_margin(0.8)]
UNSURE = [with_margin(0.0)] * 3


def test_known_exits() -> None:
    logits = logits_of(SURE, LATE, UNSURE)
    margins = confidence_margins(running_means(logits))
    assert torch.allclose(margins, torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.3, 0.0], [0.9, 0.8, 0.0]]), atol=1e-5)
    assert exit_steps(margins, 0.5).tolist() == [1, 3, 3]
    assert exit_steps(margins, 0.2).tolist() == [1, 2, 3]
    assert exit_steps(margins, 0.05).tolist() == [1, 1, 3]
    assert exit_steps(margins, 0.95).tolist() == [3, 3, 3]
    outputs, steps = exited(logits, 0.2)
    assert torch.allclose(outputs, torch.tensor([SURE[0], LATE[1], UNSURE[2]]), atol=1e-5)
    assert steps.tolist() == [1, 2, 3]


def test_at_margin_1_every_image_runs_all_steps() -> None:
    certain = torch.tensor([[[1000.0, 0.0]], [[1000.0, 0.0]]])  # a margin of exactly 1
    assert exited(certain, 1.0)[1].tolist() == [2]
    assert exited(certain, 0.99)[1].tolist() == [1]


def test_the_curve_by_hand() -> None:
    """Three images with T = 2. Step 1 costs 30 accumulations, step 2 costs 10."""
    count = LayerCount(layer="q", input="binary", time_steps=2, macs=100, acs=(30.0, 10.0), rate=(0.3, 0.1))
    found = StepPredictions(
        margins=np.array([[0.9, 0.4, 0.1], [0.9, 0.9, 0.2]]), correct=np.array([[1, 0, 0], [1, 1, 0]], dtype=bool), counts=(count,)
    )
    curve = found.curve(DEFAULT, [0.0, 0.3, 0.5, 1.0]).set_index("margin")
    assert curve["mean_time_steps"].tolist() == pytest.approx([1, 4 / 3, 5 / 3, 2])
    assert curve["accuracy"].tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    one = 0.9e-9  # mJ of an accumulation
    assert curve["energy_mj_estimate"].tolist() == pytest.approx([30 * one, (30 + 10 / 3) * one, (30 + 20 / 3) * one, 40 * one])


@pytest.fixture(scope="module")
def model() -> SpikingModel:
    torch.manual_seed(0)
    built = build_model(small(time_steps=STEPS), num_classes=3, in_chans=3)
    calibrate(built, [torch.randn(16, 3, 8, 8)], time_steps=STEPS)
    with torch.no_grad():
        built.get_parameter("head.weight").mul_(100)  # so that some images are sure before the last step
    return built.eval()


IMAGES, TARGETS = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def batches(size: int) -> Iterator[Batch]:
    for start in range(0, len(IMAGES), size):
        yield Batch(images=IMAGES[start : start + size], targets=TARGETS[start : start + size])


@torch.no_grad()
def middle_margin(model: SpikingModel) -> float:
    """A margin that some images pass at the first step and others later."""
    margins = confidence_margins(running_means(model.forward_steps(IMAGES)))
    return float(margins[:-1].median())


def only(batch: Batch, _size: int) -> Iterator[Batch]:
    yield batch


def test_a_measurement_runs_each_image_for_its_own_steps(model: SpikingModel) -> None:
    margin = middle_margin(model)
    found = measure_exits(model, batches, margin=margin, batch_size=7)
    assert sum(found.images_by_steps) == 24
    assert sum(n > 0 for n in found.images_by_steps) >= 2
    with torch.no_grad():
        steps = [int(exited(model.forward_steps(image[None]), margin)[1]) for image in IMAGES]
    assert found.mean_time_steps == pytest.approx(np.mean(steps))
    energy, correct = 0.0, 0
    for t in set(steps):
        chosen = torch.tensor(steps) == t
        group = Batch(images=IMAGES[chosen], targets=TARGETS[chosen])
        alone = measure_stepwise(model, partial(only, group), batch_size=1, time_steps=t).at(t)
        energy += int(chosen.sum()) * alone.energy(DEFAULT).energy_mj
        correct += alone.correct
    assert found.correct.count(1) == correct
    assert found.energy_mj(DEFAULT) == pytest.approx(energy / 24, rel=1e-12)


def test_results_do_not_depend_on_the_batch(model: SpikingModel) -> None:
    margin = middle_margin(model)
    one, other = (measure_exits(model, batches, margin=margin, batch_size=size) for size in (24, 5))
    assert one.correct == other.correct
    assert one.images_by_steps == other.images_by_steps
    assert one.energy_mj(DEFAULT) == pytest.approx(other.energy_mj(DEFAULT), rel=1e-12)
    first, second = (predict_steps(model, batches, batch_size=size) for size in (24, 5))
    assert (first.correct == second.correct).all()
    assert first.margins == pytest.approx(second.margins, abs=1e-6)


def test_at_margin_1_a_measurement_is_that_of_the_whole_run(model: SpikingModel) -> None:
    found = measure_exits(model, batches, margin=1.0, batch_size=8)
    whole = measure_stepwise(model, batches, batch_size=8).at(STEPS)
    assert found.images_by_steps == (0, 0, 0, 24)
    assert found.correct.count(1) == whole.correct
    assert found.energy_mj(DEFAULT) == whole.energy(DEFAULT).energy_mj
    row = predict_steps(model, batches, batch_size=8).curve(DEFAULT, [1.0]).iloc[0]
    assert row["accuracy"] == whole.accuracy
    assert row["energy_mj_estimate"] == pytest.approx(whole.energy(DEFAULT).energy_mj, rel=1e-12)


@torch.no_grad()
def test_the_forward_pass_returns_the_output_of_the_exit(model: SpikingModel) -> None:
    assert torch.equal(model(IMAGES, early_exit=True), running_means(model.forward_steps(IMAGES))[-1])  # without a margin
    margin = middle_margin(model)
    model.exit_margin = margin
    outputs, steps = exited(model.forward_steps(IMAGES), margin)
    found = model(IMAGES, early_exit=True)
    model.exit_margin = 1.0
    assert torch.equal(found, outputs)
    for i in (0, 5, 11):
        at_step = build_model(replace(model.architecture, time_steps=int(steps[i])), num_classes=3, in_chans=3).eval()
        at_step.load_state_dict(model.state_dict())
        assert torch.allclose(at_step(IMAGES[i : i + 1])[0], found[i], atol=1e-5)
