"""Images in tables and archives, written here in the formats of Hugging Face, ImageNet and WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import one_line_error
from encoded_trees import CLASSES, LAYOUTS, add, encoded, files, write_folders_in_tars, write_metadata, write_webdataset
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


def write_table(root: Path, rows: list[str], count: int = 12) -> None:
    for i in range(count):
        (root / f"{i}.png").write_bytes(encoded(i))
    (root / "metadata.csv").write_text("\n".join(["file_name,label", *rows]) + "\n")


ROWS = [f"{i}.png,{CLASSES[i % 2]}" for i in range(12)]


def test_equal_rows_and_spaces_around_labels(tmp_path: Path) -> None:
    """Twelve files, of which four are in the search and in the test split each."""
    write_table(tmp_path, [*ROWS[:10], "10.png, cat ", "11.png, dog", "3.png,dog"])
    images = opened(tmp_path, "metadata")
    assert images.classes == CLASSES
    assert sorted(images.files) == sorted(f"{i}.png" for i in range(12))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("3.png,cat", "3.png has the classes dog and cat; keep one row"),
        ("/etc/passwd,cat", "/etc/passwd is outside of the folder"),
        ("a/../../b.png,cat", "a/../../b.png is outside of the folder"),
    ],
)
def test_rows_of_a_table_without_a_meaning(tmp_path: Path, row: str, text: str) -> None:
    write_table(tmp_path, [*ROWS, row])
    assert text in one_line_error(lambda: opened(tmp_path, "metadata"))


def test_a_class_as_text_and_as_number(tmp_path: Path) -> None:
    write_table(tmp_path, [])
    (tmp_path / "metadata.csv").unlink()
    rows = [{"file_name": f"{i}.png", "label": i % 2 if i < 6 else str(i % 2)} for i in range(12)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "has the class 0 as text and as a number" in one_line_error(lambda: opened(tmp_path, "metadata"))


@pytest.mark.parametrize(
    ("removed", "added", "text"),
    [
        ("3.cls", {}, "3.png has no file 3.cls with its class"),
        (".cls", {f"{i}.json": b"{}" for i in range(8)}, "0.png has no file 0.cls with its class; other files of labels"),
        (".png", {}, "no image (.jpg"),
    ],
)
def test_archives_without_the_class_of_an_image(tmp_path: Path, removed: str, added: dict[str, bytes], text: str) -> None:
    """Not the names of the shards."""
    for shard in range(2):
        entries = {f"{i}{end}": content for i in range(8) for end, content in ((".png", encoded(i)), (".cls", b"1"))}
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as archive:
            for name, content in (entries | added).items():
                if not name.endswith(removed):
                    add(archive, name, content)
    assert text in one_line_error(lambda: opened(tmp_path, "tars"))


@pytest.mark.parametrize("second", ["test.parquet", "train-1.parquet"])
def test_files_with_other_names_of_classes(tmp_path: Path, second: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, classes in (("train-0.parquet", CLASSES), (second, CLASSES[::-1])):
        table = pa.table({"image": [{"bytes": encoded(i), "path": None} for i in range(8)], "label": [i % 2 for i in range(8)]})
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": classes}}}})}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / name)
    assert "other names of classes" in one_line_error(lambda: opened(tmp_path, "parquet"))
