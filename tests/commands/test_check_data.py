"""`autospike check-data`: counts, sizes, modes, values, a picture, and every problem with what the experiment does about it."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runner import autospike
from event_recordings import random_events, write_npz
from image_files import png
from PIL import Image
from tiny_experiment import TINY_EXPERIMENT

Capsys = pytest.CaptureFixture[str]


def experiment(folder: Path, **data: object) -> Path:
    path = folder / "experiment.yaml"
    given = {"name": "folder", "root": str(folder / "images"), "image_size": 16, **data}
    path.write_text(yaml.safe_dump({**TINY_EXPERIMENT, "data": given}))
    return path


def images(root: Path, classes: str = "ab", count: int = 30) -> Path:
    """Coloured noise of 16x16 pixels."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name / f"{i:02d}.png")
    return root


def checked(capsys: Capsys, path: Path, *options: object) -> tuple[int, list[str], str]:
    found = autospike(capsys, "check-data", path, "--out", path.parent / "shown.png", *options)
    problems = [line for line in found.out.splitlines() if re.match(r"\d+\. ", line) or line == "no problems found"]
    return found.code, problems, found.out + found.err


def test_data_without_problems(tmp_path: Path, capsys: Capsys) -> None:
    images(tmp_path / "images")
    code, problems, text = checked(capsys, experiment(tmp_path))
    assert (code, problems) == (0, ["no problems found"])
    assert re.search(r"data: 60 images, 2 classes, 3x16x16; 36 train, 12 search, 12 test", text)
    assert re.search(r"a +.? +18 .* 6 .* 6 .* 30", text)
    assert "modes: RGB 60" in text
    assert "values: 0..1, then (value - 0.5) / 0.5" in text
    with Image.open(tmp_path / "shown.png") as picture:
        assert picture.size[0] > 6 * 96  # 36 training samples, six in a row


def test_every_problem_of_images_is_found_with_what_happens(tmp_path: Path, capsys: Capsys) -> None:
    root = images(tmp_path / "images")
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (16, 16, 4), dtype=np.uint8) for _ in range(3)]
    Image.fromarray(noise[0], "CMYK").save(root / "a" / "cmyk.jpg")
    Image.fromarray(noise[1], "RGBA").save(root / "a" / "rgba.png")
    deep = [bytes(row) for row in rng.integers(0, 256, (16, 32), dtype=np.uint8)]
    png(root / "a" / "deep.png", size=(16, 16), depth=16, colour=0, rows=deep)
    Image.fromarray(noise[2][..., :3]).resize((40, 12)).save(root / "b" / "wide.png")
    Image.new("RGB", (16, 16), "red").save(root / "b" / "red.png")
    (root / "b" / "notes.txt").write_text("text")
    for i in range(10):  # copies of the images of a class are in other splits, of 40 images almost surely
        shutil.copy(root / "b" / f"{i:02d}.png", root / "b" / f"copy{i}.png")
    images(tmp_path / "more", "c", 5)
    shutil.move(tmp_path / "more" / "c", root / "c")
    code, problems, text = checked(capsys, experiment(tmp_path))
    assert code == 0, text
    found = [line.partition(". ")[2] for line in problems]
    expected = [
        r"1 classes with fewer than 10 samples for training \(c\): they are trained as they are",
        r"\d+ samples for search or test with equal content in another split \([abc]/.*: the measured accuracy is too high",
        r"1 images in mode CMYK \(a/cmyk\.jpg\): converted to RGB",
        r"1 images in mode RGBA \(a/rgba\.png\): composited on \(255, 255, 255\)",
        r"1 images in mode I;16 \(a/deep\.png\): 16 bits: divided by",
        r"1 grey images among coloured ones \(a/deep\.png\): read with three equal channels",
        r"2 different sizes of images: the shorter side is resized to 16",
        r"1 images with a side below 16 pixels \(b/wide\.png\): enlarged",
        r"1 images more than twice as long as wide \(b/wide\.png\): half or less",
        r"1 images of a single colour \(b/red\.png\): read as they are",
        r"1 files or folders that no reader takes: \.txt \(b/notes\.txt\): left out",
    ]
    assert len(found) == len(expected), found
    for pattern, line in zip(expected, found, strict=True):
        assert re.match(pattern, line), (pattern, line)


def test_files_that_cannot_be_read_are_listed_and_end_the_command(tmp_path: Path, capsys: Capsys) -> None:
    root = images(tmp_path / "images")
    for name in ("a/03.png", "b/07.png"):
        (root / name).write_bytes((root / name).read_bytes()[:200])
    code, problems, text = checked(capsys, experiment(tmp_path))
    assert code == 2
    assert "2 cannot be read" in problems[0]
    assert "the command that reads it stops" in problems[0]
    assert text.splitlines()[-1].startswith("error: 2 of 60 samples cannot be read, the first one: ")
    assert (tmp_path / "shown.png").exists()


def test_recordings_are_checked(tmp_path: Path, capsys: Capsys) -> None:
    for label, name in enumerate(("clap", "wave")):
        for i in range(20):
            write_npz(tmp_path / "images" / name / f"{i}.npz", random_events(80, seed=20 * label + i, size=(16, 24)))
    np.savez(tmp_path / "images" / "clap" / "3.npz", t=[], x=[], y=[], p=[])
    path = experiment(tmp_path, name="events", frames=4, sensor=[16, 24], cache="none")
    code, problems, text = checked(capsys, path)
    assert code == 2
    assert problems[0].startswith("1. 1 cannot be read (clap/3.npz): it has no events")
    assert "modes: frames 39" in text
    assert "values: event counts, unchanged" in text


def test_invalid_data_are_one_line(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "images").mkdir()
    code, problems, text = checked(capsys, experiment(tmp_path))
    assert (code, problems) == (2, [])
    assert "no class folders" in text
    assert not (tmp_path / "shown.png").exists()


def test_a_damaged_tiff_is_one_line_without_warnings_of_the_decoder(tmp_path: Path, capsys: Capsys) -> None:
    images(tmp_path / "images")
    path = tmp_path / "images" / "a" / "00.tiff"
    Image.new("RGB", (16, 16), "red").save(path)
    content = bytearray(path.read_bytes())
    directory = int.from_bytes(content[4:8], "little")
    first_tag, count = directory + 2, directory + 6
    assert int.from_bytes(content[first_tag : first_tag + 2], "little") == 256  # ImageWidth
    content[count : count + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = autospike(capsys, "check-data", experiment(tmp_path), "--out", tmp_path / "shown.png")
    assert (found.code, len(found.err.splitlines()), [str(warning.message) for warning in seen]) == (2, 1, [])
    assert found.err.startswith("error: 1 of 61 samples cannot be read, the first one: ")
