"""Samples of equal content are found across splits, by reading as little as possible."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autospike.data.contents import HEAD, LARGE, Sample, StoredArrays, StoredFiles, copies_across_splits, digests
from autospike.errors import UserError


def stored(root: Path, contents: list[bytes]) -> StoredFiles:
    for i, content in enumerate(contents):
        (root / f"{i}.png").write_bytes(content)
    names = tuple(f"{i}.png" for i in range(len(contents)))
    return StoredFiles(root=str(root), names=names, sizes=tuple(map(len, contents)))


def samples(files: StoredFiles | StoredArrays, splits: str) -> list[Sample]:
    names = {"t": "train", "s": "search", "e": "test"}
    return [Sample(split=names[split], contents=files, index=i) for i, split in enumerate(splits)]


def copies(given: list[Sample], known: list[str] | None = None) -> list[list[int]]:
    return [[sample.index for sample in group] for group in copies_across_splits(given, known)]


LONG = bytes(HEAD) + b"x"
CONTENTS = [b"one", b"two", b"one", b"one", LONG, LONG, LONG[:-1] + b"y", bytes(HEAD), b"two", b"three", b"three"]
SPLITS = "ttsetetstss"


def test_copies_are_exact_and_in_different_splits(tmp_path: Path) -> None:
    """0, 2, 3 are equal in three splits, 4 and 5 in two; 1 and 8 are of train, 9 and 10 of search; 6 ends with another byte."""
    given = samples(stored(tmp_path, CONTENTS), SPLITS)
    assert copies(given) == [[0, 2, 3], [4, 5]]
    assert copies(given, digests(given, 0)) == [[0, 2, 3], [4, 5]]


def test_only_files_of_equal_size_are_opened(tmp_path: Path) -> None:
    given = samples(stored(tmp_path, [b"a" * i for i in range(1, 9)]), "tsetsets")
    for path in tmp_path.iterdir():
        path.unlink()
    assert copies(given) == []


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    given = samples(stored(tmp_path, [b"one", b""]), "tt")
    for size in (0, LARGE * len(given)):  # by one thread and by several
        assert digests(given, size) == [hashlib.sha256(content).hexdigest() for content in (b"one", b"")]
    arrays = StoredArrays(arrays=np.arange(8, dtype=np.uint8).reshape(2, 2, 2), prefix="train/")
    assert digests(samples(arrays, "ts"), 0) == [
        hashlib.sha256(bytes(content)).hexdigest() for content in ((0, 1, 2, 3), (4, 5, 6, 7))
    ]
    assert samples(arrays, "ts")[1].name == "train/1"


def test_a_file_that_is_gone_is_one_line(tmp_path: Path) -> None:
    given = samples(stored(tmp_path, [b"same", b"same"]), "te")
    (tmp_path / "1.png").unlink()
    for find in (copies_across_splits, partial(digests, size=0), partial(digests, size=LARGE * len(given))):
        with pytest.raises(UserError, match=r"1\.png: cannot be read \(No such file or directory\)"):
            find(given)
