"""Readers of event recordings against spikingjelly's, and the input pipeline of each source against a training step."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import Result, interleaved
from numpy.typing import NDArray
from PIL import Image
from spikingjelly.datasets.utils import load_aedat_v3
from steps import training_step

from autospike.config import AugmentationConfig, DataConfig
from autospike.data.batches import TrainingBatches
from autospike.data.event_files import PACKET, read_events
from autospike.data.loading import load_images

EVENTS, PER_PACKET = 300_000, 4096
ROUNDS = 5
BATCH_SIZE, BATCHES, WORKERS = 32, 8, 2


def event_reader() -> list[Result]:
    """Time of spikingjelly's AEDAT 3.1 reader, divided by that of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.aedat"
        path.write_bytes(aedat3(EVENTS, seed=0))
        own, peer = interleaved(lambda: read_events(path), lambda: load_aedat_v3(path), rounds=ROUNDS)
    ratio = median(slow / fast for fast, slow in zip(own, peer, strict=True))
    rate = EVENTS / median(own) / 1e6
    return [
        Result(
            name="event_reader",
            value=ratio,
            unit="times faster",
            peer="spikingjelly's load_aedat_v3",
            goal=">= 20",
            threads=1,
            note=f"AEDAT 3.1, {EVENTS:,} events in packets of {PER_PACKET:,}: {rate:.0f} million events a second",
        )
    ]


def input_pipeline() -> list[Result]:
    """Time that a training step waits for its batch, as a fraction of the step, with two workers."""
    torch.set_num_threads(1)
    step = training_step()
    step()
    started = time.perf_counter()
    for _ in range(3):
        step()
    step_s = (time.perf_counter() - started) / 3
    found = []
    with sources() as configs:
        for name, data in configs.items():
            alone, waited = _samples_per_second(data), _waiting(data, step_s)
            found.append(
                Result(
                    name=f"input_{name}",
                    value=waited / step_s,
                    unit="of a training step spent waiting for its batch",
                    peer="a training step of Spikformer 4-128 at 32x32, T 4",
                    goal="<= 0.1",
                    threads=1,
                    note=f"{alone:.0f} samples/s from this process alone; the step takes {BATCH_SIZE / step_s:.0f} a second; "
                    f"{WORKERS} workers, batch {BATCH_SIZE}",
                )
            )
    return found


