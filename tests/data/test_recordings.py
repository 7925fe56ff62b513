"""Event data sets from their raw files: layouts, published splits, frames and their cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_recordings import gesture_tree, har_lists, random_events, write_aedat2, write_atis, write_npz
from PIL import Image
from spikingjelly.datasets.dvs128_gesture import _split_aedat_files_to_np
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number, load_ATIS_bin
from trainings import forkserver

from autospike.config import DataConfig
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.errors import UserError

CLASSES = ("airplane", "cat")


def opened(root: Path, name: str, **settings: Any) -> Images:
    given = {"name": name, "root": root, "image_size": 32, "frames": 4, "cache": root.parent / "cache", **settings}
    return load_images(DataConfig.model_validate(given), seed=0)


def names(images: Images, split: Any) -> set[str]:
    found = images.splits[split]
    assert found.contents is not None
    return {found.contents.name(index) for index in found.indices}


def cifar10_dvs(root: Path, count: int = 20) -> Path:
    for label, name in enumerate(CLASSES):
        for i in range(count):
            write_aedat2(root / name / f"cifar10_{name}_{i}.aedat", random_events(64, seed=100 * label + i))
    return root


def test_the_first_samples_of_each_class_in_file_order(tmp_path: Path) -> None:
    """Spikformer's split: file names are sorted as text, and `ceil(0.9 n)` of each class are for training."""
    images = opened(cifar10_dvs(tmp_path / "data", 25), "cifar10_dvs", split="first", test_share=0.1)
    order = sorted(f"cifar10_cat_{i}.aedat" for i in range(25))  # 0, 1, 10, 11, ...
    assert names(images, "test") == {f"{c}/{name.replace('cat', c)}" for name in order[23:] for c in CLASSES}
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 36, "search": 10, "test": 4}


def test_the_samples_of_tebn(tmp_path: Path) -> None:
    root = cifar10_dvs(tmp_path / "data", 3)
    for name in CLASSES:
        for i in (99, 100, 101, 102, 999):
            write_aedat2(root / name / f"cifar10_{name}_{i}.aedat", random_events(64, seed=i))
    images = opened(root, "cifar10_dvs", split="tebn")
    assert names(images, "test") == {f"{c}/cifar10_{c}_{i}.aedat" for c in CLASSES for i in (0, 1, 2, 99)}
    assert len(images.splits["train"]) + len(images.splits["search"]) == 8


def test_gestures_equal_those_that_spikingjelly_cuts(tmp_path: Path) -> None:
    """All samples of a file, by class, start and stop; the official lists; classes by number, not sorted as text."""
    root, peer = gesture_tree(tmp_path / "data", users=(2, 1)), tmp_path / "peer"
    images = opened(root, "dvs_gesture")
    assert images.classes == tuple(str(i) for i in range(1, 12))
    split = images.splits["test"]
    assert (len(split), split.labels) == (24, (*range(11), 10) * 2)
    for label in range(11):
        (peer / str(label)).mkdir(parents=True)
    base = root / "DvsGesture"
    _split_aedat_files_to_np("user03_lab", base / "user03_lab.aedat", base / "user03_lab_labels.csv", peer)
    files = [*(f"{label}/user03_lab_0.npz" for label in range(11)), "10/user03_lab_1.npz"]
    for position, file in enumerate(files):
        with np.load(peer / file) as events:
            expected = integrate_events_by_fixed_frames_number(dict(events), "number", 4, 128, 128)
        np.testing.assert_array_equal(split.image(position), expected)


def test_subjects_of_a_split_are_in_no_other(tmp_path: Path) -> None:
    images = opened(gesture_tree(tmp_path / "data", users=(5, 2)), "dvs_gesture", search_share=0.3)
    users = {name: {n.split("/")[-1].split("_")[0] for n in names(images, name)} for name in images.splits}
    assert users["test"] == {"user06", "user07"}
    assert users["train"] | users["search"] == {f"user0{i}" for i in range(1, 6)}
    assert not users["train"] & users["search"]
    assert len(users["search"]) == 2  # the fewest that have 30 % of the samples


