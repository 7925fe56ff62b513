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
from PIL import Image

from autospike.config import DataConfig
from autospike.data.images import Images
from autospike.data.loading import load_images

CLASSES = ("cat", "dog")
PER_CLASS = {"train": 10, "test": 4}
Files = dict[str, list[tuple[int, bytes]]]


def encoded(value: int, colour: bool = False) -> bytes:
    """A PNG of 4x4 pixels of one brightness, or of that much red."""
    buffer = io.BytesIO()
    Image.new("RGB" if colour else "L", (4, 4), (value, 0, 0) if colour else value).save(buffer, "PNG")
    return buffer.getvalue()


def files(colour: bool = False) -> Files:
    """The class and the content of each image of the splits. No two are equal."""
    found: Files = {}
    values = iter(range(1, 200))
    for split, count in PER_CLASS.items():
        found[split] = [(label, encoded(next(values), colour)) for _ in range(count) for label in range(len(CLASSES))]
    return found


def write_metadata(root: Path, given: Files, suffix: str) -> None:
    for split, images in given.items():
        (root / split / "pictures").mkdir(parents=True)
        names = [f"pictures/{number}.png" for number in range(len(images))]
        for name, (_, content) in zip(names, images, strict=True):
            (root / split / name).write_bytes(content)
        table = pd.DataFrame({"file_name": names, "label": [CLASSES[label] for label, _ in images]})
        path = root / split / f"metadata{suffix}"
        if suffix == ".csv":
            table.to_csv(path, index=False)
        elif suffix == ".jsonl":
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_parquet(path)


def write_parquet(root: Path, given: Files) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (root / "data").mkdir(parents=True)
    for split, images in given.items():
        half = len(images) // 2
        for shard, rows in enumerate((images[:half], images[half:])):
            columns = {"image": [{"bytes": content, "path": None} for _, content in rows], "label": [label for label, _ in rows]}
            pq.write_table(
                pa.table(columns).replace_schema_metadata(metadata), root / "data" / f"{split}-{shard:05d}-of-00002.parquet"
            )


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write_imagenet(root: Path, given: Files) -> None:
    for split, images in given.items():
        (root / split).mkdir(parents=True)
        for number, name in enumerate(CLASSES):
            with tarfile.open(root / split / f"{name}.tar", "w") as archive:
                for i, (label, content) in enumerate(images):
                    if label == number:
                        add(archive, f"{name}_{i}.png", content)


def write_folders_in_tars(root: Path, given: Files) -> None:
    root.mkdir()
    for split, images in given.items():
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            for i, (label, content) in enumerate(images):
                add(archive, f"./{CLASSES[label]}/{i}.png", content)


def write_webdataset(root: Path, given: Files) -> None:
    root.mkdir()
    for split, images in given.items():
        for shard in range(2):
            with tarfile.open(root / f"{split}-{shard:04d}.tar", "w") as archive:
                for i, (label, content) in enumerate(images[shard::2]):
                    add(archive, f"{i:06d}.png", content)
                    add(archive, f"{i:06d}.cls", str(label).encode())


LAYOUTS: dict[str, tuple[str, Any]] = {
    "csv": ("metadata", lambda root, given: write_metadata(root, given, ".csv")),
    "jsonl": ("metadata", lambda root, given: write_metadata(root, given, ".jsonl")),
    "table in parquet": ("metadata", lambda root, given: write_metadata(root, given, ".parquet")),
    "parquet": ("parquet", write_parquet),
    "ImageNet": ("tars", write_imagenet),
    "folders in tars": ("tars", write_folders_in_tars),
    "WebDataset": ("tars", write_webdataset),
}


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
