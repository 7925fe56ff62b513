"""Early exit: hand-made logits with known exits, and a network against runs of each of its images alone."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from builders import small
from populations import WRITTEN, calibrated, make_evaluator, measure_population, sample
from torch import Tensor

from autospike.data.batches import Batch
from autospike.energy.conventions import DEFAULT
from autospike.energy.counts import LayerCount
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.early_exit import StepPredictions, measure_exits, predict_steps
from autospike.evaluation.single import measure_stepwise
from autospike.measurement import Measurement
from autospike.model_folder import InputSpec, read_model, write_model
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.models.early_exit import confidence_margins, exit_steps, exited, run_until_exit, running_means
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.statistics import pack_mask
from autospike.tasks.classification import ConfidentSteps, CorrectPredictions, Exits, confident_at

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
    torch.testing.assert_close(model(IMAGES, early_exit=True), running_means(model.forward_steps(IMAGES))[-1])  # without a margin
    margin = middle_margin(model)
    model.exit_margin = margin
    outputs, steps = exited(model.forward_steps(IMAGES), margin)
    found = model(IMAGES, early_exit=True)
    model.exit_margin = 1.0
    torch.testing.assert_close(found, outputs)
    for i in (0, 5, 11):
        at_step = build_model(replace(model.architecture, time_steps=int(steps[i])), num_classes=3, in_chans=3).eval()
        at_step.load_state_dict(model.state_dict())
        assert torch.allclose(at_step(IMAGES[i : i + 1])[0], found[i], atol=1e-5)


@torch.no_grad()
def test_the_forward_pass_stops_at_the_last_exit(model: SpikingModel) -> None:
    """Each step runs for the images that still run, and none after the last exit."""
    margin, seen = middle_margin(model), list[int]()
    steps = exit_steps(confidence_margins(running_means(model.forward_steps(IMAGES))), margin)
    early = IMAGES[steps <= 2]
    stopping = deepcopy(model)
    stopping.exit_margin = margin
    stopping.get_classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2]))
    stopping(early, early_exit=True)
    assert seen == [len(early), int((steps == 2).sum())]
    assert 0 < seen[1] < seen[0]


@pytest.mark.parametrize("family", ["sew", "events", "spike_driven", "meta_spikeformer", "qkformer", "e_spikeformer", "max_former"])
@torch.no_grad()
def test_step_by_step_equals_all_steps_at_once(family: str) -> None:
    """In every family, with still images and with event frames: the same exits, and the outputs up to rounding in the head."""
    evaluator = make_evaluator(family)
    model = calibrated(evaluator, evaluator.supernet.space.largest())
    images = evaluator.search.batch((0, 12)).images
    logits = model.forward_steps(images)
    margins = confidence_margins(running_means(logits))
    model.exit_margin = float(margins[0].median())
    outputs, steps = exited(logits, model.exit_margin)
    assert len(set(steps.tolist())) > 1
    found, found_steps = run_until_exit(
        model, model.forward_steps, images, time_steps=model.architecture.time_steps, threshold=model.exit_margin
    )
    assert found_steps.tolist() == steps.tolist()
    torch.testing.assert_close(found, outputs)
    assert torch.equal(model.forward_steps(images), logits), "no potential is left"


@pytest.mark.parametrize("margin", [0.4, 0.7, 1.0])
def test_a_written_model_has_its_own_margin_or_that_of_its_architecture(margin: float, tmp_path: Path) -> None:
    architecture = replace(small(), exit_margin=0.4)
    written = build_model(architecture, num_classes=3, in_chans=3)
    assert written.exit_margin == 0.4
    written.exit_margin = margin
    spec = InputSpec(channels=3, image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    write_model(tmp_path, written, architecture, classes=("a", "b", "c"), input_spec=spec)
    assert read_model(tmp_path).model.exit_margin == margin
    assert timm.create_model(f"local-dir:{tmp_path}").exit_margin == margin


# In a search: by-products of the trie evaluation.

NEURON_SPACE = "sew"  # T is 1 or 3
MARGINS = (0.005, 0.02, 0.06)  # the outputs of untrained networks differ little


@pytest.fixture(scope="module")
def candidates() -> list[Architecture]:
    whole = sample(SearchSpace.from_dict(WRITTEN[NEURON_SPACE]), 2, by_products=True)
    return [replace(a, exit_margin=m) for a in whole if a.time_steps == 3 for m in (*MARGINS, 1.0)]


@pytest.fixture(scope="module")
def measured(candidates: list[Architecture]) -> dict[Architecture, Measurement]:
    return dict(zip(candidates, measure_population(make_evaluator(NEURON_SPACE), candidates), strict=True))


def test_exits_by_hand() -> None:
    """Four images, T up to 3. The first stops at 1, the second at 2, the third at 3, the fourth never."""
    right = {1: b"\1\0\0\0", 2: b"\1\1\0\0", 3: b"\0\1\1\0"}
    metric_states = {t: CorrectPredictions(shards={0: mask[:2], 2: mask[2:]}) for t, mask in right.items()}
    confident = ConfidentSteps(shards={0: np.array([1, 2], np.uint16)}) + ConfidentSteps(shards={2: np.array([3, 0], np.uint16)})
    at_3, at_2 = (Exits.of(metric_states, confident, time_steps) for time_steps in (3, 2))
    assert at_3.steps.tolist() == [1, 2, 3, 3]
    assert at_3.correct == b"\1\1\1\0"
    assert at_3.shares == (1.0, 0.75, 0.5)
    assert at_3.mean_time_steps == 2.25
    assert at_2.steps.tolist() == [1, 2, 2, 2]
    assert at_2.correct == b"\1\1\0\0"
    assert at_2.shares == (1.0, 0.75)


def test_confident_steps_of_hand_made_logits() -> None:
    found = confident_at(logits_of(SURE, LATE, UNSURE), (0.5, 0.95), 7)
    assert {margin: steps.shards[7].tolist() for margin, steps in found.items()} == {0.5: [1, 3, 0], 0.95: [0, 0, 0]}


def test_counts_of_the_images_that_still_run() -> None:
    real = LayerCount(layer="q", input="real", time_steps=2, macs=100, acs=(), rate=())
    spiking = LayerCount(layer="k", input="binary", time_steps=2, macs=100, acs=(30.0, 10.0), rate=(0.3, 0.1))
    found = [count.running((1.0, 0.25)) for count in (real, spiking)]
    assert [DEFAULT.macs(count) for count in found] == [125.0, 0.0]
    assert [DEFAULT.acs(count) for count in found] == [0.0, 32.5]
    once = replace(real, reads="image").running((1.0, 0.25))
    assert DEFAULT.macs(once) == 100.0


def test_by_products_have_the_exits_of_a_network_alone(measured: dict[Architecture, Measurement]) -> None:
    """Accuracy and exits are those that a measurement image by image finds; the energy is the estimate of the curve."""
    evaluator = make_evaluator(NEURON_SPACE)
    means = set()
    for architecture in [a for a in measured if a.exits_early][:6]:
        model, found = calibrated(evaluator, architecture), measured[architecture]
        alone = measure_exits(model, evaluator.search, margin=architecture.exit_margin, batch_size=25)
        assert found.correct_mask == pack_mask(alone.correct)
        assert found.mean_time_steps == alone.mean_time_steps
        curve = predict_steps(model, evaluator.search, batch_size=25).curve(DEFAULT, [architecture.exit_margin])
        assert found.energy(DEFAULT).energy_mj == pytest.approx(curve["energy_mj_estimate"].iloc[0], rel=1e-12)
        means.add(found.mean_time_steps)
    assert len(means) > 2, "margins that differ should stop images at different steps"


def test_margin_1_is_the_whole_run(measured: dict[Architecture, Measurement]) -> None:
    """A margin that no image passes before the last step gives the numbers of the whole run as well."""
    whole = [a for a in measured if not a.exits_early]
    never = measure_population(make_evaluator(NEURON_SPACE), [replace(a, exit_margin=0.999999) for a in whole])
    for architecture, found in zip(whole, never, strict=True):
        expected = measured[architecture]
        assert expected.mean_time_steps is None
        assert found.mean_time_steps == 3
        assert (found.correct_mask, found.counts, found.params) == (expected.correct_mask, expected.counts, expected.params)
        assert found.spikes == pytest.approx(expected.spikes, rel=1e-12)


@pytest.mark.parametrize("batch_size", [4, 25])
def test_by_products_do_not_depend_on_shards_or_population(
    measured: dict[Architecture, Measurement], candidates: list[Architecture], batch_size: int
) -> None:
    assert measure_population(make_evaluator(NEURON_SPACE), candidates[::-1], batch_size=batch_size) == [
        measured[a] for a in candidates[::-1]
    ]
    one = next(a for a in candidates if a.exits_early)
    assert measure_population(make_evaluator(NEURON_SPACE), [one], batch_size=batch_size) == [measured[one]]