def test_names_of_gestures_are_read_from_the_mapping(tmp_path: Path) -> None:
    root = gesture_tree(tmp_path / "data", users=(2, 1))
    (root / "DvsGesture" / "gesture_mapping.csv").write_text(
        "action,label\n" + "".join(f"gesture {i},{i}\n" for i in range(11, 0, -1))
    )
    assert opened(root, "dvs_gesture").classes == tuple(f"gesture {i}" for i in range(1, 12))


@pytest.mark.parametrize("nested", ["", "extract"])
def test_lists_of_har_dvs(tmp_path: Path, nested: str) -> None:
    """The validation list is the search split: the published recipe leaves it unused."""
    root = tmp_path / "data"
    lists = har_lists(root / nested)
    for name in listed(lists):
        write_npz(root / nested / f"{name}.npz", random_events(80, size=(260, 346)))
    images = opened(root, "har_dvs")
    prefix = f"{nested}/" if nested else ""
    for split, list_name in (("train", "train"), ("search", "val"), ("test", "test")):
        assert names(images, split) == {f"{prefix}{name}.npz" for name in lists[list_name]}
    assert images.classes == ("action_001", "action_002")
    assert images.splits["test"].image(0).shape == (4, 2, 260, 346)


def listed(lists: dict[str, list[str]]) -> list[str]:
    return [name for names in lists.values() for name in names]


def rendered(root: Path, lengths: dict[str, int] | None = None) -> Path:
    """HAR-DVS as grey frames of 346x260: frame i of a sample is 10 i everywhere, its left half 255 - 10 i."""
    for name in listed(har_lists(root)):
        (root / name).mkdir(parents=True)
        for i in range((lengths or {}).get(name, 12)):
            pixels = np.full((260, 346), 10 * i, dtype=np.uint8)
            pixels[:, :173] = 255 - 10 * i
            Image.fromarray(pixels).save(root / name / f"{i:04d}.png")
    return root


def test_rendered_frames_become_the_published_maps(tmp_path: Path) -> None:
    """Channel 0: grey < 0.12; channel 1: 0.3 < grey <= 0.78. Measured are the frames in the middle of a sample."""
    images = opened(rendered(tmp_path / "data"), "har_dvs_images", frames=8, image_size=224, cache=None)
    found = images.splits["test"].image(0)
    assert found.shape == (8, 2, 224, 224)
    for frame, i in zip(found, range(2, 10), strict=True):  # of 12
        for column, grey in ((0, (255 - 10 * i) / 255), (-1, 10 * i / 255)):
            assert (frame[0, :, column] == (grey < 0.12)).all()
            assert (frame[1, :, column] == (0.3 < grey <= 0.78)).all()


def test_a_clip_for_training_starts_anywhere_and_a_short_one_ends_with_zeros(tmp_path: Path) -> None:
    first = "action_001/dvSave-2021_10_15_19_00_00"
    images = opened(rendered(tmp_path / "data", {first: 3}), "har_dvs_images", frames=4, image_size=32, cache=None)
    train = images.splits["train"]
    short = train.image(0)
    assert short[:3].any(axis=(1, 2, 3)).all()
    assert not short[3].any()
    random.seed(0)
    clips = {train.training_image(1).tobytes() for _ in range(60)}
    assert len(clips) == 9  # 12 frames have 9 clips of 4
    assert train.image(1).tobytes() in clips


def test_n_mnist_and_n_caltech101(tmp_path: Path) -> None:
    for part, count in (("Train", 6), ("Test", 2)):
        for digit in "01":
            for i in range(count):
                write_atis(tmp_path / "mnist" / part / digit / f"{i:05d}.bin", random_events(90, seed=i, size=(34, 34)))
    digits = opened(tmp_path / "mnist", "n_mnist")
    assert [len(split) for split in digits.splits.values()] == [9, 3, 4]
    assert digits.splits["test"].image(0).shape == (4, 2, 34, 34)
    for name in ("accordion", "BACKGROUND_Google"):
        for i in range(10):
            write_atis(
                tmp_path / "caltech" / "Caltech101" / name / f"image_{i:04d}.bin", random_events(90, seed=i, size=(180, 240))
            )
    objects = opened(tmp_path / "caltech", "n_caltech101", frames_by="time", split="first", test_share=0.1)
    assert len(objects.splits["test"]) == 2
    path = tmp_path / "caltech" / "Caltech101" / "accordion" / "image_0009.bin"
    expected = integrate_events_by_fixed_frames_number(load_ATIS_bin(path), "time", 4, 180, 240)
    np.testing.assert_array_equal(objects.splits["test"].image(1), expected)


