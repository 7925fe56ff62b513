"""Image folders and event frames as a command opens them: channels, backgrounds, unreadable files, fingerprints."""

from __future__ import annotations

import multiprocessing
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import png
from PIL import Image

from autospike.config import AugmentationConfig, DataConfig
from autospike.data import image_sources
from autospike.data.batches import FixedBatches, TrainingBatches
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.data.pixels import has_grey_mode, is_grey
from autospike.data.source import open_images
from autospike.errors import UserError


def folder(root: Path, *, colours: bool = False, count: int = 10, mode: str = "RGB") -> Path:
    """Images of two classes, each of one level of brightness; one of them is red if `colours`."""
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (20 * i + label,) * 3).convert("L").convert(mode).save(root / name / f"{i}.png")
    if colours:
        Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "dog" / "3.png")
    return root


def opened(root: Path, **settings: Any) -> Images:
    return load_images(DataConfig(name="folder", root=root, image_size=8, **settings), seed=0)


def training(images: Images, **settings: Any) -> TrainingBatches:
    return TrainingBatches(
        **{
            "split": images.splits["train"],
            "num_classes": 2,
            "channels": images.channels,
            "image_size": 8,
            "batch_size": 4,
            "augmentation": AugmentationConfig(),
            "smoothing": 0.0,
            "workers": 0,
            "seed": 0,
            **settings,
        }
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "P", "RGBA"])
def test_a_folder_without_colours_has_one_channel(tmp_path: Path, mode: str) -> None:
    images = opened(folder(tmp_path, mode=mode))
    assert images.channels == 1
    assert {image.mode for split in images.splits.values() for image in map(split.image, range(len(split)))} == {"L"}
    assert next(iter(training(images)(0, 1))).images.shape == (4, 1, 8, 8)
    (batch,) = FixedBatches(split=images.splits["test"], channels=1, image_size=8)(100)
    assert batch.images.shape == (4, 1, 8, 8)


@pytest.mark.parametrize("count", [4, 400])
def test_one_coloured_image_makes_three_channels(tmp_path: Path, count: int) -> None:
    assert opened(folder(tmp_path / "grey", count=count)).channels == 1
    images = opened(folder(tmp_path / "coloured", count=count, colours=True))
    assert images.channels == 3
    assert images.splits["train"].image(0).mode == "RGB"


def test_an_image_that_is_replaced_by_a_coloured_one_counts_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert [opened(root).channels, opened(root).channels] == [1, 1]
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "dog" / "3.png")
    assert opened(root).channels == 3


def test_colours_are_looked_for_once_in_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = folder(tmp_path, mode="L"), []

    def counted(function: Callable[..., bool]) -> Callable[..., bool]:
        def counting(source: str, **settings: Any) -> bool:
            read.append(source)
            return function(source, **settings)

        return counting

    for function in (is_grey, has_grey_mode):
        monkeypatch.setattr(image_sources, function.__name__, counted(function))
    opened(root)
    opened(root)
    assert len(read) == len(set(read)) == 20


def test_a_coloured_test_image_counts(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "test", colours=True)
    assert opened(tmp_path).channels == 3


def test_the_number_of_channels_can_be_chosen(tmp_path: Path) -> None:
    grey, coloured = folder(tmp_path / "grey"), folder(tmp_path / "coloured", colours=True)
    assert opened(grey, channels=3).channels == 3
    images = opened(coloured, channels=1)
    levels = {int(np.asarray(split.image(i))[0, 0]) for split in images.splits.values() for i in range(len(split))}
    assert images.channels == 1
    assert 76 in levels  # luma of red: 0.299 * 255
    with pytest.raises(UserError, match=r"^data\.channels: 2 for still images; choose auto, 1 \(grey\) or 3 \(RGB\)$"):
        opened(grey, channels=2)
    with pytest.raises(ValueError, match="channels"):
        DataConfig(name="digits", image_size=8, channels=0)
    assert load_images(DataConfig(name="digits", image_size=8), seed=0).channels == 1
    assert load_images(DataConfig(name="digits", image_size=8, channels=3), seed=0).channels == 3


def test_a_network_of_one_channel_sees_the_luma_of_coloured_images(tmp_path: Path) -> None:
    images = opened(folder(tmp_path, colours=True), channels=3)
    (one,) = FixedBatches(split=images.splits["train"], channels=1, image_size=8)(100)
    (three,) = FixedBatches(split=images.splits["train"], channels=3, image_size=8)(100)
    red, green, blue = ((three.images + 1) * 127.5).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    torch.testing.assert_close((one.images[:, 0] + 1) * 127.5, luma, rtol=0, atol=0.51)


