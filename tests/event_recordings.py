"""Recordings of event cameras, written byte by byte in the formats of the published data sets."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""t, x, y, p of events."""

GESTURE_HEADING = "class,startTime_usec,endTime_usec"


def random_events(count: int, *, seed: int = 0, size: tuple[int, int] = (128, 128), duration: int = 1_000_000) -> Columns:
    """Events in the order of their times, on a sensor of (rows, columns)."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, duration, count))
    return t, rng.integers(0, size[1], count), rng.integers(0, size[0], count), rng.integers(0, 2, count)


def write_aedat2(path: Path, events: Columns) -> Path:
    """AEDAT 2.0 of a DVS128: big-endian pairs of address and time after lines that begin with #."""
    t, x, y, p = events
    address = (y << 8) | (x << 1) | p
    header = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Creation time: System.currentTimeMillis()\r\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + np.stack([address, t], axis=1).astype(">u4").tobytes())
    return path


def write_aedat3(path: Path, events: Columns, *, per_packet: int = 64, overflow: int = 0) -> Path:
    """AEDAT 3.1: packets of polarity events, and packets of special events between them."""
    t, x, y, p = events
    out = [b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-07-27 10:00:00 (TZ+0200)\r\n#!END-HEADER\r\n"]
    for start in range(0, len(t), per_packet):
        part = slice(start, start + per_packet)
        data = np.stack([(x[part] << 17) | (y[part] << 2) | (p[part] << 1) | 1, t[part]], axis=1).astype("<u4")
        out += [struct.pack("<HHIIIIII", 1, 1, 8, 4, overflow, len(data), len(data), len(data)), data.tobytes()]
        out += [struct.pack("<HHIIIIII", 0, 1, 8, 4, overflow, 1, 1, 1), bytes(8)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(out))
    return path


def write_atis(path: Path, events: Columns) -> Path:
    """ATIS: 40 bits an event."""
    t, x, y, p = events
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.stack([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255], axis=1).astype(np.uint8).tobytes())
    return path


def write_npz(path: Path, events: Columns) -> Path:
    """Arrays t, x, y, p as spikingjelly writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t, x, y, p = events
    np.savez(path, t=t, x=x, y=y, p=p)
    return path


def gesture_tree(root: Path, *, users: tuple[int, int] = (3, 1), events: int = 600, classes: int = 11) -> Path:
    """DVS128 Gesture: recordings of users for training and testing, each with all gestures; the last gesture comes twice."""
    base = root / "DvsGesture"
    names = [f"user{number + 1:02d}_{light}" for number in range(sum(users)) for light in ("lab", "led")]
    for seed, name in enumerate(names):
        write_aedat3(base / f"{name}.aedat", random_events(events, seed=seed, duration=1_200_000))
        rows = [f"{min(i + 1, classes)},{i * 100_000},{(i + 1) * 100_000}" for i in range(classes + 1)]
        (base / f"{name}_labels.csv").write_text("\n".join([GESTURE_HEADING, *rows, ""]))
    train = 2 * users[0]
    (base / "trials_to_train.txt").write_text("\n".join([f"{name}.aedat" for name in names[:train]] + [""]))
    (base / "trials_to_test.txt").write_text("\n".join(f"{name}.aedat" for name in names[train:]))
    return root


def har_lists(root: Path, *, classes: int = 2, counts: tuple[int, int, int] = (4, 2, 2)) -> dict[str, list[str]]:
    """The three lists of HAR-DVS; returns the names in each."""
    found: dict[str, list[str]] = {}
    for part, (list_name, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        names = [(c, f"action_{c + 1:03d}/dvSave-2021_10_15_19_{part:02d}_{i:02d}") for c in range(classes) for i in range(count)]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{list_name}_label.txt").write_text("".join(f"{name} 36 {c}\n" for c, name in names))
        found[list_name] = [name for _, name in names]
    return found
