"""The user's own datasets: kinds of samples, classes, splits, identity, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders import one_line_error
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from autospike.config import AugmentationConfig, DataConfig
from autospike.data.batches import TrainingBatches
from autospike.data.datasets import image_size_of, images_of
from autospike.data.images import Images

CONFIG = DataConfig(name="datasets", image_size=4, search_share=0.25)
LABELS = [0, 1] * 10


class Pairs:
    """Samples with classes, without a list of the classes."""

    def __init__(self, samples: Any, labels: Any = LABELS) -> None:
        self.samples, self.labels_of_samples = samples, labels

    def __len__(self) -> int:
        return len(self.labels_of_samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.samples[index], self.labels_of_samples[index]


class Noise(Pairs):
    """Another sample each time."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return np.random.default_rng().integers(0, 255, (4, 4), dtype=np.uint8), LABELS[index]


def opened(train: Any, test: Any = None, **others: Any) -> Images:
    return images_of({"train": train, "test": train if test is None else test, **others}, CONFIG, 0)


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 5), dtype=np.uint8)


@pytest.mark.parametrize(
    "samples",
    [
        [Image.fromarray(np.moveaxis(pixels, 0, -1)) for pixels in PIXELS],
        PIXELS,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).float() / 255,
        PIXELS / 255,
    ],
    ids=["PIL", "array", "tensor", "floats", "doubles"],
)
def test_all_kinds_of_images_have_the_same_pixels(samples: Any) -> None:
    images = opened(Pairs(samples))
    assert (images.channels, images.time_steps, image_size_of(Pairs(samples))) == (3, None, 4)
    assert np.array_equal(np.asarray(images.splits["test"].image(7)), np.moveaxis(PIXELS[7], 0, -1))


@pytest.mark.parametrize("samples", [PIXELS[:, 0], PIXELS[:, :1]], ids=["[H, W]", "[1, H, W]"])
def test_grey_images(samples: Any) -> None:
    images = opened(Pairs(samples))
    assert images.channels == 1
    assert np.array_equal(np.asarray(images.splits["test"].image(3)), PIXELS[3, 0])


def test_event_frames() -> None:
    frames = np.random.default_rng(0).integers(0, 9, (20, 6, 2, 4, 4))
    images = opened(Pairs(frames))
    assert (images.channels, images.time_steps) == (2, 6)
    read = images.splits["train"].image(0)
    assert read.dtype == np.float32
    assert np.array_equal(read, frames[images.splits["train"].indices[0]])


def test_the_search_split_is_sampled_from_the_training_images_unless_it_is_given() -> None:
    """A quarter of 20 samples, stratified."""
    sampled = opened(Pairs(PIXELS)).splits
    assert [len(sampled[name]) for name in ("train", "search", "test")] == [15, 5, 20]
    assert set(sampled["train"].indices).isdisjoint(sampled["search"].indices)
    given = opened(Pairs(PIXELS), search=Subset(Pairs(PIXELS), range(8))).splits  # type: ignore[arg-type]
    assert [len(given[name]) for name in ("train", "search", "test")] == [20, 8, 20]


def test_a_dataset_may_augment_training_images_itself() -> None:
    """Sample i is a new image every time it is read: no two epochs have an image in common."""
    images = opened(Noise(PIXELS), Pairs(PIXELS[:, 0]), search=Pairs(PIXELS[:, 0]))
    batches = TrainingBatches(
        split=images.splits["train"],
        num_classes=2,
        channels=1,
        image_size=4,
        batch_size=20,
        augmentation=AugmentationConfig(),
        smoothing=0.0,
        workers=0,
        seed=0,
    )
    first, second = (set(map(tuple, batch.images.flatten(1).tolist())) for batch in batches(0, 2))
    assert (len(first), len(second), len(first & second)) == (20, 20, 0)


def test_classes_of_wrapped_datasets_are_those_of_their_samples() -> None:
    tensors = TensorDataset(torch.from_numpy(PIXELS), torch.tensor(LABELS))
    part: Any = Subset(tensors, [1, 0, 3, 2, 5])
    both: Any = ConcatDataset([part, Pairs(PIXELS[:2], [0, 1])])  # type: ignore[list-item]
    images = opened(both, search=both)
    assert images.splits["train"].labels == tuple(both[i][1] for i in range(7)) == (1, 0, 1, 0, 1, 0, 1)
    assert images.classes == ("0", "1")


def test_the_identity_depends_on_classes_and_on_the_fingerprint_of_a_dataset() -> None:
    marked = Pairs(PIXELS)
    marked.fingerprint = "version 2"  # type: ignore[attr-defined]
    found = [opened(Pairs(PIXELS)), opened(Pairs(PIXELS)), opened(Pairs(PIXELS, LABELS[::-1])), opened(marked)]
    digests = [images.fingerprint for images in found]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Pairs(PIXELS * 2.0), "sample 0 has values from"),
        (Pairs(PIXELS.astype(int)), "8-bit values, or floating-point values from 0 to 1"),
        (Pairs(np.zeros((20, 5, 4, 4), np.uint8)), "sample 0 has the shape [5, 4, 4]"),
        (Pairs(PIXELS, ["cat"] * 20), "a class is not a whole number"),
        (Pairs(PIXELS, [-1, 0] * 10), "classes are whole numbers from 0"),
        (Pairs(PIXELS, [0, 2] * 10), "no sample of class 1, but the classes are 0 to 2"),
        (Pairs([], []), "it is empty"),
        (Noise(PIXELS), "sample 0 differs when it is read again; leave out random transforms"),
        (PIXELS, "dataset[0] must be a pair of a sample and its class"),
        (3, "int cannot be read as a dataset"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_a_one_line_error(dataset: Any, words: str) -> None:
    assert words in one_line_error(lambda: opened(dataset))


@pytest.mark.parametrize("given", [{"train": 1}, {"train": 1, "test": 2, "val": 3}, [1, 2]])
def test_train_and_test_are_required(given: Any) -> None:
    assert "train and test are required, search is optional" in one_line_error(lambda: images_of(given, CONFIG, 0))
