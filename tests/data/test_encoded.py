"""Images in tables and archives, written here in the formats of Hugging Face, ImageNet and WebDataset."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import one_line_error
from encoded_trees import CLASSES, LAYOUTS, files, write_folders_in_tars, write_metadata, write_webdataset
from PIL import Image

from autospike.config import DataConfig
from autospike.data.images import Images
from autospike.data.loading import load_images


def opened(root: Path, name: str, **changes: Any) -> Images:
    return load_images(DataConfig.model_validate({"name": name, "root": root, "image_size": 4, **changes}), seed=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colour", [False, True])
def test_every_image_is_read_with_its_class(tmp_path: Path, layout: str, colour: bool) -> None:
    if "parquet" in layout:
        pytest.importorskip("pyarrow")
    name, write = LAYOUTS[layout]
    given = files(colour)
    write(tmp_path / "data", given)
    images = opened(tmp_path / "data", name)
    assert images.channels == (3 if colour else 1)
    assert images.classes == (("0", "1") if layout == "WebDataset" else CLASSES)
    parts = {"train": ("train", "search"), "test": ("test",)}
    for part, splits in parts.items():
        found = {
            (label, np.asarray(images.splits[split].image(position)).ravel()[0].item())  # type: ignore[index]
            for split in splits
            for position, label in enumerate(images.splits[split].labels)  # type: ignore[index]
        }
        assert found == {(label, np.asarray(Image.open(io.BytesIO(content))).ravel()[0].item()) for label, content in given[part]}


def test_splits_are_sampled_without_folders_of_splits(tmp_path: Path) -> None:
    write_folders_in_tars(tmp_path / "data", {"images": files()["train"]})
    images = opened(tmp_path / "data", "tars")
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 12, "search": 4, "test": 4}
    digests = [split.contents.digest(index) for split in images.splits.values() if split.contents for index in split.indices]
    assert len(set(digests)) == 20


def test_the_fingerprint_depends_on_the_names(tmp_path: Path) -> None:
    write_webdataset(tmp_path / "a", files())
    write_webdataset(tmp_path / "b", {split: images[:-2] for split, images in files().items()})
    assert opened(tmp_path / "a", "tars").fingerprint != opened(tmp_path / "b", "tars").fingerprint


def test_another_column_of_labels(tmp_path: Path) -> None:
    write_metadata(tmp_path, files(), ".csv")
    for path in tmp_path.rglob("metadata.csv"):
        pd.read_csv(path).rename(columns={"label": "species"}).to_csv(path, index=False)
    message = one_line_error(lambda: opened(tmp_path, "metadata"))
    assert "no column of labels; set data.label_column to one of file_name, species" in message
    assert opened(tmp_path, "metadata", label_column="species").classes == CLASSES


def break_table(root: Path) -> None:
    (root / "train" / "metadata.csv").write_text("file_name,label\n../../secret.png,cat\nb.png,dog\n")


def break_class(root: Path) -> None:
    table = pd.read_csv(root / "test" / "metadata.csv")
    table.assign(label="cow").to_csv(root / "test" / "metadata.csv", index=False)


def break_labels(root: Path) -> None:
    table = pd.read_csv(root / "train" / "metadata.csv")
    table.assign(label=0.5).to_csv(root / "train" / "metadata.csv", index=False)


def break_file(root: Path) -> None:
    (root / "train" / "pictures" / "3.png").unlink()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (break_table, "is outside of the folder"),
        (break_class, "the class cow is not one of the 2 for training"),
        (break_labels, "values that are no class"),
        (break_file, "3.png: cannot be read (No such file or directory); repair the table or the file"),
        (
            lambda root: (root / "train" / "metadata.csv").unlink(),
            "files for testing, but none whose folder or name begins with train",
        ),
        (lambda root: [path.unlink() for path in root.rglob("metadata.csv")], "has no metadata.csv or metadata.jsonl"),
    ],
)
def test_a_wrong_table_is_a_one_line_error(tmp_path: Path, change: Any, text: str) -> None:
    write_metadata(tmp_path, files(), ".csv")
    change(tmp_path)
    assert text in one_line_error(lambda: opened(tmp_path, "metadata"))


@pytest.mark.parametrize(("name", "file"), [("tars", "train.tar"), ("parquet", "train.parquet")])
def test_a_damaged_file_is_a_one_line_error(tmp_path: Path, name: str, file: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / file).write_bytes(b"\x1f\x8b" + bytes(2000))
    assert f"{file}: not a" in one_line_error(lambda: opened(tmp_path, name))


def test_a_damaged_image_names_its_archive(tmp_path: Path) -> None:
    given = files()
    given["train"][5] = (1, b"no image")
    write_folders_in_tars(tmp_path / "data", given)
    message = one_line_error(lambda: opened(tmp_path / "data", "tars"))
    assert "train.tar/dog/5.png: not a readable image" in message
