"""Readers of event recordings: equal to spikingjelly's, event for event; damaged files are one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_recordings import Columns, random_events, write_aedat2, write_aedat3, write_atis, write_npz
from spikingjelly.datasets import utils as peer
from spikingjelly.datasets.cifar10_dvs import _load_origin_data

from autospike.data.event_files import Events, read_events
from autospike.data.integration import integrate
from autospike.errors import UserError

WRITERS: dict[str, tuple[str, Callable[[Path, Columns], Path], Callable[[Path], Any]]] = {
    "AEDAT 2.0": ("a.aedat", write_aedat2, _load_origin_data),
    "AEDAT 3.1": ("a.aedat", write_aedat3, peer.load_aedat_v3),
    "ATIS": ("a.bin", write_atis, peer.load_ATIS_bin),
    "NumPy": ("a.npz", write_npz, np.load),
}


def columns(events: Events) -> dict[str, Any]:
    return {"t": events.t, "x": events.x, "y": events.y, "p": events.p}


@pytest.mark.parametrize("kind", WRITERS)
def test_events_equal_those_of_spikingjelly(tmp_path: Path, kind: str) -> None:
    name, write, read = WRITERS[kind]
    path = write(tmp_path / name, random_events(1001))
    found, expected = columns(read_events(path)), read(path)
    for key in "txyp":
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
        assert len(np.unique(found[key])) > 1


def test_times_of_a_second_half_of_the_clock(tmp_path: Path) -> None:
    """The overflow counter of a packet is bit 31 and above of a time, which has 31 bits of its own."""
    path = write_aedat3(tmp_path / "a.aedat", random_events(300), overflow=5)
    found = read_events(path)
    np.testing.assert_array_equal(found.t, peer.load_aedat_v3(path)["t"])
    assert found.t.min() >= 5 * 2**31


def test_overflow_marks_of_atis_are_no_events_and_move_later_times(tmp_path: Path) -> None:
    """As in `read_dataset` of event-Python: each entry of row 240 adds 8192 us to what follows."""
    t, x, y, p = (np.array(v) for v in ([5, 9, 7, 0, 3], [1, 0, 2, 0, 3], [1, 240, 2, 240, 3], [1, 0, 0, 0, 1]))
    found = read_events(write_atis(tmp_path / "a.bin", (t, x, y, p)))
    assert [found.t.tolist(), found.x.tolist(), found.y.tolist(), found.p.tolist()] == [
        [5, 7 + 8192, 3 + 2 * 8192],
        [1, 2, 3],
        [1, 2, 3],
        [1, 0, 1],
    ]


@pytest.mark.parametrize("by", ["number", "time"])
@pytest.mark.parametrize(("count", "frames"), [(1000, 16), (1003, 7), (11, 10)])
def test_frames_equal_those_of_spikingjelly(by: Any, count: int, frames: int) -> None:
    t, x, y, p = random_events(count, size=(20, 30))
    t = t if count > 11 else np.arange(11)  # otherwise a frame is empty, where spikingjelly raises
    expected = peer.integrate_events_by_fixed_frames_number(dict(zip("txyp", (t, x, y, p), strict=True)), by, frames, 20, 30)
    found = integrate(_events(t, x, y, p), frames=frames, by=by, height=20, width=30)
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == count


def test_frames_by_time_of_unsorted_events_equal_those_of_spikingjelly() -> None:
    t, x, y, p = random_events(500, size=(20, 30))
    t = t + np.random.default_rng(1).integers(-5000, 5000, 500)
    expected = peer.integrate_events_by_fixed_frames_number(dict(zip("txyp", (t, x, y, p), strict=True)), "time", 8, 20, 30)
    np.testing.assert_array_equal(integrate(_events(t, x, y, p), frames=8, by="time", height=20, width=30), expected)


def test_a_time_without_events_is_an_empty_frame() -> None:
    events = _events(*map(np.array, ([0, 1, 100], [0, 1, 2], [0, 1, 2], [0, 1, 1])))
    assert integrate(events, frames=4, by="time", height=3, width=3).sum(axis=(1, 2, 3)).tolist() == [2, 0, 0, 1]


def write_columns(path: Path, **changed: Any) -> Path:
    np.savez(path, **{"t": np.arange(4), "x": np.arange(4), "y": np.arange(4), "p": np.array([0, 1, 1, 0])} | changed)
    return path


@pytest.mark.parametrize("p", [[0, 1, 1, 0], [-1, 1, 1, -1], [False, True, True, False], [-1.0, 1.0, 1.0, -1.0]])
def test_polarities_of_npz_files(tmp_path: Path, p: Any) -> None:
    assert read_events(write_columns(tmp_path / "a.npz", p=np.array(p))).p.tolist() == [0, 1, 1, 0]


def test_events_of_npz_files_are_sorted_by_time(tmp_path: Path) -> None:
    columns = {"t": [5, 3, 5, 1], "x": [0, 1, 2, 3], "y": [4, 5, 6, 7], "p": [1, 0, 0, 1]}
    found = read_events(write_columns(tmp_path / "a.npz", **{key: np.array(values) for key, values in columns.items()}))
    rows = list(zip(found.t.tolist(), found.x.tolist(), found.y.tolist(), found.p.tolist(), strict=True))
    assert rows == [(1, 3, 7, 1), (3, 1, 5, 0), (5, 0, 4, 1), (5, 2, 6, 0)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p": np.array([-1, 0, 1, 1])}, "polarities p of -1, 0, 1; write 0 and 1, or -1 and 1"),
        ({"p": np.array([0, 255, 0, 255])}, "polarities p of 0, 255"),
        ({"p": np.array([0.1, 0.2, 0.3, np.nan])}, "polarities p of 0.1, 0.2, 0.3, nan"),
        ({"t": np.array([0.0, 0.25, 0.5, 1.0])}, "t has fractions, but times are whole microseconds"),
        ({"x": np.array([0.5, 1, 2, 3])}, "x has fractions, but positions are whole pixels"),
        ({"y": np.array([2**32 + 5, 1, 2, 3])}, "y has numbers beyond 2,147,483,648"),
        ({"t": np.array([2**64 - 1, 1, 2, 3], dtype=np.uint64)}, "t has numbers beyond"),
        ({"x": np.array([np.inf, 1, 2, 3])}, "x has numbers that are not finite"),
    ],
)
def test_numbers_of_npz_files_that_would_be_changed(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_events(write_columns(tmp_path / "a.npz", **changed))


def test_events_between_two_times() -> None:
    events = _events(*(np.arange(6) for _ in range(4)))
    assert events.between(2, 5).x.tolist() == [2, 3, 4]


def _events(t: Any, x: Any, y: Any, p: Any) -> Events:
    return Events(t=t.astype(np.int64), x=x.astype(np.int32), y=y.astype(np.int32), p=p.astype(np.int32))


def cut(path: Path, by: int) -> Path:
    path.write_bytes(path.read_bytes()[:-by])
    return path


def text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def frames_of(path: Path) -> Path:
    np.savez(path, frames=np.ones(3))
    return path


EVENTS = random_events(200)
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "AEDAT 2.0 cut off": (lambda d: cut(write_aedat2(d / "a.aedat", EVENTS), 3), "cut off .*not a multiple of 8"),
    "AEDAT 2.0 cut in its header": (lambda d: text(d / "a.aedat", b"#!AER-DAT2.0\r\n# This"), "cut off .in its header"),
    "AEDAT 3.1 cut in a packet": (lambda d: cut(write_aedat3(d / "a.aedat", EVENTS), 40), "cut off .a packet of"),
    "AEDAT 3.1 cut in a packet's header": (lambda d: cut(write_aedat3(d / "a.aedat", EVENTS), 20), "cut off .in the header of a"),
    "AEDAT 3.1 without an end of the header": (lambda d: text(d / "a.aedat", b"#!AER-DAT3.1\r\n#Form"), "no end of its header"),
    "AEDAT 4": (lambda d: text(d / "a.aedat", b"#!AER-DAT4.0\r\n"), "not an AEDAT 2.0 or 3.1 file"),
    "an empty file": (lambda d: text(d / "a.aedat", b""), "not an AEDAT 2.0 or 3.1 file"),
    "ATIS cut off": (lambda d: cut(write_atis(d / "a.bin", EVENTS), 1), "999 bytes, not a multiple of 5"),
    "no archive": (lambda d: text(d / "a.npz", b"events"), "events cannot be read"),
    "NumPy cut off": (lambda d: cut(write_npz(d / "a.npz", EVENTS), 100), "events cannot be read"),
    "other arrays": (lambda d: frames_of(d / "a.npz"), "only frames; .*leave data.frames out"),
    "arrays of other lengths": (lambda d: write_npz(d / "a.npz", (*EVENTS[:3], EVENTS[3][:9])), "one of each for every event"),
    "another ending": (lambda d: text(d / "a.dat", b""), "no format of event recordings; use .aedat, .bin, .npz"),
    "no file": (lambda d: d / "a.bin", "cannot be read .No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_recording_is_one_line_with_its_path(tmp_path: Path, name: str) -> None:
    build, message = BAD[name]
    path = build(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read_events(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (random_events(0), "no events"),
        (random_events(50, size=(40, 10)), r"rows up to \d+ and columns up to \d, outside a sensor of 20x30"),
    ],
)
def test_events_that_cannot_be_integrated(events: Columns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        integrate(_events(*events), frames=2, by="number", height=20, width=30)
