"""Find the recordings of event data sets, with their classes and the parts that their authors have published.

| `data.name`    | files under `data.root`                                      | sensor  | published parts             |
|----------------|--------------------------------------------------------------|---------|-----------------------------|
| `cifar10_dvs`  | `CLASS/*.aedat` (AEDAT 2.0)                                  | 128x128 | none                        |
| `dvs_gesture`  | `*.aedat` (AEDAT 3.1), `*_labels.csv`, `trials_to_train.txt` | 128x128 | train, test                 |
| `har_dvs`      | `action_001/*.npz`, `train_label.txt`, `val_label.txt`, ...  | 260x346 | train, val for search, test |
| `n_caltech101` | `CLASS/*.bin` (ATIS)                                         | 180x240 | none                        |
| `n_mnist`      | `Train/CLASS/*.bin`, `Test/CLASS/*.bin` (ATIS)               | 34x34   | train, test                 |
| `events`       | `CLASS/*` or `train/CLASS/*` in any of these formats         | given   | by folder                   |

These are the extracted archives of the authors; the files may also be in a folder `extract`, as spikingjelly puts them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from autospike import files
from autospike.data.event_files import EVENT_EXTENSIONS
from autospike.data.folders import FileKind, scan
from autospike.data.pixels import printable
from autospike.errors import UserError

Part = Literal["train", "search", "test"]

GESTURE_LISTS: dict[str, Part] = {"trials_to_train.txt": "train", "trials_to_test.txt": "test"}
HAR_LISTS: dict[str, Part] = {"train_label.txt": "train", "val_label.txt": "search", "test_label.txt": "test"}
GESTURES = 11


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One sample: a file, or the part of a file between two times.

    Attributes:
        path: The file.
        window: First time in microseconds, and the time after the last one; None for the whole file.
    """

    path: Path
    window: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """The samples of an event data set.

    Attributes:
        classes: Names of the classes.
        labels: Class of each sample.
        samples: What each sample is read from.
        names: Of the samples, relative to the root.
        parts: Indices of the published parts; empty if none are published.
        subjects: Who is recorded in each sample; empty if it is not known.
        left_out: What was not read: for each reason, the number and the first name.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    samples: tuple[Recording, ...]
    names: tuple[str, ...]
    parts: dict[Part, tuple[int, ...]] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EventDataset:
    """A kind of event data set.

    Attributes:
        sensor: Rows and columns; None if the user has to give them.
        find: Finds the recordings under a root.
    """

    sensor: tuple[int, int] | None
    find: Callable[[Path], Recordings]


def class_folders(root: Path, extensions: tuple[str, ...]) -> Recordings:
    """Find recordings in class folders, or in those of folders for training and testing.

    Args:
        root: The folder of the data set.
        extensions: Of the recordings, in lower case.

    Returns:
        The recordings, sorted by class and name; of several folders, those for training first.

    Raises:
        UserError: The folder has no classes; see `data.folders`.
    """
    base = root / "extract" if (root / "extract").is_dir() else root
    kind = FileKind(description="folder of event recordings", example=f"recording{extensions[0]}", extensions=extensions)
    found = scan(base, kind)
    names = tuple(name for folder in found.folders for name in folder.names)
    parts: dict[Part, tuple[int, ...]] = {}
    if len(found.folders) == 2:
        count = len(found.folders[0].names)
        parts = {"train": tuple(range(count)), "test": tuple(range(count, len(names)))}
    return Recordings(
        classes=found.folders[0].classes,
        labels=tuple(label for folder in found.folders for label in folder.labels),
        samples=tuple(Recording(path=base / name) for name in names),
        names=tuple((base / name).relative_to(root).as_posix() for name in names),
        parts=parts,
        left_out=found.left_out,
    )


def gesture_trials(root: Path) -> Recordings:
    """Find the gestures of DVS128 Gesture. A file has several, which its CSV file lists with class, start and stop.

    The subject of a gesture is the first word of the file's name, `user01`.

    Args:
        root: The folder of the data set, of spikingjelly's copy, or `DvsGesture`.

    Returns:
        The gestures in the order of the lists. Class 1 is label 0.

    Raises:
        UserError: A list or a CSV file is missing or invalid.
    """
    base = _folder_with("trials_to_train.txt", (root, root / "DvsGesture", root / "extract" / "DvsGesture"))
    labels: list[int] = []
    samples: list[Recording] = []
    subjects: list[str] = []
    parts: dict[Part, tuple[int, ...]] = {}
    for list_name, part in GESTURE_LISTS.items():
        before = len(samples)
        for file_name in filter(None, map(str.strip, files.read_text(base / list_name).splitlines())):
            path = _listed(base, file_name, list_name)
            for label, start, stop in _gestures_of(base / f"{Path(file_name).stem}_labels.csv"):
                labels.append(label)
                samples.append(Recording(path=path, window=(start, stop)))
                subjects.append(file_name.split("_")[0])
        parts[part] = tuple(range(before, len(samples)))
    return Recordings(
        classes=_gesture_names(base),
        labels=tuple(labels),
        samples=tuple(samples),
        names=tuple(f"{s.path.relative_to(root).as_posix()}[{s.window[0]}:{s.window[1]}]" for s in samples if s.window),
        parts=parts,
        subjects=tuple(subjects),
    )


def _gestures_of(path: Path) -> list[tuple[int, int, int]]:
    """Label, start and stop of each gesture in a file `*_labels.csv`, whose first line is a heading."""
    rows = []
    for number, line in enumerate(files.read_text(path).splitlines()[1:], start=2):
        if not line.strip():
            continue
        try:
            label, start, stop = (int(value) for value in line.split(","))
        except ValueError:
            label = 0
        if not 1 <= label <= GESTURES:
            raise UserError(f"{path}: line {number} is not CLASS,START,STOP with a class from 1 to {GESTURES}; restore the file")
        rows.append((label - 1, start, stop))
    return rows


def _gesture_names(base: Path) -> tuple[str, ...]:
    """Names from `gesture_mapping.csv` (name, number), which the authors ship beside the recordings; else the numbers."""
    for path in (base / "gesture_mapping.csv", base.parent / "gesture_mapping.csv"):
        if path.is_file():
            rows = [line.rsplit(",", 1) for line in files.read_text(path).splitlines()[1:] if line.strip()]
            by_number = {row[-1].strip(): row[0].strip() for row in rows}
            names = tuple(by_number.get(str(number), str(number)) for number in range(1, GESTURES + 1))
            return names if len(set(names)) == GESTURES else tuple(map(str, range(1, GESTURES + 1)))
    return tuple(map(str, range(1, GESTURES + 1)))


def har_recordings(root: Path) -> Recordings:
    """Find the recordings of HAR-DVS by its lists. The validation list is the part for search.

    Args:
        root: The folder with the lists, or spikingjelly's with `extract`.

    Returns:
        The recordings in the order of the lists.

    Raises:
        UserError: A list is missing or invalid, or a listed recording does not exist.
    """
    return har_samples(root, lambda folder, name: folder / f"{name}.npz")


def har_samples(root: Path, path_of: Callable[[Path, str], Path]) -> Recordings:
    """Read the lists of HAR-DVS: lines `action_001/NAME COUNT LABEL`.

    Args:
        root: The folder with the lists, or spikingjelly's with `extract`.
        path_of: Path of a sample, from the folder of the lists and the listed name.

    Returns:
        The samples in the order of the lists.

    Raises:
        UserError: A list is missing or invalid, or a listed sample does not exist.
    """
    base = _folder_with("train_label.txt", (root, root / "extract"))
    numbers: list[int] = []
    samples: list[Recording] = []
    folders: dict[int, str] = {}
    parts: dict[Part, tuple[int, ...]] = {}
    for list_name, part in HAR_LISTS.items():
        before = len(samples)
        for line_number, line in enumerate(files.read_text(base / list_name).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            if len(words) < 2 or not words[-1].isdecimal() or "/" not in words[0]:
                raise UserError(f"{base / list_name}: line {line_number} is not ACTION/NAME COUNT LABEL; restore the file")
            name, number = words[0], int(words[-1])
            folder = name.split("/")[0]
            if folders.setdefault(number, folder) != folder:
                raise UserError(
                    f"{base / list_name}: line {line_number} has label {number} for {printable(folder)}, which is the label of "
                    f"{printable(folders[number])}; restore the file"
                )
            path = path_of(base, name)
            if not path.exists():
                raise UserError(f"{printable(path)}: listed in {list_name}, but missing; extract it, or remove the line")
            numbers.append(number)
            samples.append(Recording(path=path))
        parts[part] = tuple(range(before, len(samples)))
    labels = {number: label for label, number in enumerate(sorted(folders))}
    return Recordings(
        classes=tuple(folders[number] for number in sorted(folders)),
        labels=tuple(labels[number] for number in numbers),
        samples=tuple(samples),
        names=tuple(sample.path.relative_to(root).as_posix() for sample in samples),
        parts=parts,
    )


def _folder_with(name: str, folders: Sequence[Path]) -> Path:
    """The first folder that has a file."""
    found = next((folder for folder in folders if (folder / name).is_file()), None)
    if found is None:
        where = ", ".join(printable(folder) for folder in folders)
        raise UserError(f"data.root: no {name} in {where}; set data.root to the folder that the archive was extracted to")
    return found


def _listed(base: Path, name: str, list_name: str) -> Path:
    path = base / name
    if not path.is_file():
        raise UserError(f"{printable(path)}: listed in {list_name}, but missing; extract it, or remove the line")
    return path


EVENT_DATASETS: dict[str, EventDataset] = {
    "cifar10_dvs": EventDataset(sensor=(128, 128), find=lambda root: class_folders(root, (".aedat",))),
    "dvs_gesture": EventDataset(sensor=(128, 128), find=gesture_trials),
    "har_dvs": EventDataset(sensor=(260, 346), find=har_recordings),
    "n_caltech101": EventDataset(sensor=(180, 240), find=lambda root: class_folders(root, (".bin",))),
    "n_mnist": EventDataset(sensor=(34, 34), find=lambda root: class_folders(root, (".bin",))),
    "events": EventDataset(sensor=None, find=lambda root: class_folders(root, EVENT_EXTENSIONS)),
}


@dataclass(frozen=True, kw_only=True)
class StoredRecordings:
    """Recordings, some of which are parts of one file; see `data.contents.Contents`.

    Attributes:
        names: Of the samples.
        samples: What they are read from.
    """

    names: tuple[str, ...]
    samples: tuple[Recording, ...]

    def name(self, index: int) -> str:
        """Return the path relative to the root of the data set, with the times of a part."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Return the size of the file."""
        try:
            return self.samples[index].path.stat().st_size
        except OSError as error:
            raise UserError(f"{printable(self.samples[index].path)}: cannot be read ({error.strerror}); restore it") from None

    def head(self, index: int) -> bytes:
        """Return the digest, because parts of a file have the same first bytes."""
        return self.digest(index).encode()

    def digest(self, index: int) -> str:
        """Return the SHA-256 digest of the file, or of this digest and the times of a part."""
        sample = self.samples[index]
        try:
            whole = _digest_of_file(sample.path, sample.path.stat().st_mtime_ns)
        except OSError as error:
            raise UserError(f"{printable(sample.path)}: cannot be read ({error.strerror}); restore it") from None
        return whole if sample.window is None else hashlib.sha256(f"{whole} {sample.window}".encode()).hexdigest()


@lru_cache(maxsize=512)
def _digest_of_file(path: Path, _modified: int) -> str:
    return files.sha256(path)
