"""Calibration and scoring: nothing stale is scored, and how the data is cut or ordered changes no result."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from autospike.config import DataConfig, EvaluationConfig
from autospike.data.batches import FixedBatches
from autospike.data.images import Split, SplitName, load_images
from autospike.evaluation.calibration import UncalibratedError, calibrate
from autospike.evaluation.evaluator import Evaluator, score
from autospike.space import SearchSpace
from autospike.supernet import Supernet, batch_norms


def digits(split: SplitName, count: int) -> FixedBatches:
    images = load_images(DataConfig(name="digits", image_size=8), seed=0)
    return FixedBatches(split=images.splits[split].drawn(count, random.Random(0)), channels=1, image_size=8)


def reordered(batches: FixedBatches, seed: int) -> FixedBatches:
    """The same images in another order."""
    order = list(range(len(batches)))
    random.Random(seed).shuffle(order)
    split = batches.split
    shuffled = replace(split, indices=tuple(split.indices[i] for i in order), labels=tuple(split.labels[i] for i in order))
    return FixedBatches(split=shuffled, channels=1, image_size=8)


def evaluator(space: SearchSpace, **config: int) -> Evaluator:
    torch.manual_seed(1)
    return Evaluator(
        supernet=Supernet(space, num_classes=10, in_chans=1),
        calibration=digits("train", 96),
        search=digits("search", 101),
        config=EvaluationConfig(**{"calibration_images": 96, "calibration_batch_size": 48, **config}),
    )


def test_an_uncalibrated_subnet_is_refused(tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_space, num_classes=10, in_chans=1)
    with pytest.raises(UncalibratedError, match=r"stages\.0\.embedding\.convs\.0\.bn has no statistics of its own"):
        score(supernet.extract(tiny_space.smallest()), digits("search", 8), batch_size=8)


def test_scoring_by_batch_statistics_is_refused(tiny_space: SearchSpace) -> None:
    model = evaluator(tiny_space).calibrated(tiny_space.smallest())
    with pytest.raises(UncalibratedError):
        score(model.train(), digits("search", 8), batch_size=8)


def test_calibration_on_one_batch_gives_that_batch_s_statistics(tiny_space: SearchSpace) -> None:
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


def test_calibration_averages_its_batches_and_forgets_what_was_before(tiny_space: SearchSpace) -> None:
    supernet, first, second = Supernet(tiny_space, num_classes=10, in_chans=1), torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8) * 3
    means = []
    for batches in ([first], [second], [first, second]):
        model = supernet.extract(tiny_space.smallest())
        calibrate(model, [torch.rand(4, 1, 8, 8)], time_steps=2)
        calibrate(model, batches, time_steps=2)
        means.append(model.get_submodule("stages.0.embedding.convs.0.bn").running_mean)
    torch.testing.assert_close(means[2], (means[0] + means[1]) / 2)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50, 100, 101, 500])
def test_a_score_does_not_depend_on_the_batch_size(tiny_space: SearchSpace, batch_size: int) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    assert score(model, measured.search, batch_size=batch_size) == score(model, measured.search, batch_size=64)


def test_a_score_does_not_depend_on_the_order_of_the_images(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    expected = score(model, measured.search, batch_size=64)
    for seed in range(3):
        assert score(model, reordered(measured.search, seed), batch_size=64) == expected


def test_a_candidate_s_measurement_does_not_depend_on_its_company(tiny_space: SearchSpace) -> None:
    measured, rng = evaluator(tiny_space), random.Random(2)
    population = [tiny_space.sample(rng) for _ in range(4)]
    together = [(m.architecture, m.score) for m in measured(population)]
    alone = [(m.architecture, m.score) for architecture in reversed(population) for m in measured([architecture])]
    assert together == alone[::-1]


def test_accuracy_is_the_share_of_right_answers(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    model = measured.calibrated(tiny_space.largest())
    (batch,) = measured.search(500)
    with torch.no_grad():
        answers = model(batch.images).argmax(dim=1)
    right = sum(int(answer == label) for answer, label in zip(answers, measured.search.split.labels, strict=False))
    found = score(model, measured.search, batch_size=40)
    assert (found.correct, found.images, found.accuracy) == (right, 101, right / 101)


def test_batches_are_never_of_one_image() -> None:
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


def test_extracting_leaves_the_supernet_as_it_was(tiny_space: SearchSpace) -> None:
    measured = evaluator(tiny_space)
    before = {name: p.clone() for name, p in measured.supernet.named_parameters()}
    list(measured([tiny_space.largest(), tiny_space.smallest()]))
    assert all(torch.equal(p, before[name]) for name, p in measured.supernet.named_parameters())
    assert not any(bn.track_running_stats for bn in batch_norms(measured.supernet))
