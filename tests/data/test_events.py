"""Event frames: folders, splits, batches and measurements of networks; integer counts stay integers."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autospike.config import AugmentationConfig, DataConfig, EvaluationConfig, Experiment
from autospike.data.batches import Batch, FixedBatches, TrainingBatches
from autospike.data.events import check_channels
from autospike.data.images import Images, Split
from autospike.data.loading import load_images
from autospike.errors import UserError
from autospike.evaluation.setup import calibrated_subnet, fixed_batches, held_out_batches, population_evaluator, trie_evaluator
from autospike.evaluation.single import measure
from autospike.events import Event, StepEvent
from autospike.execution.executor import Serial
from autospike.memory.cache import ByteBudgetCache
from autospike.randomness import keyed
from autospike.run_directory import RunDirectory
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import Setup, build_supernet, load_trained_supernet, open_run, training_batches
from autospike.training.trainer import train

CLASSES = {"clap": 10, "wave": 20}


def frames_folder(root: Path, classes: dict[str, int], *, steps: int = 4, size: tuple[int, int] = (8, 8), most: int = 5) -> Path:
    """Write event counts of 0 to `most` as spikingjelly does: compressed, float64."""
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            np.savez_compressed(root / name / f"{i}.npz", frames=rng.integers(0, most + 1, (steps, 2, *size)).astype(float))
    return root


def events(root: Path, image_size: int = 8) -> Images:
    return load_images(DataConfig(name="events", root=root, image_size=image_size), seed=0)


def image_tensor(split: Split, position: int) -> torch.Tensor:
    return torch.from_numpy(split.image(position))


def split_of(*frames: Any) -> Split:
    """Return a split of frames in memory."""
    arrays = [np.asarray(f, dtype=np.float32) for f in frames]
    indices = tuple(range(len(arrays)))
    return Split(
        name="train", indices=indices, labels=tuple(i % 2 for i in indices), read=arrays.__getitem__, time_steps=len(arrays[0])
    )


def batches(split: Split, augmentation: AugmentationConfig | None = None, **changes: Any) -> TrainingBatches:
    settings: dict[str, Any] = {
        "split": split,
        "num_classes": 2,
        "channels": 2,
        "image_size": 8,
        "batch_size": 8,
        "augmentation": augmentation or AugmentationConfig(),
        "smoothing": 0.1,
        "workers": 0,
        "seed": 0,
    }
    return TrainingBatches(**{**settings, **changes})


def fixed(split: Split, image_size: int = 8) -> FixedBatches:
    return FixedBatches(split=split, channels=2, image_size=image_size)


def equal_batches(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)


AUGMENTED = AugmentationConfig(min_scale=0.4, flip=0.5, erasing=0.5, mixup=0.5)


def test_splits_of_a_folder_without_train_and_test_are_samples_of_all_recordings(tmp_path: Path) -> None:
    """The layout of CIFAR10-DVS in spikingjelly."""
    images = events(frames_folder(tmp_path / "frames", CLASSES))
    assert (images.classes, images.channels, images.time_steps) == (("clap", "wave"), 2, 4)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 18, "search": 6, "test": 6}
    assert sorted(i for split in images.splits.values() for i in split.indices) == list(range(30))
    assert all(split.time_steps == 4 for split in images.splits.values())
    assert images.splits["train"].sample(5, keyed(0)).time_steps == 4


def test_test_recordings_of_a_folder_are_its_test_split(tmp_path: Path) -> None:
    """The layout of DVS128 Gesture in spikingjelly; HARDVS also has val/."""
    frames_folder(tmp_path / "train", {"clap": 10, "wave": 10})
    frames_folder(tmp_path / "test", {"clap": 2, "wave": 3})
    frames_folder(tmp_path / "val", {"clap": 7, "wave": 7})
    images = events(tmp_path)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 16, "search": 4, "test": 5}
    with np.load(tmp_path / "test" / "wave" / "0.npz") as archive:
        np.testing.assert_array_equal(images.splits["test"].image(2), archive["frames"])


def test_frames_written_by_spikingjelly_are_read(tmp_path: Path) -> None:
    from spikingjelly.datasets.utils import integrate_events_file_to_frames_file_by_fixed_frames_number as prepare

    rng = np.random.default_rng(0)
    recorded = {"t": np.arange(100), "x": rng.integers(0, 8, 100), "y": rng.integers(0, 8, 100), "p": rng.integers(0, 2, 100)}
    for name in ("clap", "wave"):
        (tmp_path / name).mkdir()
        for i in range(6):
            prepare(lambda _file: recorded, f"{i}.npz", str(tmp_path / name), "number", 5, 8, 8)
    images = events(tmp_path)
    frames = image_tensor(images.splits["train"], 0)
    assert (images.time_steps, images.channels, frames.shape) == (5, 2, (5, 2, 8, 8))
    assert frames.sum(dim=(1, 2, 3)).tolist() == [20] * 5  # every event is in a frame, once
    assert frames[0, 1].sum() == recorded["p"][:20].sum()


def test_the_fingerprint_depends_on_the_files_and_the_number_of_frames(tmp_path: Path) -> None:
    four, eight = (frames_folder(tmp_path / str(steps), CLASSES, steps=steps) for steps in (4, 8))
    before = events(four).fingerprint
    assert events(four).fingerprint == before != events(eight).fingerprint
    (four / "clap" / "0.npz").rename(four / "clap" / "00.npz")
    assert events(four).fingerprint != before


def test_stored_frames_are_added_up_to_fewer_frames(tmp_path: Path) -> None:
    """The first of two frames is the sum of the first two of four; no event is lost."""
    root = frames_folder(tmp_path, CLASSES)
    images = load_images(DataConfig(name="events", root=root, image_size=8, integrate_to=2), seed=0)
    assert (images.time_steps, {split.time_steps for split in images.splits.values()}) == (2, {2})
    for name, split in images.splits.items():
        stored = events(root).splits[name].image(0)
        assert np.array_equal(split.image(0), [stored[0] + stored[1], stored[2] + stored[3]])
    assert images.fingerprint not in (
        events(root).fingerprint,
        events(frames_folder(tmp_path / "two", CLASSES, steps=2)).fingerprint,
    )
    assert pickle.loads(pickle.dumps(images.splits["train"])).image(0).shape == (2, 2, 8, 8)


def test_frames_are_added_up_in_equal_groups_only(tmp_path: Path) -> None:
    root = frames_folder(tmp_path, CLASSES)
    with pytest.raises(UserError, match=r"data\.integrate_to: 3 does not divide the 4 frames .*; choose from 1, 2, 4"):
        load_images(DataConfig(name="events", root=root, image_size=8, integrate_to=3), seed=0)
    with pytest.raises(UserError, match="applies to event frames, not to still images"):
        load_images(DataConfig(name="digits", image_size=8, integrate_to=2), seed=0)
    for name, frames in (("cifar10_dvs", 8), ("events", 8), ("har_dvs_images", 8)):
        with pytest.raises(ValueError, match="recordings are integrated to frames: 2"):
            DataConfig(name=name, image_size=8, frames=frames, integrate_to=2)


def test_splits_can_be_pickled(tmp_path: Path) -> None:
    split = events(frames_folder(tmp_path / "frames", CLASSES)).splits["train"]
    assert torch.equal(image_tensor(pickle.loads(pickle.dumps(split)), 3), image_tensor(split, 3))


def test_measurement_batches_contain_the_event_counts(tmp_path: Path) -> None:
    search = events(frames_folder(tmp_path / "frames", CLASSES)).splits["search"]
    (batch,) = fixed(search)(100)
    assert batch.images.shape == (4, 6, 2, 8, 8)
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, torch.stack([image_tensor(search, i) for i in range(6)], dim=1))
    assert batch.targets.tolist() == list(search.labels)
    cut = [b.images for b in fixed(search)(2)]
    assert [len(images[0]) for images in cut] == [2, 2, 2]
    assert torch.equal(torch.cat(cut, dim=1), batch.images)


def test_frames_are_decoded_once_and_cached_in_the_smallest_exact_data_type() -> None:
    open_setup: list[int] = []
    shown = [np.full((3, 2, 8, 8), value, dtype=np.float32) for value in (255, 300, 40_000, 0.5, -1)]

    def read(index: int) -> Any:
        open_setup.append(index)
        return shown[index]

    whole = fixed(Split(name="search", indices=(0, 1, 2, 3, 4), labels=(0,) * 5, read=read, time_steps=3))
    for _ in range(2):
        (batch,) = whole(5)
    assert open_setup == [0, 1, 2, 3, 4]
    assert batch.images[2, :, 1, 3, 4].tolist() == [255, 300, 40_000, 0.5, -1]
    sizes = []
    for i in range(5):
        cache = ByteBudgetCache()
        replace(whole, cache=cache).batch((i, i + 1))
        (sample,) = cache.values()
        sizes.append(sample.tensor().nbytes)
    assert sizes == [size * 3 * 2 * 8 * 8 for size in (1, 2, 4, 4, 2)]


def test_resized_counts_are_means_of_a_centre_crop() -> None:
    """16 x 24 to 8 x 8: the shorter side is resized, and a sixth of the longer one is removed at both ends."""
    ramp = np.tile(np.arange(24, dtype=np.float32), (3, 2, 16, 1))
    (batch,) = fixed(split_of(ramp, ramp))(2)
    assert batch.images.shape == (3, 2, 2, 8, 8)
    torch.testing.assert_close(batch.images[1, 0, 1, 5], torch.arange(4.5, 20, 2))


def test_training_batches_of_frames_have_time_as_first_dimension(tmp_path: Path) -> None:
    train = events(frames_folder(tmp_path / "frames", CLASSES)).splits["train"]
    plain = batches(train)
    batch, keys = next(iter(plain(0, 1))), plain.sample_keys(0)
    assert batch.images.shape == (4, 8, 2, 8, 8)
    assert batch.targets.shape == (8, 2)
    for place, (position, _) in enumerate(keys):
        assert torch.equal(batch.images[:, place], image_tensor(train, position))
        assert int(batch.targets[place].argmax()) == train.labels[position]


def test_without_augmentation_images_are_scaled_as_in_measurement() -> None:
    ramp = np.tile(np.arange(24, dtype=np.float32), (3, 2, 16, 1))
    batch = next(iter(batches(split_of(ramp, ramp), batch_size=2)(0, 1)))
    torch.testing.assert_close(
        batch.images[0, :, 0, 3, 1:7].diff(dim=1), torch.full((2, 5), 2.0)
    )  # distorted, the differences would be 3


def test_a_batch_depends_only_on_seed_and_step(tmp_path: Path) -> None:
    train = events(frames_folder(tmp_path / "frames", CLASSES)).splits["train"]
    whole = list(batches(train, AUGMENTED)(0, 6))
    torch.manual_seed(1)
    np.random.seed(1)
    assert all(equal_batches(a, b) for a, b in zip(batches(train, AUGMENTED)(3, 6), whole[3:], strict=True))
    assert not equal_batches(whole[0], whole[1])
    assert not equal_batches(next(iter(batches(train, AUGMENTED, seed=1)(0, 1))), whole[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_independent_of_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    train = events(frames_folder(tmp_path / "frames", CLASSES, size=(20, 30))).splits["train"]
    assert all(
        equal_batches(a, b)
        for a, b in zip(batches(train, AUGMENTED, workers=workers)(2, 5), batches(train, AUGMENTED)(2, 5), strict=True)
    )


@pytest.mark.parametrize("augmentation", [{"flip": 1.0}, {"min_scale": 0.3}, {"erasing": 1.0}])
def test_all_frames_of_a_sample_have_the_same_augmentation(augmentation: dict[str, float]) -> None:
    """All frames are equal, so they are equal after the augmentation."""
    still = np.tile(np.random.default_rng(0).integers(1, 9, (1, 2, 8, 8)).astype(np.float32), (5, 1, 1, 1))
    batch = next(iter(batches(split_of(still, still), AugmentationConfig(**augmentation), batch_size=2)(0, 1)))
    assert torch.equal(batch.images, batch.images[:1].expand(5, -1, -1, -1, -1))
    assert not torch.equal(batch.images[0, 0], torch.from_numpy(still[0]))
    if "flip" in augmentation:
        assert torch.equal(batch.images[0, 0], torch.from_numpy(still[0]).flip(-1))
    if "erasing" in augmentation:
        kept = batch.images[0, 0] == torch.from_numpy(still[0])
        assert (batch.images[0, 0][~kept] == 0).all()
        assert 0 < int(kept.sum()) < kept.numel()
        assert not torch.equal(batch.images[0, 0], batch.images[0, 1])


def test_mixup_mixes_samples_with_their_labels() -> None:
    nothing, ones = np.zeros((3, 2, 8, 8)), np.ones((3, 2, 8, 8))
    mixed = batches(split_of(nothing, ones), AugmentationConfig(mixup=1.0), batch_size=2, smoothing=0.0)
    shares = []
    for batch in mixed(0, 4):
        assert batch.images.shape == (3, 2, 2, 8, 8)
        share = batch.images[0, :, 0, 0, 0]
        torch.testing.assert_close(batch.images, share[None, :, None, None, None].expand(3, 2, 2, 8, 8))
        torch.testing.assert_close(batch.targets[:, 1], share)  # the weight of class 1 equals that of its sample
        shares.append(round(float(share[0]), 6))
    assert len(set(shares)) == 4


def test_cutmix_replaces_the_same_rectangle_of_all_frames() -> None:
    nothing, ones = np.zeros((3, 2, 8, 8)), np.ones((3, 2, 8, 8))
    mixed = batches(split_of(nothing, ones), AugmentationConfig(cutmix=1.0), batch_size=2, smoothing=0.0)
    shares = []
    for batch in mixed(0, 6):
        assert torch.equal(batch.images, batch.images[:1, :, :1].expand(3, -1, 2, -1, -1))
        first = batch.images[0, 0, 0]
        assert set(first.unique().tolist()) <= {0.0, 1.0}  # replaced, not mixed
        torch.testing.assert_close(batch.targets[:, 1], batch.images[0, :, 0].mean(dim=(1, 2)))
        shares.append(float(first.mean()))
    assert len(set(shares)) > 3


@pytest.mark.parametrize("mix", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_mix_probability_is_the_fraction_of_mixed_batches(mix: dict[str, float]) -> None:
    nothing, ones = np.zeros((3, 2, 8, 8)), np.ones((3, 2, 8, 8))
    augmentation = AugmentationConfig(mix_probability=0.5, **mix)
    mixed = batches(split_of(nothing, ones), augmentation, batch_size=2, smoothing=0.0)
    touched = sum(0 < float(batch.targets[0, 0]) < 1 for batch in mixed(0, 60))
    assert 15 < touched < 45


def test_mixing_ends_after_its_epochs() -> None:
    """Three steps an epoch, two epochs with mixing; then only the labels are smoothed."""
    frames = [np.full((2, 2, 8, 8), value) for value in range(1, 7)]
    mixed = batches(split_of(*frames), AugmentationConfig(mixup=1.0, mix_epochs=2), batch_size=2, smoothing=0.2)
    shown = list(mixed(0, 9))
    assert [float(batch.images.max()).is_integer() for batch in shown] == [False] * 6 + [True] * 3
    assert [float(batch.targets.max()) for batch in shown[6:]] == pytest.approx([0.9] * 3)
    assert [equal_batches(a, b) for a, b in zip(mixed(4, 9), list(mixed(0, 9))[4:], strict=True)] == [True] * 5


@pytest.mark.parametrize("policy", [{"auto_augment": "rand-m5-n2-inc1"}, {"color_jitter": 0.4}])
def test_augmentation_policies_for_images_are_rejected(policy: dict[str, Any]) -> None:
    split = split_of(np.zeros((3, 2, 8, 8)), np.zeros((3, 2, 8, 8)))
    with pytest.raises(UserError, match=f"augmentation.{next(iter(policy))}: not available for event frames") as error:
        next(iter(batches(split, AugmentationConfig(**policy))(0, 1)))
    assert "\n" not in str(error.value)


def of_one_class(root: Path) -> None:
    frames_folder(root, {"clap": 5})
    (root / "wave").mkdir()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda _root: None, "is not a folder"),
        (lambda root: root.mkdir(), r"is not a valid folder of event frames \(root/CLASS/frames.npz\)"),
        (of_one_class, "no valid file for the classes wave"),
        (lambda root: frames_folder(root, {"clap": 1, "wave": 5}), "in 2 classes, the smallest of which has 1; both parts"),
        (lambda root: frames_folder(root / "train", {"clap": 5}), "neither test/ nor val/"),
    ],
)
def test_an_invalid_folder_is_a_one_line_error(tmp_path: Path, build: Any, message: str) -> None:
    build(tmp_path / "frames")
    with pytest.raises(UserError, match=message) as error:
        events(tmp_path / "frames")
    assert "\n" not in str(error.value)


def test_events_need_a_root() -> None:
    with pytest.raises(UserError, match=r"data\.root: required for data\.name events"):
        load_images(DataConfig(name="events", image_size=8), seed=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 8, 8), r"4 channels .*if it is \[C, T, H, W\], write frames.transpose\(1, 0, 2, 3\).*data.channels to 4"),
        ((1, 3, 8, 8), r"if it is \[C, T, H, W\]"),
        ((4, 8, 8, 2), r"if it is \[T, H, W, C\], write frames.transpose\(0, 3, 1, 2\)"),
        ((2, 16, 8, 8), r"if it is \[C, T, H, W\]"),
        ((8, 16, 8, 8), "16 channels .*more than 4"),
    ],
)
def test_shapes_that_may_be_in_another_order_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_channels(Path("a.npz"), shape, "auto")
    check_channels(Path("a.npz"), shape, shape[1])


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (2, 2, 8, 8), (1, 2, 8, 8), (1, 1, 8, 8), (4, 3, 8, 8), (3, 4, 8, 8)])
def test_usual_shapes_of_frames(shape: tuple[int, ...]) -> None:
    check_channels(Path("a.npz"), shape, "auto")


FRAMES = np.ones((4, 2, 8, 8))
BAD_FILES = {
    "wrong key": (lambda path: np.savez(path, t=FRAMES, x=FRAMES), "no array `frames`, only 't', 'x'; .* not events"),
    "empty archive": (lambda path: np.savez(path), "no array `frames`, only nothing"),
    "wrong rank": (lambda path: np.savez(path, frames=FRAMES[0]), r"shape \[T, C, H, W\], got float64 of shape \[2, 8, 8\]"),
    "no frames": (lambda path: np.savez(path, frames=FRAMES[:0]), r"of shape \[0, 2, 8, 8\]"),
    "text": (lambda path: np.savez(path, frames=FRAMES.astype(str)), "must be numbers"),
    "objects": (lambda path: np.savez(path, frames=FRAMES.astype(object)), "allow_pickle=False"),
    "not finite": (lambda path: np.savez(path, frames=FRAMES * np.nan), "not finite"),
    "too large": (lambda path: np.savez(path, frames=FRAMES * 1e300), "not finite"),
    "other steps": (
        lambda path: np.savez(path, frames=FRAMES[:3]),
        "3 frames with 2 channels, but the first file .* 4 frames with 2",
    ),
    "other channels": (
        lambda path: np.savez(path, frames=FRAMES[:, :1]),
        "4 frames with 1 channels, but the first file .* 4 frames with 2",
    ),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "no archive": (lambda path: path.write_bytes(b"frames"), "cannot be read"),
    "a bare array": (lambda path: np.save(path.open("wb"), FRAMES), "cannot be read"),
    "gone": (lambda path: path.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_invalid_file_is_named_when_it_is_read(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_FILES[name]
    root = frames_folder(tmp_path / "frames", CLASSES)
    images = events(root)
    spoil(root / "wave" / "9.npz")
    split = next(split for split in images.splits.values() if 29 in split.indices)
    others = replace(split, indices=tuple(i for i in split.indices if i != 29))
    for position in range(len(others.indices)):
        others.image(position)
    with pytest.raises(UserError, match=message) as error:
        split.image(split.indices.index(29))
    assert str(error.value).startswith(str(root / "wave" / "9.npz"))
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_detected(tmp_path: Path) -> None:
    """With random overwritten bytes, either the original frames are read or the file is named in an error."""
    root = frames_folder(tmp_path / "frames", CLASSES)
    split = events(root).splits["train"]
    path, position = root / "clap" / f"{split.indices[0]}.npz", 0
    whole, frames, rng = path.read_bytes(), image_tensor(split, position), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            assert torch.equal(image_tensor(split, position), frames)
        except UserError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("workers", [0, 1])
def test_an_invalid_file_in_training_is_a_one_line_error_with_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    root = frames_folder(tmp_path / "frames", CLASSES)
    train = events(root).splits["train"]
    for path in root.glob("*/*.npz"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^\S+\.npz: event frames cannot be read") as error:
        next(iter(batches(train, workers=workers)(0, 1)))
    assert "\n" not in str(error.value)


def test_more_time_steps_than_frames_are_rejected(tmp_path: Path) -> None:
    images = events(frames_folder(tmp_path / "frames", CLASSES))
    images.check_time_steps(4)
    with pytest.raises(UserError, match=r"5 steps, but the samples under data\.root have 4 event frames") as error:
        images.check_time_steps(5)
    assert "\n" not in str(error.value)
    replace(images, time_steps=None).check_time_steps(100)  # a still image has no limit


SHORTCUTS = {"spikformer": "sew", "spike_driven": "membrane"}


def open_setup(tmp_path: Path, family: str, image_size: int = 8) -> Setup:
    stage = {
        "embed_dim": [8, 16],
        "embedding": {"stride": 4},
        "depth": [1, 2],
        "block": {"num_heads": 1, "mlp_ratio": [1, 2]},
    }
    root = frames_folder(tmp_path / "frames", {"clap": 30, "wave": 30})
    experiment = Experiment.model_validate(
        {
            "device": "cpu",
            "space": {"family": family, "shortcut": SHORTCUTS[family], "time_steps": [2, 3], "stages": [stage]},
            "data": {"name": "events", "root": root, "image_size": image_size, "search_share": 0.3, "test_share": 0.1},
            "training": {"epochs": 1, "batch_size": 18, "warmup_epochs": 0, "augmentation": {"flip": 0.5, "mixup": 0.2}},
            "evaluation": {"calibration_images": 20, "calibration_batch_size": 10, "batch_size": 4},
        }
    )
    (tmp_path / "run").mkdir()
    return open_run(RunDirectory(folder=tmp_path / "run", experiment=experiment))


@pytest.mark.parametrize("family", SHORTCUTS)
def test_a_supernet_trains_on_events_and_its_subnets_are_measured(tmp_path: Path, family: str) -> None:
    setup = open_setup(tmp_path, family)
    space, received = setup.experiment.search_space, list[Event]()
    folder, config = tmp_path / "run" / "supernet", setup.experiment.training
    batches, network = training_batches(setup), build_supernet(setup, space)
    train(network, batches, config, Checkpoints(folder=folder), received.append, seed=setup.training_seed)
    assert sum(isinstance(event, StepEvent) for event in received) == 2
    supernet = load_trained_supernet(setup, space, tmp_path / "run" / "supernet")
    assert supernet.in_chans == 2
    measured = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))
    for architecture in (space.largest(), space.smallest()):
        (found,) = measured([architecture])
        assert found.images == 18
        first = found.counts[0]
        assert (first.input, first.time_steps) == ("integer", architecture.time_steps)  # counts are accumulated
        for batch_size in (1, 5, 17, 18, 100):
            smaller = EvaluationConfig(**{**measured.config.model_dump(), "batch_size": batch_size})
            (again,) = replace(measured, config=smaller)([architecture])
            assert again == found


def test_the_first_time_steps_read_the_first_frames(tmp_path: Path) -> None:
    setup = open_setup(tmp_path, "spikformer")
    space = setup.experiment.search_space
    model = calibrated_subnet(setup, build_supernet(setup, space), space.largest())
    search = fixed_batches(setup, setup.images.splits["search"])
    (batch,) = search(100)
    changed = batch.images.clone()
    changed[3:] = 0
    with torch.no_grad():
        assert torch.equal(model(batch.images), model(changed))
        assert not torch.equal(model(batch.images), model(changed.flip(0)))
    first = measure(model, search, batch_size=18).counts[0]
    assert first.rate == pytest.approx(batch.images[:3].mean(dim=(1, 2, 3, 4)).tolist())


def test_resized_counts_are_multiplied(tmp_path: Path) -> None:
    setup = open_setup(tmp_path, "spikformer", image_size=6)
    space = setup.experiment.search_space
    model = calibrated_subnet(setup, build_supernet(setup, space), space.smallest())
    found = [measure(model, held_out_batches(setup), batch_size=n) for n in (2, 6)]
    assert found[0] == found[1]
    assert found[0].counts[0].input == "real"