@contextmanager
def sources() -> Iterator[dict[str, DataConfig]]:
    """A small data set of each kind, with the augmentation that its experiments use."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        encoded: list[tuple[str, bytes]] = []  # class and content
        for label in "ab":
            for kind in ("images", "aedat"):
                (root / kind / label).mkdir(parents=True)
            for i in range(48):
                path = root / "images" / label / f"{i}.jpg"
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
                encoded.append((label, path.read_bytes()))
                (root / "aedat" / label / f"{i}.aedat").write_bytes(aedat3(50_000, seed=i))
        write_encoded(root, encoded)
        write_dense(root, rng)
        recordings = partial(config, "events", root=root / "aedat", sensor=[128, 128], frames=4)
        yield {
            "images": config("folder", root=root / "images"),
            **{name: config(name, root=root / name) for name in ("metadata", "parquet", "tars", "ade20k", "coco")},
            "recordings": recordings(cache="none"),
            "cached_frames": recordings(cache=root / "cache"),
            **{name: config(name) for name in ("digits", "glyphs", "motion", "scenes", "scene_objects")},
        }


def config(name: str, **settings: Any) -> DataConfig:
    """The configuration of a data set at 32x32 pixels."""
    return DataConfig.model_validate({"name": name, "image_size": 32, **settings})


def write_dense(root: Path, rng: np.random.Generator) -> None:
    """Write images with a mask of two classes in the format of ADE20K, and with the same area as an object in that of COCO."""
    for split, coco_split, count in (("training", "train2017", 96), ("validation", "val2017", 8)):
        places = {kind: root / "ade20k" / kind / split for kind in ("images", "annotations")}
        (coco := root / "coco" / coco_split).mkdir(parents=True)
        images, annotations = [], []
        for place in places.values():
            place.mkdir(parents=True)
        for i in range(count):
            picture, mask = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), np.ones((64, 64), dtype=np.uint8)
            mask[16:48, 16:48] = 2
            for path in (places["images"] / f"{i}.jpg", coco / f"{i}.jpg"):
                picture.save(path)
            Image.fromarray(mask).save(places["annotations"] / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 64})
            annotations.append(
                {
                    "id": i + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [16, 16, 32, 32],
                    "area": 1024,
                    "iscrowd": 0,
                    "segmentation": [[16, 16, 48, 16, 48, 48, 16, 48]],
                }
            )
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        written = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (root / "coco" / "annotations" / f"instances_{coco_split}.json").write_text(json.dumps(written))
    (root / "ade20k" / "classes.txt").write_text("ground\nsquare\n")


def write_encoded(root: Path, encoded: Sequence[tuple[str, bytes]]) -> None:
    """Write images as files with a table, as a parquet file, and as a tar."""
    (root / "metadata").mkdir()
    (root / "parquet").mkdir()
    (root / "tars").mkdir()
    lines = ["file_name,label"]
    with tarfile.open(root / "tars" / "all.tar", "w") as archive:
        for number, (label, content) in enumerate(encoded):
            (root / "metadata" / f"{number}.jpg").write_bytes(content)
            lines.append(f"{number}.jpg,{label}")
            entry = tarfile.TarInfo(f"{label}/{number}.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (root / "metadata" / "metadata.csv").write_text("\n".join(lines) + "\n")
    columns = {"image": [{"bytes": content, "path": None} for _, content in encoded], "label": [label for label, _ in encoded]}
    pq.write_table(pa.table(columns), root / "parquet" / "all-00000-of-00001.parquet")


def training_batches(data: DataConfig, workers: int) -> TrainingBatches:
    """Augmented batches of the training split of a source."""
    images = load_images(data, seed=0)
    split = images.splits["train"]
    return TrainingBatches(
        split=split,
        num_classes=len(images.classes),
        channels=images.channels,
        image_size=data.image_size,
        batch_size=BATCH_SIZE,
        augmentation=AugmentationConfig(flip=0.5) if split.target is not None else AugmentationConfig(min_scale=0.8, flip=0.5),
        smoothing=0.1,
        workers=workers,
        seed=0,
    )


def _samples_per_second(data: DataConfig) -> float:
    """Of one process, in a second pass over the batches."""
    batches = training_batches(data, 0)
    for _ in batches(0, BATCHES):
        pass
    started = time.perf_counter()
    for _ in batches(0, BATCHES):
        pass
    return BATCHES * BATCH_SIZE / (time.perf_counter() - started)


def _waiting(data: DataConfig, step_s: float) -> float:
    """Median time in which a step waits for its batch. The step itself sleeps, as if it ran on another device."""
    waits, loader = [], training_batches(data, WORKERS)(0, BATCHES)
    for _ in range(BATCHES):
        started = time.perf_counter()
        next(loader)
        waits.append(time.perf_counter() - started)
        time.sleep(step_s)
    return median(waits[2:])


def aedat3(count: int, *, seed: int) -> bytes:
    """Random events of a sensor of 128x128 pixels in a file of AEDAT 3.1."""
    rng = np.random.default_rng(seed)
    x, y, p = (rng.integers(0, limit, count, dtype=np.uint32) for limit in (128, 128, 2))
    t = np.sort(rng.integers(0, 5_000_000, count)).astype(np.uint32)
    data: NDArray[np.uint32] = np.stack([(x << 17) | (y << 2) | (p << 1) | 1, t], axis=1)
    parts = [b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"]
    for start in range(0, count, PER_PACKET):
        part = data[start : start + PER_PACKET]
        header = np.array([(1, 1, 8, 4, 0, len(part), len(part), len(part))], dtype=PACKET)
        parts += [header.tobytes(), part.astype("<u4").tobytes()]
    return b"".join(parts)