def test_the_fingerprint_follows_channels_and_background(tmp_path: Path) -> None:
    """With three channels and a white background, it is that of versions without these fields."""
    root = folder(tmp_path)
    three = opened(root, channels=3)
    found = {three.fingerprint, opened(root).fingerprint, opened(root, channels=3, background=(0, 0, 0)).fingerprint}
    assert len(found) == 3
    assert three.protocol == {}
    assert opened(root).fingerprint == opened(root, channels=1).fingerprint


def test_the_background_is_a_setting(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            png(tmp_path / name / f"{i}.png", size=(2, 1), depth=8, colour=0, rows=[bytes((0, 9))], trns=struct.pack(">H", 9))
    assert np.asarray(opened(tmp_path).splits["train"].image(0)).tolist() == [[0, 255]]
    assert np.asarray(opened(tmp_path, background=(7, 7, 7)).splits["train"].image(0)).tolist() == [[0, 7]]
    red = opened(tmp_path, background=(200, 0, 0))
    assert red.channels == 3
    assert np.asarray(red.splits["train"].image(0)).tolist() == [[[0, 0, 0], [200, 0, 0]]]
    for wrong in ((1, 2), (1, 2, 256), (-1, 0, 0), "white"):
        with pytest.raises(ValueError, match="background"):
            DataConfig(name="folder", root=tmp_path, image_size=8, background=wrong)


BAD = {
    "empty": b"",
    "no image": b"text",
    "cut short": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\0\0\0\0",
    "bad header": b"P6 x y z\n",
    "bad struct": b"II*\0\xff\xff\xff\xff",
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_image_is_one_line_from_any_worker(tmp_path: Path, name: str, workers: int) -> None:
    images = opened(folder(tmp_path, colours=True))
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(BAD[name])
    with pytest.raises(UserError, match=r"^\S+/(cat|dog)/\d\.png: not a readable image \(.*\); repair or remove it$") as error:
        next(iter(training(images, workers=workers)(0, 1)))
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()  # before any garbage collection


def test_an_unreadable_image_is_named_when_colours_are_looked_for(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "cat" / "4.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat/4\.png: not a readable image"):
        opened(root)


def frames(root: Path, shape: tuple[int, ...]) -> Path:
    for name in ("clap", "wave"):
        (root / name).mkdir(parents=True)
        for i in range(10):
            np.savez(root / name / f"{i}.npz", frames=np.ones(shape, np.uint8))
    return root


def events(root: Path, **settings: Any) -> Images:
    return load_images(DataConfig(name="events", root=root, image_size=8, **settings), seed=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_event_frames_have_up_to_four_channels(tmp_path: Path, channels: int) -> None:
    root = frames(tmp_path, (3, channels, 8, 8))
    assert events(root).channels == events(root, channels=channels).channels == channels


def test_more_channels_must_be_confirmed(tmp_path: Path) -> None:
    last, many = frames(tmp_path / "last", (3, 16, 16, 2)), frames(tmp_path / "many", (3, 16, 8, 8))
    for root, message in ((last, r"\[T, H, W, C\], write frames.transpose\(0, 3, 1, 2\)"), (many, "more than 4; if this is right")):
        with pytest.raises(UserError, match=message) as error:
            events(root)
        assert "has 16 channels" in str(error.value)
        assert "data.channels to 16" in str(error.value)
        assert "\n" not in str(error.value)
        assert events(root, channels=16).channels == 16
    with pytest.raises(UserError, match=r"has 16 channels .*, but data\.channels is 2; set it to auto or 16"):
        events(many, channels=2)


def test_the_kind_of_a_folder_is_that_of_its_first_file(tmp_path: Path) -> None:
    assert (
        open_images(
            str(frames(tmp_path / "data" / "Training", (3, 2, 8, 8)).parent.parent / "data" / "Training"), image_size=8
        ).time_steps
        == 3
    )
    frames(tmp_path / "splits" / "Training", (3, 2, 8, 8))
    frames(tmp_path / "splits" / "Testing", (3, 2, 8, 8))
    assert open_images(str(tmp_path / "splits"), image_size=8).time_steps == 3
    assert open_images(str(folder(tmp_path / "wrapped" / "images").parent), image_size=8).time_steps is None
