"""Motion: recordings depend on their key alone, and only the order of their frames distinguishes the classes."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from autospike.config import DataConfig
from autospike.data import motion
from autospike.data.event_camera import Camera
from autospike.data.loading import load_images
from autospike.data.source import open_images
from autospike.errors import UserError

CONFIG = DataConfig(name="motion", image_size=32)
SAMPLES: tuple[tuple[motion.SplitName, int], ...] = (("train", 640), ("test", 300))
QUIET = Camera(mismatch=0, leak_rate=0, shot_rate=0)


def centres(events: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angle on the torus of the events' mean column, and number of events, of each frame `[T, H, W]`."""
    columns = events.sum(axis=1) @ np.exp(2j * np.pi * np.arange(motion.SIZE) / motion.SIZE)
    return np.angle(columns), events.sum(axis=(1, 2))


def test_splits_have_every_class_equally_often() -> None:
    images = load_images(CONFIG, seed=0)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 3_840, "search": 960, "test": 1_600}
    assert {name: set(Counter(split.labels).values()) for name, split in images.splits.items()} == {
        "train": {960},
        "search": {240},
        "test": {400},
    }
    assert (images.channels, images.time_steps, len(images.classes)) == (2, 8, 4)


def test_a_recording_does_not_depend_on_the_number_of_recordings() -> None:
    together = motion.frames("train", range(3, 7))
    assert together.shape == (4, 8, 2, 32, 32)
    for position, index in enumerate(range(3, 7)):
        assert np.array_equal(motion.frames("train", range(index, index + 1))[0], together[position])


def test_a_split_reads_the_recordings_of_its_indices_in_any_order_and_process() -> None:
    reader = pickle.loads(pickle.dumps(motion.Motion(split="test")))
    for index in (70, 3):
        assert np.array_equal(reader(index), motion.frames("test", range(index, index + 1))[0])


def test_recordings_are_the_same_bytes_on_every_machine() -> None:
    """The digest was computed once; only operations that IEEE 754 rounds correctly are used."""
    assert hashlib.sha256(motion.frames("test", range(16)).tobytes()).hexdigest()[:12] == "56a30e14268b"


def test_the_order_of_the_frames_shows_left_and_right() -> None:
    """Of the two halves, one has moving events: their mean column moves in the direction of the class, by 1 to 2 pixels a frame."""
    indices = range(64)
    events = motion.frames("train", indices, camera=QUIET).astype(np.int64).sum(axis=2)
    for index, sample in zip(indices, events, strict=True):
        sign = 1 if index % 4 >= 2 else -1
        found = []
        for half in (sample[:, :16], sample[:, 16:]):
            angles, counts = centres(half)
            steps = np.angle(np.exp(1j * np.diff(angles))) * motion.SIZE / (2 * np.pi)
            found.append(np.median(steps) if counts.min() > 0 else 0.0)
        fastest = max(found, key=abs)
        assert 0.6 < sign * fastest < 2.4


@pytest.fixture(scope="module")
def totals() -> NDArray[np.float64]:
    """Number of events of 320 recordings in each frame and polarity."""
    found: NDArray[np.float64] = motion.frames("train", range(320)).astype(float).sum(axis=(3, 4))
    return found


def test_classes_have_equal_numbers_of_events_of_both_polarities_in_each_frame(totals: NDArray[np.float64]) -> None:
    """Within four standard errors, for the means of each class over 80 recordings."""
    for frame in range(motion.FRAMES):
        for polarity in range(2):
            values = totals[:, frame, polarity].reshape(80, 4)
            error = (values.var(axis=0) / 80).sum() ** 0.5
            assert np.ptp(values.mean(axis=0)) < 4 * error


def test_bright_and_dark_objects_are_equally_frequent(totals: NDArray[np.float64]) -> None:
    """So the ON and OFF events are, but for the leak."""
    on, off = totals.sum(axis=(0, 1))
    assert on / off == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_a_classifier_of_the_events_summed_over_time_stays_at_chance() -> None:
    """Within three standard errors of 0.25; the same classifier tells left from right by products of consecutive frames."""
    fitted, measured = (motion.frames(name, range(count)).astype(np.float32) for name, count in SAMPLES)
    y, labels = np.arange(len(fitted)) % 4, np.arange(len(measured)) % 4
    error = (0.25 * 0.75 / len(labels)) ** 0.5

    def accuracy(view: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> float:
        forest = ExtraTreesClassifier(50, random_state=0).fit(view(fitted), y)
        return float((forest.predict(view(measured)) == labels).mean())

    assert abs(accuracy(lambda x: x.sum(axis=1).reshape(len(x), -1)) - 0.25) < 3 * error
    assert accuracy(_shifted_products) > 0.25 + 5 * error


def _shifted_products(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum over pixels of a frame times the next one, shifted by -3 to 3 columns, for each half `[samples, 14]`."""
    halves = x.sum(axis=2).reshape(len(x), motion.FRAMES, 2, motion.SIZE // 2, motion.SIZE)
    products = [(halves[:, :-1] * np.roll(halves[:, 1:], -shift, axis=-1)).sum(axis=(1, 3, 4)) for shift in range(-3, 4)]
    return np.concatenate(products, axis=1)


def test_a_network_with_more_time_steps_than_frames_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="8 event frames"):
        load_images(CONFIG, seed=0).check_time_steps(9)


def test_the_command_line_opens_motion_by_name() -> None:
    assert open_images("motion", image_size=32).fingerprint == load_images(CONFIG, seed=0).fingerprint
