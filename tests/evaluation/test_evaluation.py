"""Calibration and measurement: statistics of subnets, and results independent of batch size and order."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slow_parameters import slow_except

from autospike.config import DataConfig, EvaluationConfig
from autospike.counting.firing import FiringRates
from autospike.data.batches import FixedBatches
from autospike.data.images import Split
from autospike.data.loading import load_images
from autospike.data.partition import SplitName
from autospike.data.preparation import ImagePreparation
from autospike.energy.conventions import BINARY_ONLY, EXACT
from autospike.evaluation.calibration import UncalibratedError, average, calibrate
from autospike.evaluation.population import PopulationEvaluator
from autospike.evaluation.single import measure, measure_stepwise
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Serial
from autospike.measurement import Measurement
from autospike.memory.cache import ByteBudgetCache
from autospike.model_folder import InputSpec, read_model, write_model
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet, batch_norms


def digits(split: SplitName, count: int) -> FixedBatches:
    images = load_images(DataConfig(name="digits", image_size=8), seed=0)
    return FixedBatches(split=images.splits[split].sample(count, random.Random(0)), channels=1, image_size=8)


def reordered(batches: FixedBatches, seed: int) -> FixedBatches:
    """Return the same images in another order."""
    order = list(range(len(batches)))
    random.Random(seed).shuffle(order)
    split = batches.split
    shuffled = replace(split, indices=tuple(split.indices[i] for i in order), labels=tuple(split.labels[i] for i in order))
    return FixedBatches(split=shuffled, channels=1, image_size=8)


@dataclass(frozen=True, kw_only=True)
class MeasurementSetup:
    """A supernet with its data, to measure one model or a population."""

    trie_evaluator: TrieEvaluator
    config: EvaluationConfig

    @property
    def search(self) -> FixedBatches:
        return self.trie_evaluator.search

    def calibrated(self, architecture: Architecture) -> SpikingModel:
        model = self.trie_evaluator.supernet.extract(architecture)
        batches = (batch.images for batch in self.trie_evaluator.calibration(self.config.calibration_batch_size))
        calibrate(model, batches, time_steps=self.trie_evaluator.time_steps)
        return model

    def __call__(self, architectures: list[Architecture]) -> list[Measurement]:
        evaluator = PopulationEvaluator(
            executor=Serial(state=self.trie_evaluator),
            calibration_images=len(self.trie_evaluator.calibration),
            search_images=len(self.trie_evaluator.search),
            config=self.config,
            convention=EXACT,
        )
        return list(evaluator(architectures))


def evaluator(space: SearchSpace, **config: int) -> MeasurementSetup:
    torch.manual_seed(1)
    trie_evaluator = TrieEvaluator(
        supernet=Supernet(space, num_classes=10, in_chans=1),
        calibration=digits("train", 96),
        search=digits("search", 101),
        cache=ByteBudgetCache(),
    )
    return MeasurementSetup(
        trie_evaluator=trie_evaluator, config=EvaluationConfig(**{"calibration_images": 96, "calibration_batch_size": 48, **config})
    )


def test_measuring_an_uncalibrated_subnet_is_an_error(tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_space, num_classes=10, in_chans=1)
    with pytest.raises(UncalibratedError, match=r"stages\.0\.embedding\.convs\.0\.bn has no statistics of its own"):
        measure(supernet.extract(tiny_space.smallest()), digits("search", 8), batch_size=8)


def test_measuring_with_batch_statistics_is_an_error(tiny_space: SearchSpace) -> None:
    model = evaluator(tiny_space).calibrated(tiny_space.smallest())
    with pytest.raises(UncalibratedError):
        measure(model.train(), digits("search", 8), batch_size=8)


def test_calibration_on_one_batch_gives_the_statistics_of_the_batch(tiny_space: SearchSpace) -> None:
    model = Supernet(tiny_space, num_classes=10, in_chans=1).extract(tiny_space.smallest())
    images = torch.rand(16, 1, 8, 8)
    seen = []
    conv = model.get_submodule("stages.0.embedding.convs.1")
    handle = conv.conv.register_forward_hook(lambda _m, _a, out: seen.append(out))
    calibrate(model, [images], time_steps=3)
    handle.remove()
    bn = conv.bn
    assert seen[0].shape[:2] == (3, 16)
    torch.testing.assert_close(bn.running_mean, seen[0].mean(dim=(0, 1, 2, 3)))
    torch.testing.assert_close(bn.running_var, seen[0].var(dim=(0, 1, 2, 3)))
    assert not model.training
    assert bn.momentum == 0.1


def test_calibration_averages_its_batches_and_replaces_earlier_statistics(tiny_space: SearchSpace) -> None:
    supernet, first, second = Supernet(tiny_space, num_classes=10, in_chans=1), torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8) * 3
    means = []
    for batches in ([first], [second], [first, second]):
        model = supernet.extract(tiny_space.smallest())
        calibrate(model, [torch.rand(4, 1, 8, 8)], time_steps=2)
        calibrate(model, batches, time_steps=2)
        means.append(model.get_buffer("stages.0.embedding.convs.0.bn.running_mean"))
    torch.testing.assert_close(means[2], (means[0] + means[1]) / 2)


def test_statistics_are_averaged_in_double_precision() -> None:
    """In float32, 2^24 + 1 + 1 is 2^24."""
    found = average([torch.tensor([value]) for value in (2.0**24, 1.0, 1.0)])
    assert found.dtype == torch.float32
    assert found.tolist() == [torch.tensor((2**24 + 2) / 3).item()]


def test_calibration_does_not_run_the_head(tiny_space: SearchSpace) -> None:
    """It has no normalisation."""
    model = Supernet(tiny_space, num_classes=10, in_chans=1).extract(tiny_space.smallest())
    model.head.register_forward_hook(lambda *_: pytest.fail("the head was run"))
    calibrate(model, [torch.rand(4, 1, 8, 8)], time_steps=2)
    assert not batch_norms(model.head)


def test_calibration_counts_its_batches(tiny_space: SearchSpace) -> None:
    model = Supernet(tiny_space, num_classes=10, in_chans=1).extract(tiny_space.smallest())
    calibrate(model, [torch.rand(4, 1, 8, 8)] * 3, time_steps=2)
    assert {bn.num_batches_tracked.item() for bn in batch_norms(model)} == {3}


@pytest.mark.parametrize("batch_size", slow_except([7, 100, 500], [1, 2, 7, 50, 100, 101, 500]))
def test_a_measurement_is_independent_of_the_batch_size(tiny_space: SearchSpace, batch_size: int) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    assert measure(model, measured.search, batch_size=batch_size) == measure(model, measured.search, batch_size=64)


def test_a_measurement_is_independent_of_the_order_of_the_images(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    expected = measure(model, measured.search, batch_size=64)
    for seed in range(3):
        found = measure(model, reordered(measured.search, seed), batch_size=64)
        assert replace(found, correct_mask=expected.correct_mask) == expected  # the mask has the order of the images


def test_a_measurement_is_independent_of_the_other_candidates(tiny_space: SearchSpace) -> None:
    measured, rng = evaluator(tiny_space), random.Random(2)
    population = [tiny_space.sample(rng) for _ in range(4)]
    together = list(measured(population))
    alone = [m for architecture in reversed(population) for m in measured([architecture])]
    assert together == alone[::-1]


def test_accuracy_is_the_fraction_of_correct_predictions(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    (batch,) = measured.search(500)
    with torch.no_grad():
        answers = model(batch.images).argmax(dim=1)
    right = sum(int(answer == label) for answer, label in zip(answers, measured.search.split.labels, strict=False))
    found = measure(model, measured.search, batch_size=40)
    assert (found.correct, found.images, found.accuracy) == (right, 101, right / 101)


def at_every_step(space: SearchSpace) -> list[tuple[Measurement, Measurement]]:
    """Return for T = 1 ... 5 the measurement from a run with T = 5, and that of a run with this T."""
    measured = evaluator(space)
    model = measured.calibrated(space.largest())
    whole = measure_stepwise(model, measured.search, batch_size=40, time_steps=5)
    assert len(whole.correct) == 5
    alone = [measure_stepwise(model, measured.search, batch_size=40, time_steps=t) for t in range(1, 6)]
    assert [run.correct for run in alone] == [whole.correct[:t] for t in range(1, 6)]
    return [(whole.at(t), run.at(t)) for t, run in enumerate(alone, start=1)]


def test_one_run_measures_every_number_of_time_steps(tiny_space: SearchSpace) -> None:
    """A network is causal in time, so predictions and operations at each step do not depend on later steps."""
    scores = at_every_step(tiny_space)
    for of_five, alone in scores:
        assert (of_five.correct, of_five.images) == (alone.correct, alone.images)
        numbers = [[(c.layer, c.time_steps, c.macs, c.acs, c.rate) for c in score.counts] for score in (of_five, alone)]
        assert numbers[0] == numbers[1]
    energies = [of_five.energy(EXACT).energy_mj for of_five, _ in scores]
    assert energies == sorted(set(energies))


def test_inputs_at_the_first_steps_do_not_depend_on_later_steps(tiny_space: SearchSpace) -> None:
    """Sums of spikes may be binary at the first step, where a convention then counts them as spikes."""
    for of_five, alone in at_every_step(tiny_space):
        assert of_five == alone
        assert of_five.energy(BINARY_ONLY) == alone.energy(BINARY_ONLY)


def test_integer_frames_before_real_ones_are_accumulated() -> None:
    """Resized frames with even counts everywhere stay integers, others become real; the first steps do not depend on later ones."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 4, (6, 2, 2, 16, 16)).astype(np.float32)
    frames[:, 0] = 2
    split = Split(name="search", indices=tuple(range(6)), labels=(0,) * 6, read=lambda i: frames[i], time_steps=2)
    batches = FixedBatches(split=split, channels=2, image_size=8)
    architecture = Architecture(time_steps=2, stages=(Stage(embed_dim=8, blocks=(Block(num_heads=1),)),))
    model = build_model(architecture, num_classes=2, in_chans=2)
    calibrate(model, [batch.images for batch in batches(6)], time_steps=2)
    first, both = (measure_stepwise(model, batches, batch_size=6, time_steps=t).operations.counts[0] for t in (1, 2))
    assert (first.input, first.acs, both.input) == ("integer", (2 * 2 * 22 * 22,), "real")
    assert both.first(1) == first


