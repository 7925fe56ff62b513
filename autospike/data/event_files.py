"""Read the recordings of event cameras from their raw files.

| format    | files    | data sets                             | layout of an event                                        |
|-----------|----------|---------------------------------------|-----------------------------------------------------------|
| AEDAT 2.0 | `.aedat` | CIFAR10-DVS                           | address and time, 32 bits each, big-endian                |
| AEDAT 3.1 | `.aedat` | DVS128 Gesture                        | packets with a header of 28 bytes; 64 bits, little-endian |
| ATIS      | `.bin`   | N-MNIST, N-Caltech101                 | 40 bits, big-endian: x, y, polarity and time              |
| NumPy     | `.npz`   | HAR-DVS, `events_np` of spikingjelly  | arrays `t`, `x`, `y`, `p`                                 |

Events are in the order of the file, and equal to those that the readers of spikingjelly 2.0 return, except for the overflow marks
of ATIS files (see `read_atis`), and for `.npz` files whose times are not sorted or whose polarities are -1 and 1 (see
`read_npz_events`). Times are in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autospike.data.pixels import printable, reason_of
from autospike.errors import UserError

EVENT_EXTENSIONS = (".aedat", ".bin", ".npz")
NPZ_KEYS = ("t", "x", "y", "p")

# DVS128, the sensor of AEDAT 2.0 recordings: 128x128 pixels.
DVS128_LAST = 127

# AEDAT 3.1: the header of a packet, and the type of the events of a sensor.
PACKET = np.dtype(
    [
        ("type", "<u2"),
        ("source", "<u2"),
        ("size", "<u4"),
        ("time_offset", "<u4"),
        ("overflow", "<u4"),
        ("capacity", "<u4"),
        ("number", "<u4"),
        ("valid", "<u4"),
    ]
)
POLARITY_EVENT = 1
END_OF_HEADER = b"#!END-HEADER\r\n"

# ATIS: a row of this number marks an overflow of the clock instead of an event (event-Python of G. Orchard, `read_dataset`).
OVERFLOW_ROW, OVERFLOW_TIME = 240, 2**13


@dataclass(frozen=True, kw_only=True)
class Events:
    """The events of a recording, in the order of the file.

    Attributes:
        t: Times in microseconds, `[events]`.
        x: Columns.
        y: Rows.
        p: Polarities, 0 or 1; the channel of a frame that counts the event.
    """

    t: NDArray[np.int64]
    x: NDArray[np.int32]
    y: NDArray[np.int32]
    p: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.t)

    def between(self, start: int, stop: int) -> Events:
        """Return the events of `start <= t < stop`.

        Args:
            start: First time, in microseconds.
            stop: Time after the last one, in microseconds.
        """
        inside = (self.t >= start) & (self.t < stop)
        return Events(t=self.t[inside], x=self.x[inside], y=self.y[inside], p=self.p[inside])


def read_events(path: Path) -> Events:
    """Read a recording. The format is chosen by the ending of the name, and by the first line of an `.aedat` file.

    Args:
        path: The file.

    Returns:
        Its events.

    Raises:
        UserError: The file cannot be read, has another format, or is cut off.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{printable(path)}: no format of event recordings; use {', '.join(READERS)}")
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read ({error.strerror}); repair or remove it") from None


def read_aedat(path: Path) -> Events:
    """Read an AEDAT file of version 2.0 or 3.1, as its first line says.

    Args:
        path: The file.

    Returns:
        Its events.

    Raises:
        UserError: The file has another version, or is cut off.
    """
    raw = path.read_bytes()
    version = raw[:14]
    if version.startswith(b"#!AER-DAT2.0"):
        return _parse_aedat2(path, raw)
    if version.startswith(b"#!AER-DAT3.1"):
        return _parse_aedat3(path, raw)
    raise UserError(
        f"{printable(path)}: not an AEDAT 2.0 or 3.1 file: it begins with {version!a}, not with '#!AER-DAT2.0' or "
        "'#!AER-DAT3.1'; repair or remove it"
    )


def _parse_aedat2(path: Path, raw: bytes) -> Events:
    """Addresses of the DVS128. Columns and rows are exchanged and flipped, and polarities inverted, as spikingjelly does."""
    start = 0
    while raw.startswith(b"#", start):
        start = raw.find(b"\n", start) + 1
        if not start:
            raise _cut_off(path, "in its header")
    if (len(raw) - start) % 8:
        raise _cut_off(path, f"{len(raw) - start:,} bytes of events, not a multiple of 8")
    words = np.frombuffer(raw, dtype=">u4", offset=start).reshape(-1, 2)
    address = words[:, 0].astype(np.int32)
    return Events(
        t=words[:, 1].astype(np.int64),
        x=DVS128_LAST - ((address & 0x7F00) >> 8),
        y=DVS128_LAST - ((address & 0xFE) >> 1),
        p=1 - (address & 1),
    )


