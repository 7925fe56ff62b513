"""Classes, splits and files are found in the layouts that datasets have; what is left out is counted and named."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autospike.data.folders import FileKind, FoundFolders, describe, scan
from autospike.data.split_names import role_of, roles_of
from autospike.errors import UserError

KIND = FileKind(description="image folder", example="image.png", extensions=(".png", ".jpg"))


def fill(folder: Path, classes: Sequence[str] = "ab", count: int = 3, ending: str = "png") -> Path:
    """Write folders of classes with files that differ in content; returns the folder."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (folder / name / f"{i}.{ending}").write_bytes(f"{folder.name}/{name}/{i}".encode())
    return folder


def found(root: Path) -> FoundFolders:
    result = scan(root, KIND)
    assert all(len(f.labels) == len(f.names) == len(f.sizes) for f in result.folders)
    return result


def refused(root: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        scan(root, KIND)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("data.root: ")


TRAIN = "train Train TRAINING trainset train_set training-set seg_train trn tr train_images TrainingImages images_train train2017"
VAL = "val VAL valid Validation validation_set dev development devset seg_val val2017 validation1 valid-images"
TEST = "test Testing TEST testset test_set seg_test tst eval evaluation holdout hold-out held_out test_data testdata test2 te"
TRAIN += " Training Trainingsdaten entrainement entraînement donnees_entrainement apprentissage entrenamiento treino Treinamento"
VAL += " Validierung Validierungsdaten validación validação validazione validatie"
TEST += " Testdaten Testbilder Test-Datensatz prueba Pruebas datos_de_prueba teste"
OTHER = "cat images data trainer contest a 0 latest value devices trees train_test bullet_train test_tube"
NAMES = [(name, role) for role, names in (("train", TRAIN), ("val", VAL), ("test", TEST), (None, OTHER)) for name in names.split()]


@pytest.mark.parametrize(("name", "role"), [*NAMES, ("training data", "train"), ("", None)])
def test_names_of_splits(name: str, role: str | None) -> None:
    assert role_of(name) == role


def test_names_that_mean_splits_only_beside_each_other() -> None:
    assert roles_of(["cats_train", "cats_test"]) == {"cats_train": "train", "cats_test": "test"}
    assert roles_of(["bullet train", "test tube", "car"]) == {}
    assert roles_of(["train", "test", "train_masks", "test_masks"]) == {"train": "train", "test": "test"}


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "flat": lambda r: fill(r),
    "one level too many": lambda r: fill(r / "images"),
    "three levels too many": lambda r: fill(r / "archive" / "Data Set" / "images"),
    "a level with a readme": lambda r: (fill(r / "images"), (r / "README.md").write_text("")),
    "hidden copies beside the classes": lambda r: (fill(r), fill(r, [".ipynb_checkpoints"])),
    "hidden copies in a class": lambda r: (fill(r), fill(r / "a", [".ipynb_checkpoints"])),
    "resource forks": lambda r: (fill(r), fill(r / "__MACOSX"), (r / "a" / "._0.png").write_bytes(b"\0")),
    "thumbnails of a storage device": lambda r: (fill(r), fill(r / "a" / "@eaDir"), fill(r / "@eaDir")),
    "a hidden folder beside a single one": lambda r: (fill(r / "images"), fill(r / ".cache")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_classes_of_a_folder_without_splits(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path)
    (folder,) = found(tmp_path).folders
    assert folder.classes == ("a", "b")
    assert folder.labels == [0, 0, 0, 1, 1, 1]
    assert [Path(n).name for n in folder.names] == ["0.png", "1.png", "2.png"] * 2
    assert not any(part.startswith((".", "__", "@")) for n in folder.names for part in Path(n).parts)
    assert all((tmp_path / n).stat().st_size == size for n, size in zip(folder.names, folder.sizes, strict=True))


@pytest.mark.parametrize(
    ("training", "testing"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("TRAIN", "VAL"),
        ("train", "valid"),
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("data/train", "data/test"),
        ("train/images", "test/images"),
        ("cats_train", "cats_test"),
        ("train", "evaluation"),
        ("a dataset/Train", "a dataset/Dev"),
        ("DogsTrain", "DogsTest"),
        ("imagesTr", "imagesTs"),
        ("Trainingsdaten", "Testdaten"),
        ("entraînement", "validation"),
        ("entrai\u0302nement", "test"),  # decomposed, as on macOS
        ("Entrenamiento", "Prueba"),
        ("treino", "teste"),
    ],
)
def test_folders_of_splits(tmp_path: Path, training: str, testing: str) -> None:
    fill(tmp_path / training, count=4)
    fill(tmp_path / testing, count=2)
    train, test = found(tmp_path).folders
    assert train.classes == test.classes == ("a", "b")
    assert train.labels == [0] * 4 + [1] * 4
    assert test.labels == [0] * 2 + [1] * 2
    assert all(name.startswith(f"{training}/") for name in train.names)
    assert all(name.startswith(f"{testing}/") for name in test.names)


def test_the_test_folder_precedes_the_validation_folder(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        fill(tmp_path / name)
    (tmp_path / "seg_pred").mkdir()
    (tmp_path / "seg_pred" / "0.png").write_bytes(b"")
    result = found(tmp_path)
    assert result.folders[1].names[0] == "test/a/0.png"
    assert result.left_out == {"outside the classes": (2, "seg_pred/")}


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    fill(tmp_path, ["bus", "car", "train"])
    assert found(tmp_path).folders[0].classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda r: fill(r, "a"), r"one class \(a\); a classifier needs two or more"),
        (lambda r: fill(r / "images", "a"), "a classifier needs two or more"),
        (lambda r: (fill(r / "train", "a"), fill(r / "test", "a")), "a classifier needs two or more"),
        (lambda r: (r / "0.png").write_bytes(b""), "no class folders; found 1 outside the classes"),
        (lambda _r: None, r"is not a valid image folder \(root/CLASS/image.png\): no class folders"),
        (lambda r: (fill(r), (r / "empty").mkdir()), "no valid file for the classes empty"),
        (lambda r: fill(r, ending="gif"), r"no valid file for the classes a; found 3 \.gif \(a/0\.gif, \.\.\.\)"),
        (lambda r: fill(r, ["train", "test"]), "without class folders in them; put the files of each class"),
        (lambda r: fill(r, ["cats_train", "cats_test"]), "without class folders in them"),
        (lambda r: fill(r / "train"), r"train/ but neither test/ nor val/.* set data.root to train/"),
        (lambda r: fill(r / "Testing"), "no folder for training"),
        (lambda r: (fill(r / "test"), fill(r / "val")), "no folder for training"),
        (lambda r: (fill(r / "train"), fill(r / "Train"), fill(r / "test")), "Train/, train/, which are all for training"),
        (lambda r: (fill(r / "train"), fill(r / "test"), fill(r / "eval")), "eval/, test/, which are all for testing"),
        (lambda r: (fill(r / "train", "ab"), fill(r / "test", "abc")), "the same classes; only one of them has 'c'"),
        (lambda r: [fill(r / c, ["train", "test"]) for c in "ab"], "inside the class a; move them above the classes"),
        (
            lambda r: (fill(r / "images"), fill(r / "masks")),
            "images/, masks/, each with the folders a/, b/; splits are named train/",
        ),
        (lambda r: [fill(r / c, ["images", "masks"]) for c in "ab"], "images/, masks/ inside the class a, and would read masks"),
        (lambda r: fill(r, ["Image", "Ground_truth"]), "Image/, Ground_truth/, which are no classes"),
        (
            lambda r: [fill(r / c) for c in ("color", "grayscale", "segmented")],
            "each with the folders a/, b/; splits are named train/ and test/; rename them, or set data.root to one",
        ),
        (
            lambda r: [fill(r / f"cv{i}") for i in range(2)],
            "cv0/, cv1/, each with the folders a/, b/; .* data.root to one of them, for example cv0/",
        ),
        (lambda r: [fill(r / f"fold{i}") for i in range(7)], "fold0/, fold1/, .* and 2 more, each with the folders a/, b/"),
        (lambda r: (fill(r / "train"), (r / "test").symlink_to(r / "train")), "are the same folder"),
        (lambda r: (fill(r), (r / "c").symlink_to(r / "a")), "are the same file in two classes"),
    ],
)
def test_layouts_without_a_meaning_are_one_line(tmp_path: Path, build: Callable[[Path], object], message: str) -> None:
    build(tmp_path)
    refused(tmp_path, message)


