"""Small sets of images in tables and archives, in the formats of Hugging Face, ImageNet and WebDataset, for tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

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