def test_own_recordings_need_the_size_of_the_sensor(tmp_path: Path) -> None:
    """The tree `events_np` of spikingjelly."""
    for part in ("train", "test"):
        for name in ("clap", "wave"):
            for i in range(5):
                write_npz(tmp_path / "data" / part / name / f"{i}.npz", random_events(50, seed=i, size=(20, 30)))
    with pytest.raises(UserError, match=r"data\.sensor: required"):
        opened(tmp_path / "data", "events")
    images = opened(tmp_path / "data", "events", sensor=[20, 30])
    assert images.splits["test"].image(3).shape == (4, 2, 20, 30)
    with pytest.raises(UserError, match=r"leave data\.frames out"):
        for path in (tmp_path / "data").glob("test/*/*.npz"):
            np.savez(path, frames=np.ones((4, 2, 8, 8)))
        opened(tmp_path / "data", "events", sensor=[20, 30]).splits["test"].image(0)


def test_frames_are_integrated_once_and_depend_on_the_file(tmp_path: Path) -> None:
    root, cache = cifar10_dvs(tmp_path / "data"), tmp_path / "cache"
    images = opened(root, "cifar10_dvs")
    split = images.splits["train"]
    before, path = split.image(0), root / sorted(names(replace_indices(images), "train"))[0]
    (stored,) = cache.glob("*/*.npz")
    written = stored.stat().st_mtime_ns
    assert np.array_equal(split.image(0), before)
    assert stored.stat().st_mtime_ns == written
    stored.write_bytes(stored.read_bytes()[:-30])  # damaged
    assert np.array_equal(split.image(0), before)
    assert stored.stat().st_mtime_ns > written
    write_aedat2(path, random_events(64, seed=999))
    assert not np.array_equal(split.image(0), before)
    assert len(list(cache.glob("*/*.npz"))) == 2
    assert not np.array_equal(opened(root, "cifar10_dvs", frames_by="time").splits["train"].image(0), split.image(0))


def replace_indices(images: Images) -> Images:
    """The data set with the first training sample alone."""
    train = images.splits["train"]
    return replace(images, splits={**images.splits, "train": replace(train, indices=train.indices[:1])})


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    root = cifar10_dvs(tmp_path / "data")
    with_cache = opened(root, "cifar10_dvs").splits["train"].image(0)
    count = len(list(tmp_path.rglob("*")))
    assert np.array_equal(opened(root, "cifar10_dvs", cache="none").splits["train"].image(0), with_cache)
    assert len(list(tmp_path.rglob("*"))) == count


def test_all_gestures_of_a_file_are_integrated_together(tmp_path: Path) -> None:
    images = opened(gesture_tree(tmp_path / "data", users=(2, 1)), "dvs_gesture")
    images.splits["train"].image(0)
    assert len(list((tmp_path / "cache").glob("*/*.npz"))) == 12


def test_threads_that_read_gestures_of_the_same_files_share_the_cache(tmp_path: Path) -> None:
    """As `check-data` reads them: every thread stores all gestures of a file."""
    split = opened(gesture_tree(tmp_path / "data", users=(2, 1)), "dvs_gesture").splits["train"]
    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(lambda i: float(split.image(i)[1].sum()), range(len(split))))
    without = opened(tmp_path / "data", "dvs_gesture", cache="none").splits["train"]
    assert totals == [float(without.image(i)[1].sum()) for i in range(len(without))]
    assert not list((tmp_path / "cache").rglob("*.part"))


