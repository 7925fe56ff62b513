"""A command says once what its data are; the run folder has their list and a picture of a batch."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_experiment import TINY_EXPERIMENT

from autospike.config import AugmentationConfig, DataConfig, Experiment
from autospike.data import overview
from autospike.data.batches import Batch, TrainingBatches
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.data.picture import GAP, LABEL, TILE, draw_batch, label_of, visible_pixels
from autospike.run_directory import RunDirectory
from autospike.training.setup import open_run, training_batches

Capsys = pytest.CaptureFixture[str]


def folder(root: Path) -> Path:
    """Ten images of each of two classes; no two are equal."""
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (8, 8), 10 * i + label).save(root / name / f"{i}.png")
    return root


def opened(root: Path) -> Images:
    return load_images(DataConfig(name="folder", root=root, image_size=8), seed=0)


def batches(images: Images) -> TrainingBatches:
    return TrainingBatches(
        split=images.splits["train"],
        num_classes=len(images.classes),
        channels=images.channels,
        image_size=8,
        batch_size=8,
        augmentation=AugmentationConfig(),
        smoothing=0.1,
        workers=0,
        seed=0,
    )


def recorded(images: Images, run: Path, capsys: Capsys) -> list[str]:
    overview.record(images, batches(images), run)
    return capsys.readouterr().out.splitlines()


def test_the_summary_is_one_line(tmp_path: Path, capsys: Capsys) -> None:
    images = opened(folder(tmp_path / "images"))
    line = "data: 20 images, 2 classes, 1x8x8; 12 train, 4 search, 4 test"
    assert overview.summary(images, 8) == line
    overview.show(images, 8)
    assert capsys.readouterr().out.splitlines() == [line]
    digits = load_images(DataConfig(name="digits", image_size=8), seed=0)
    assert overview.summary(digits, 8) == "data: 1,797 images, 10 classes, 1x8x8; 1,077 train, 360 search, 360 test"


@pytest.mark.parametrize("damage", [b"\x82", b"\0", b'"', b""])
def test_a_damaged_list_is_written_again(tmp_path: Path, capsys: Capsys, damage: bytes) -> None:
    images = opened(folder(tmp_path / "images"))
    recorded(images, tmp_path / "data", capsys)
    listed = tmp_path / "data" / "files.csv"
    content = listed.read_bytes()
    listed.write_bytes(content[:100] + damage)
    recorded(images, tmp_path / "data", capsys)
    assert listed.read_bytes() == content


def test_the_list_has_each_file_with_its_digest(tmp_path: Path, capsys: Capsys) -> None:
    root = folder(tmp_path / "images")
    images = opened(root)
    assert len(recorded(images, tmp_path / "data", capsys)) == 1
    with (tmp_path / "data" / "files.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {f"{name}/{i}.png" for name in ("cat", "dog") for i in range(10)}
    assert [sum(row["split"] == name for row in rows) for name in ("train", "search", "test")] == [12, 4, 4]
    for row in rows:
        content = (root / row["path"]).read_bytes()
        assert row["class"] == row["path"].split("/")[0]
        assert (row["bytes"], row["sha256"]) == (str(len(content)), hashlib.sha256(content).hexdigest())


def test_files_that_are_up_to_date_are_not_written_again(tmp_path: Path, capsys: Capsys) -> None:
    images, data = opened(folder(tmp_path / "images")), tmp_path / "data"
    recorded(images, data, capsys)
    before = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    recorded(images, data, capsys)
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before
    Image.new("L", (9, 9), 200).save(tmp_path / "images" / "cat" / "new.png")
    recorded(opened(tmp_path / "images"), data, capsys)
    assert "cat/new.png" in (data / "files.csv").read_text()
    assert (data / "batch.json").stat().st_mtime_ns != before[data / "batch.json"]


def test_copies_across_splits_and_what_is_left_out_are_reported(tmp_path: Path, capsys: Capsys) -> None:
    root = folder(tmp_path / "images")
    before = opened(root)
    train, test = (before.splits[name].indices for name in ("train", "test"))
    shutil.copyfile(root / before.files[train[0]], root / before.files[test[0]])
    (root / "cat" / "notes.txt").write_text("")
    for attempt in range(2):  # computed, then read from files.csv
        lines = recorded(opened(root), tmp_path / "data", capsys)
        assert len(lines) == 3, attempt
        assert lines[1] == "data: left out 1 .txt (cat/notes.txt)"
        assert lines[2].startswith("data: exact copies across splits: 1 of the search and test images, for example ")
        assert before.files[train[0]] in lines[2]
        assert before.files[test[0]] in lines[2]
    overview.show(opened(root), 8)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_picture_shows_the_pixels_of_the_batch(tmp_path: Path, capsys: Capsys) -> None:
    images = opened(folder(tmp_path / "images"))
    recorded(images, tmp_path / "data", capsys)
    with Image.open(tmp_path / "data" / "batch.png") as opened_picture:
        picture = np.asarray(opened_picture.convert("L"))
    first = batches(images)
    for place, (position, _) in enumerate(first.sample_keys(0)):
        row, column = divmod(place, 3)  # eight images in three columns
        x, y = GAP + column * (TILE + GAP), GAP + row * (TILE + LABEL + GAP)
        assert set(picture[y : y + TILE, x : x + TILE].ravel()) == {np.asarray(images.splits["train"].image(position))[0, 0]}


def test_pixels_of_each_number_of_channels() -> None:
    still = torch.tensor([-1.0, 0.0, 1.0])
    assert visible_pixels(still[None, :, None, None])[0, 0, 0].tolist() == [0, 128, 255]
    assert visible_pixels(still[:1, None, None, None] + 1)[0, 0, 0].tolist() == [128] * 3
    frames = torch.tensor([[3.0, 1.0], [1.0, 0.0]])[:, None, :, None, None]  # sums over time: 4 and 1
    assert visible_pixels(frames)[0, 0, 0].tolist() == [255, 0, 64]


def test_labels_name_the_mixed_classes() -> None:
    classes = ("cat", "dog", "eel", "a very long name of a class")
    assert label_of(torch.tensor([0.925, 0.025, 0.025, 0.025]), classes, smoothing=0.1) == "cat"
    assert label_of(torch.tensor([0.3, 0.7, 0.0, 0.0]), classes, smoothing=0.0) == "dog .7 cat .3"
    assert label_of(torch.tensor([0.0, 0.0, 0.0, 1.0]), classes, smoothing=0.0) == "a very long name"
    assert label_of(torch.tensor([1.0]), ("one",), smoothing=0.0) == "one"


def test_any_name_of_a_class_can_be_drawn() -> None:
    names = ("\u732b", "\udcff", "a\nb", "")
    drawn = draw_batch(Batch(images=torch.zeros(4, 1, 2, 2), targets=torch.eye(4)), names, smoothing=0.0)
    assert drawn.size == (2 * (TILE + GAP) + GAP, 2 * (TILE + LABEL + GAP) + GAP)


def test_recording_data_draws_no_random_number(tmp_path: Path, capsys: Capsys) -> None:
    experiment = Experiment.model_validate(
        {**TINY_EXPERIMENT, "data": {"name": "folder", "root": folder(tmp_path / "i"), "image_size": 8}}
    )
    run = RunDirectory(folder=tmp_path / "run", experiment=experiment)
    state = torch.get_rng_state()
    setup = open_run(run)
    overview.record(setup.images, training_batches(setup), run.folder / "data")
    assert torch.equal(torch.get_rng_state(), state)
    assert setup.images.channels == 1
    assert capsys.readouterr().out.count("data: 20 images, 2 classes, 1x8x8; 12 train, 4 search, 4 test") == 1
    assert {path.name for path in (tmp_path / "run" / "data").iterdir()} == {"files.csv", "batch.png", "batch.json"}