GROUPS: dict[str, dict[str, str]] = {
    "numbers": {"0": "ab", "1": "ab", "2": "ab"},
    "another language": {"harjoitus": "abc", "koe": "abc"},
    "a class that one split lacks": {"harjoitus": "abc", "koe": "ab"},
    "patients, some with one class": {"p1": "01", "p2": "01", "p3": "01", "p4": "0"},
}


@pytest.mark.parametrize("name", GROUPS)
def test_folders_with_the_same_subfolders_are_no_classes(tmp_path: Path, name: str) -> None:
    for group, classes in GROUPS[name].items():
        fill(tmp_path / group, classes)
    first, shown = next(iter(GROUPS[name])), "0/, 1/" if name.startswith("patients") else "a/, b/"
    refused(tmp_path, rf"has {first}/, .*, each with the folders {shown}.*; splits are named train/ and test/; rename them, or set")


def test_a_file_beside_the_classes_of_a_group_does_not_make_it_a_class(tmp_path: Path) -> None:
    for group in ("one", "two", "three"):
        fill(tmp_path / group)
    (tmp_path / "one" / "preview.png").write_bytes(b"preview")
    refused(tmp_path, "each with the folders a/, b/")


SUBFOLDERS: dict[str, dict[str, Sequence[str]]] = {
    "of their own": {"cat": ["indoor", "garden"], "dog": ["street", "beach"]},
    "one each": {"cat": ["images"], "dog": ["images"]},
    "one in common": {"cat": ["1", "2", "3"], "dog": ["3", "4", "5"]},
    "one class only": {"cat": ["indoor", "outdoor"], "dog": [""]},
}