def test_predictions_at_each_t_are_those_of_the_mean_over_the_first_steps(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    (batch,) = measured.search(500)
    with torch.no_grad():
        one, two, three = model.forward_steps(batch.images, 3)
    answers = [one, (one + two) / 2, (one + two + three) / 3]
    expected = tuple(bytes((logits.argmax(dim=1) == batch.targets).tolist()) for logits in answers)
    assert measure_stepwise(model, measured.search, batch_size=40).correct == expected


def test_the_default_number_of_time_steps_is_that_of_the_architecture(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.smallest())
    steps = tiny_space.smallest().time_steps
    usual = measure_stepwise(model, measured.search, batch_size=40)
    assert usual == measure_stepwise(model, measured.search, batch_size=40, time_steps=steps)
    assert usual.at(steps) == measure(model, measured.search, batch_size=40)
    assert {count.time_steps for count in usual.operations.counts} == {steps}
    assert usual.operations.images == 101


def test_firing_rates_are_means_over_all_images(tiny_space: SearchSpace) -> None:
    """Compared with the mean output of the first neurons."""
    measured, firing, seen = evaluator(tiny_space), FiringRates(), []
    model = measured.calibrated(tiny_space.largest())
    name = "stages.0.embedding.lifs.0"
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _a, out: seen.append(out.sum(dim=(0, 2, 3, 4))))
    measure_stepwise(model, measured.search, batch_size=7, firing=firing)
    handle.remove()
    spikes = torch.cat(seen)
    assert len(spikes) == 101
    assert firing.rates()[name] == pytest.approx(spikes.sum().item() / (101 * 3 * 8 * 8 * 2), rel=1e-12)