def _read_everything(root: Path, digests: Any) -> None:
    split = opened(root, "cifar10_dvs").splits["train"]
    digests.put([float(split.image(i)[1].sum()) for i in range(len(split))])


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    root, context = cifar10_dvs(tmp_path / "data", 40), forkserver()
    queue = context.Queue()
    processes = [context.Process(target=_read_everything, args=(root, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    split = opened(root, "cifar10_dvs", cache="none").splits["train"]
    assert found[0] == found[1] == [float(split.image(i)[1].sum()) for i in range(len(split))]
    assert not list((tmp_path / "cache").rglob("*.part"))


def empty_folder(root: Path) -> Path:
    root.mkdir()
    return root


def broken_gestures(root: Path, name: str, content: str | None) -> Path:
    gesture_tree(root, users=(2, 1))
    path = root / "DvsGesture" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    return root


def broken_har(root: Path, line: str) -> Path:
    for name in listed(har_lists(root)):
        write_npz(root / f"{name}.npz", random_events(9))
    (root / "val_label.txt").write_text(line)
    return root


SAMPLE = "action_001/dvSave-2021_10_15_19_01_00"
BROKEN: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "no lists": ("dvs_gesture", empty_folder, "no trials_to_train.txt in"),
    "no test list": ("dvs_gesture", lambda r: broken_gestures(r, "trials_to_test.txt", None), "trials_to_test.txt: cannot be read"),
    "no recording": ("dvs_gesture", lambda r: broken_gestures(r, "user03_led.aedat", None), "listed in trials_to_test.txt, but"),
    "no labels": ("dvs_gesture", lambda r: broken_gestures(r, "user01_led_labels.csv", None), "user01_led_labels.csv: cannot be"),
    "a bad label": ("dvs_gesture", lambda r: broken_gestures(r, "user01_led_labels.csv", "h\n12,0,9"), "line 2 is not CLASS,START"),
    "text": ("dvs_gesture", lambda r: broken_gestures(r, "user01_led_labels.csv", "h\n1,0"), "line 2 is not CLASS,START"),
    "no recording of HAR": ("har_dvs", lambda r: broken_har(r, "action_001/x 36 0"), "listed in val_label.txt, but missing"),
    "a bad line": ("har_dvs", lambda r: broken_har(r, f"{SAMPLE} 36 0\naction_001\n"), "line 2 is not ACTION/NAME COUNT LABEL"),
    "two folders": (
        "har_dvs",
        lambda r: broken_har(r, f"{SAMPLE} 36 1"),
        "label 1 for action_001, which is the label of action_002",
    ),
    "no class folders": ("cifar10_dvs", empty_folder, r"not a valid folder of event recordings"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_tree_is_one_line(tmp_path: Path, name: str) -> None:
    dataset, build, message = BROKEN[name]
    with pytest.raises(UserError, match=message) as error:
        opened(build(tmp_path / "data"), dataset)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("rule", "choices"), [("subject", "stratified, first, tebn"), ("lists", "stratified, first, tebn")])
def test_a_rule_that_does_not_apply_is_an_error(tmp_path: Path, rule: str, choices: str) -> None:
    with pytest.raises(UserError, match=rf"data\.split: {rule} does not apply to these data; choose from {choices}"):
        opened(cifar10_dvs(tmp_path / "data"), "cifar10_dvs", split=rule)


def test_a_gesture_without_events_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    root = broken_gestures(tmp_path / "data", "user03_led_labels.csv", "h\n1,0,100000\n2,5000000,6000000\n")
    test = opened(root, "dvs_gesture").splits["test"]
    assert test.image(12).sum() > 0
    with pytest.raises(UserError, match=r"user03_led\.aedat from 5000000 to 6000000 us: it has no events"):
        test.image(13)


def test_copies_of_recordings_have_equal_digests(tmp_path: Path) -> None:
    images = opened(gesture_tree(tmp_path / "data", users=(2, 1)), "dvs_gesture")
    contents = images.splits["test"].contents
    assert contents is not None
    digests = [contents.digest(i) for i in range(72)]
    assert len(set(digests)) == 72
    base = tmp_path / "data" / "DvsGesture"
    (base / "user03_led.aedat").write_bytes((base / "user01_led.aedat").read_bytes())
    renewed = opened(tmp_path / "data", "dvs_gesture").splits["test"].contents
    assert renewed is not None
    assert [renewed.digest(i) for i in range(60, 72)] == digests[12:24]


def test_settings_of_recordings_are_errors_for_images() -> None:
    with pytest.raises(ValueError, match="frames applies to recordings"):
        DataConfig.model_validate({"name": "digits", "image_size": 8, "frames": 4})
    with pytest.raises(UserError, match=r"data\.frames: required for data\.name cifar10_dvs"):
        load_images(DataConfig(name="cifar10_dvs", root=Path(), image_size=8), seed=0)