@pytest.mark.parametrize("name", SUBFOLDERS)
def test_subfolders_belong_to_their_class(tmp_path: Path, name: str) -> None:
    for label, subfolders in SUBFOLDERS[name].items():
        fill(tmp_path / label, subfolders)
    (folder,) = found(tmp_path).folders
    assert folder.classes == ("cat", "dog")
    assert folder.labels == [i for i, inside in enumerate(SUBFOLDERS[name].values()) for _ in range(3 * len(inside))]


def test_files_beside_equal_subfolders_are_of_classes(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / label, ["", "indoor", "outdoor"])
    assert found(tmp_path).folders[0].classes == ("cat", "dog")


@pytest.mark.parametrize("classes", [("color", "mask"), ("label_a", "label_b"), ("TestTube", "TrainCar")])
def test_names_of_classes_that_resemble_parts_and_splits(tmp_path: Path, classes: tuple[str, str]) -> None:
    fill(tmp_path, classes)
    assert found(tmp_path).folders[0].classes == classes


def test_the_order_is_that_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    for name in ("b", "a", "a/x", "a/x-y", "a/x/z", "B", "10", "9"):
        fill(tmp_path / name, [""])
    theirs = ImageFolder(str(tmp_path))
    (ours,) = found(tmp_path).folders
    assert ours.names == tuple(Path(path).relative_to(tmp_path).as_posix() for path, _ in theirs.samples)
    assert ours.labels == theirs.targets
    assert list(ours.classes) == theirs.classes


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, count=6)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    result = found(tmp_path)
    assert len(result.folders[0].names) == 12
    assert result.left_out == {"link to a file read elsewhere": (2, "a/up/")}


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/sys", "/dev", "/"])
def test_a_link_to_a_folder_of_the_system_is_not_followed(tmp_path: Path, target: str) -> None:
    """Below /proc/self/root is the whole file system."""
    fill(tmp_path)
    (tmp_path / "a" / "system").symlink_to(target)
    (tmp_path / "system").symlink_to(target)
    result = found(tmp_path)
    assert result.folders[0].classes == ("a", "b")
    assert result.left_out == {"link to a folder of the system": (2, "system")}