def _parse_aedat3(path: Path, raw: bytes) -> Events:
    start = _end_of_header(path, raw)
    words, overflows, counts = [np.empty((0, 2), dtype="<u4")], [0], [0]
    while start < len(raw):
        if len(raw) - start < PACKET.itemsize:
            raise _cut_off(path, "in the header of a packet")
        packet = np.frombuffer(raw, dtype=PACKET, count=1, offset=start)[0]
        size, capacity = int(packet["size"]), int(packet["capacity"])
        start += PACKET.itemsize
        if len(raw) - start < size * capacity:
            raise _cut_off(path, f"a packet of {size * capacity:,} bytes, but only {len(raw) - start:,} are left")
        if packet["type"] == POLARITY_EVENT:
            if size < 8 or size % 4:
                raise UserError(f"{printable(path)}: events of {size} bytes, not of 8; repair or remove it")
            events = np.frombuffer(raw, dtype="<u4", count=capacity * size // 4, offset=start)
            words.append(events.reshape(capacity, size // 4)[:, :2])
            overflows.append(int(packet["overflow"]))
            counts.append(capacity)
        start += size * capacity
    data, time = (np.concatenate([part[:, column] for part in words]).view(np.int32) for column in (0, 1))
    t = time.view(np.uint32).astype(np.int64)
    if any(overflows):
        t |= np.repeat(np.array(overflows, dtype=np.int64) << 31, counts)
    return Events(
        t=t,
        x=(data >> 17) & 0x7FFF,
        y=(data >> 2) & 0x7FFF,
        p=(data >> 1) & 1,
    )


def _end_of_header(path: Path, raw: bytes) -> int:
    """Position after the header, which ends with `END_OF_HEADER`."""
    end = raw.find(END_OF_HEADER)
    if end < 0:
        raise _cut_off(path, "no end of its header")
    return end + len(END_OF_HEADER)


def read_atis(path: Path) -> Events:
    """Read an ATIS file of N-MNIST or N-Caltech101.

    Entries of row 240 are no events: each says that the clock has overflowed, after which times are 8192 us later.

    Args:
        path: The file.

    Returns:
        Its events.

    Raises:
        UserError: The file is cut off.
    """
    raw = np.fromfile(path, dtype=np.uint8)
    if len(raw) % 5:
        raise _cut_off(path, f"{len(raw):,} bytes, not a multiple of 5")
    x, y, high, middle, low = (raw[byte::5].astype(np.int32) for byte in range(5))
    t = (((high & 0x7F) << 16) | (middle << 8) | low).astype(np.int64)
    marks = y == OVERFLOW_ROW
    if not marks.any():
        return Events(t=t, x=x, y=y, p=high >> 7)
    t, events = t + OVERFLOW_TIME * np.cumsum(marks), ~marks
    return Events(t=t[events], x=x[events], y=y[events], p=high[events] >> 7)


def read_npz_events(path: Path) -> Events:
    """Read arrays `t`, `x`, `y`, `p` of equal length. Pickled objects in the file are never loaded.

    Args:
        path: The file.

    Returns:
        Its events, sorted by time; those of one time stay in their order. Polarities are 0 and 1, or -1 and 1.

    Raises:
        UserError: The file cannot be read, has other arrays, or numbers that are no times, positions or polarities.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive)
            arrays = [archive[key] for key in NPZ_KEYS] if set(NPZ_KEYS) <= set(names) else None
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds of errors for damaged files
        raise UserError(f"{printable(path)}: events cannot be read ({reason_of(error)}); repair or remove it") from None
    if arrays is None:
        raise UserError(
            f"{printable(path)}: no arrays t, x, y, p, only {', '.join(map(printable, names)) or 'nothing'}; "
            "for a folder of event frames leave data.frames out"
        )
    if any(a.ndim != 1 or a.dtype.kind not in "buif" or a.shape != arrays[0].shape for a in arrays):
        shapes = ", ".join(f"{key} {a.dtype}{list(a.shape)}" for key, a in zip(NPZ_KEYS, arrays, strict=True))
        raise UserError(f"{printable(path)}: t, x, y, p must be numbers, one of each for every event, got {shapes}; repair it")
    t, x, y, p = arrays
    for key, values in zip("txy", (t, x, y), strict=True):
        _check_whole(path, key, values, limit=2**62 if key == "t" else 2**31)
    times, polarities = t.astype(np.int64), _polarities(path, p)
    order = np.argsort(times, kind="stable") if (np.diff(times) < 0).any() else slice(None)
    return Events(t=times[order], x=x.astype(np.int32)[order], y=y.astype(np.int32)[order], p=polarities[order])


def _check_whole(path: Path, key: str, values: NDArray[np.generic], *, limit: int) -> None:
    """Check that an array of an `.npz` file has whole numbers within a limit.

    Raises:
        UserError: It has others, such as times in seconds.
    """
    numbers: NDArray[np.float64] = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise UserError(f"{printable(path)}: {key} has numbers that are not finite; repair or remove it")
    unit = "times are whole microseconds" if key == "t" else "positions are whole pixels"
    if (numbers != np.floor(numbers)).any():
        raise UserError(f"{printable(path)}: {key} has fractions, but {unit}; convert it")
    if (np.abs(numbers) >= limit).any():
        raise UserError(f"{printable(path)}: {key} has numbers beyond {limit:,}, but {unit}; repair or remove it")


def _polarities(path: Path, p: NDArray[np.generic]) -> NDArray[np.int32]:
    """The polarities of an `.npz` file as 0 and 1.

    Raises:
        UserError: They are neither 0 and 1 nor -1 and 1.
    """
    found = np.unique(p).tolist()
    if not (set(found) <= {0, 1} or set(found) <= {-1, 1}):
        shown = ", ".join(f"{value:g}" for value in found[:4])
        raise UserError(
            f"{printable(path)}: polarities p of {shown}{', ...' if len(found) > 4 else ''}; write 0 and 1, or -1 and 1"
        )
    positive: NDArray[np.int32] = (p == 1).astype(np.int32)
    return positive


READERS: dict[str, Callable[[Path], Events]] = {".aedat": read_aedat, ".bin": read_atis, ".npz": read_npz_events}


def _cut_off(path: Path, what: str) -> UserError:
    return UserError(f"{printable(path)}: cut off ({what}); copy or extract it again, or remove it")