def test_collecting_firing_rates_does_not_change_the_counts(tiny_space: SearchSpace) -> None:
    """The report of an export has the counts of its row in the archive."""
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    watched = measure_stepwise(model, measured.search, batch_size=40, firing=FiringRates())
    assert watched == measure_stepwise(model, measured.search, batch_size=40)


@pytest.mark.parametrize("family", ["spikformer", "meta_spikeformer"])
def test_a_written_model_is_read_with_bit_identical_logits(tmp_path: Path, family: str) -> None:
    """Also its input specification and its classes."""
    torch.manual_seed(2)
    stage = Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=(Block(num_heads=2, qkv="repconv"),))
    architecture = Architecture(family=family, time_steps=3, stages=(stage,))
    model, images = build_model(architecture, num_classes=3, in_chans=3), torch.rand(8, 3, 8, 8)
    calibrate(model, [images], time_steps=3)
    spec = InputSpec(channels=3, image_size=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    write_model(tmp_path, model, architecture, classes=("cat", "dog", "newt"), input_spec=spec)
    again = read_model(tmp_path)
    assert (again.input_spec, again.classes, again.model.architecture) == (spec, ("cat", "dog", "newt"), architecture)
    assert not again.model.training
    with torch.no_grad():
        assert torch.equal(again.model(images), model(images))
        assert model(images).any()


def test_still_images_are_normalised_by_the_mean_and_deviation_of_the_network() -> None:
    """Pixels between 0 and 1, minus the mean of their channel, divided by its standard deviation."""
    shades = [(0, 51, 255), (102, 204, 153)]
    split = Split(name="search", indices=(0, 1), labels=(0, 1), read=lambda i: Image.new("RGB", (8, 8), color=shades[i]))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preparation = ImagePreparation(mean=mean, std=std)
    (batch,) = FixedBatches(split=split, channels=3, image_size=8, preparation=preparation)(2)
    expected = [[(value / 255 - m) / s for value, m, s in zip(shade, mean, std, strict=True)] for shade in shades]
    torch.testing.assert_close(batch.images, torch.tensor(expected)[:, :, None, None].expand(2, 3, 8, 8), rtol=1e-5, atol=1e-6)
    assert batch.targets.tolist() == [0, 1]


def test_the_default_normalisation_leaves_batches_bit_identical() -> None:
    batches = digits("search", 9)
    (plain,), (again,) = batches(9), replace(batches, preparation=ImagePreparation(mean=(0.5,), std=(0.5,)))(9)
    assert torch.equal(plain.images, again.images)


@pytest.mark.parametrize("mean_and_std", [(0.0, 1.0), (0.5, 0.25)])
def test_event_frames_are_never_normalised(mean_and_std: tuple[float, float]) -> None:
    frames = np.arange(2 * 2 * 4 * 4, dtype=np.float32).reshape(2, 2, 4, 4)
    split = Split(name="search", indices=(0, 1), labels=(0, 1), read=lambda i: frames + i, time_steps=2)
    mean, std = ((value, value) for value in mean_and_std)
    preparation = ImagePreparation(mean=mean, std=std)
    (batch,) = FixedBatches(split=split, channels=2, image_size=4, preparation=preparation)(2)
    assert torch.equal(batch.images, torch.stack([torch.from_numpy(frames), torch.from_numpy(frames + 1)], dim=1))


def test_no_batch_has_a_single_image() -> None:
    for count in (2, 3, 9, 10):
        batches = digits("search", count)
        for batch_size in range(1, 12):
            sizes = [len(batch.targets) for batch in batches(batch_size)]
            assert sum(sizes) == count
            assert min(sizes) >= 2
            assert max(sizes) <= max(2, batch_size) + 1


def test_fixed_batches_decode_each_image_once() -> None:
    opened: list[int] = []

    def read(index: int) -> Image.Image:
        opened.append(index)
        return Image.new("L", (10, 6), color=index)

    batches = FixedBatches(split=Split(name="search", indices=(4, 9, 2), labels=(0, 1, 0), read=read), channels=1, image_size=4)
    assert opened == []
    for _ in range(3):
        images = torch.cat([batch.images for batch in batches(2)])
    assert opened == [4, 9, 2]
    assert images.shape == (3, 1, 4, 4)
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([4.0, 9, 2]) / 127.5 - 1)


def test_extraction_does_not_change_the_supernet(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    before = {name: p.clone() for name, p in measured.trie_evaluator.supernet.named_parameters()}
    list(measured([tiny_space.largest(), tiny_space.smallest()]))
    assert all(torch.equal(p, before[name]) for name, p in measured.trie_evaluator.supernet.named_parameters())
    assert not any(bn.track_running_stats for bn in batch_norms(measured.trie_evaluator.supernet))