def test_links_to_one_another_end(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "a" / "x").symlink_to(tmp_path / "a" / "y")
    (tmp_path / "a" / "y").symlink_to(tmp_path / "a" / "x")
    (tmp_path / "a" / "x.png").symlink_to(tmp_path / "a" / "gone.png")
    result = found(tmp_path)
    assert len(result.folders[0].names) == 6
    assert result.left_out == {"not a regular file": (3, "a/x")}


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_with_two_names_is_read_once(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    fill(tmp_path)
    link(tmp_path / "a" / "0.png", tmp_path / "a" / "again.png")
    result = found(tmp_path)
    assert len(result.folders[0].names) == 6
    assert result.left_out == {"link to a file read elsewhere": (1, "a/again.png")}


def test_a_file_of_both_splits_is_read_for_testing(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test")
    os.link(tmp_path / "test" / "a" / "0.png", tmp_path / "train" / "a" / "also.png")
    train, test = found(tmp_path).folders
    assert "test/a/0.png" in test.names
    assert "train/a/also.png" not in train.names


def test_a_file_in_two_classes_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    os.link(tmp_path / "a" / "0.png", tmp_path / "b" / "other.png")
    refused(tmp_path, "a/0.png and .*b/other.png are the same file in two classes")


def test_classes_may_be_links(tmp_path: Path) -> None:
    fill(tmp_path / "store")
    (tmp_path / "root").mkdir()
    for name in "ab":
        (tmp_path / "root" / name).symlink_to(tmp_path / "store" / name)
    assert len(found(tmp_path / "root").folders[0].names) == 6


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fill(tmp_path)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "folder.png").mkdir()
    (tmp_path / "a" / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(tmp_path / "b")  # the path of a socket has at most 107 bytes
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(here)
    result = found(tmp_path)
    assert len(result.folders[0].names) == 6
    assert result.left_out == {"not a regular file": (4, "a/folder.png")}


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, ending="gif", count=2)
    (tmp_path / "a" / "Thumbs.DB").write_bytes(b"")
    (tmp_path / "b" / "README").write_bytes(b"")
    (tmp_path / "labels.csv").write_bytes(b"")
    (tmp_path / "b" / ".hidden.png").write_bytes(b"")
    left_out = found(tmp_path).left_out
    assert left_out == {
        "outside the classes": (1, "labels.csv"),
        ".gif": (4, "a/0.gif"),
        ".db": (1, "a/Thumbs.DB"),
        "hidden or system": (1, "b/.hidden.png"),
        "without extension": (1, "b/README"),
    }
    assert describe({".gif": (4, "a/0.gif"), ".db": (1, "a/x\n.db")}) == "4 .gif (a/0.gif, ...), 1 .db (a/x\\n.db)"


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    fill(tmp_path)
    odd = os.fsdecode(b"a\xff\n.png")
    (tmp_path / "a" / odd).write_bytes(b"")
    assert f"a/{odd}" in found(tmp_path).folders[0].names


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "a").chmod(0)
    try:
        refused(tmp_path, "cannot be read")
    finally:
        (tmp_path / "a").chmod(0o700)
