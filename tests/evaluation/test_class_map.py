"""Which class of the data each class of a model is: by name, by order, or by a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import one_line_error

from autospike.data.images import Split
from autospike.evaluation.class_map import class_indices, relabelled

NUMBERS, NAMES = ("0", "1", "2"), ("cat", "dog", "newt")


def written(tmp_path: Path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_equal_names_need_no_map() -> None:
    assert class_indices(NAMES, NAMES, None) == (0, 1, 2)


@pytest.mark.parametrize("classes", [NUMBERS, NAMES[::-1], NAMES[:2], (*NAMES, "owl")])
def test_other_names_are_unknown_without_a_map(classes: tuple[str, ...]) -> None:
    assert class_indices(classes, NAMES, None) is None


def test_order() -> None:
    assert class_indices(NUMBERS, NAMES, "order") == (0, 1, 2)
    assert "3 classes, the data have 2" in one_line_error(lambda: class_indices(NUMBERS, NAMES[:2], "order"))


PAIRS = [("2", "cat"), ("0", "dog"), ("1", "newt")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", json.dumps(dict(PAIRS))),
        ("map.csv", "2,cat\n0,dog\n1,newt\n"),
        ("map.csv", "class,folder\r\n2, cat\r\n\r\n0,dog\r\n1,newt"),
        ("map.csv", '\ufeff2,"cat"\n0,dog\n1,newt\n'),
    ],
)
def test_a_file(tmp_path: Path, name: str, text: str) -> None:
    assert class_indices(NUMBERS, NAMES, written(tmp_path, name, text)) == (2, 0, 1)


def test_classes_of_the_model_that_the_data_lack(tmp_path: Path) -> None:
    """As those of ImageNet that a smaller dataset leaves out."""
    classes = tuple(str(i) for i in range(1000))
    assert class_indices(classes, ("cat", "dog"), written(tmp_path, "map.csv", "281,cat\n207,dog\n")) == (281, 207)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("map.csv", "3,cat\n0,dog\n1,newt\n", "the model has no class '3'; its classes are 0, 1, 2"),
        ("map.csv", "2,owl\n0,dog\n1,newt\n", "the data have no class 'owl'; their classes are cat, dog, newt"),
        ("map.csv", "2,cat\n0,dog\n", "no class of the model is 'newt'"),
        ("map.csv", "2,cat\n0,dog\n1,newt\n0,cat\n", "two classes of the model are 'cat'"),
        ("map.csv", "0,cat\n0,dog\n1,newt\n", "one class of the model is two of the data"),
        ("map.csv", "2,cat\n0\n1,newt\n", "row 2 has 1 columns"),
        ("map.json", "[1, 2]", "must be JSON {CLASS: FOLDER}"),
        ("map.json", '{"0": 1}', "must be JSON {CLASS: FOLDER}"),
        ("map.json", "{", "not JSON"),
    ],
)
def test_a_map_that_does_not_fit(tmp_path: Path, name: str, text: str, words: str) -> None:
    assert words in one_line_error(lambda: class_indices(NUMBERS, NAMES, written(tmp_path, name, text)))


@pytest.mark.parametrize("name", ["absent.csv", "absent.json", "absent"])
def test_a_map_that_does_not_exist(tmp_path: Path, name: str) -> None:
    assert "cannot be read" in one_line_error(lambda: class_indices(NUMBERS, NAMES, str(tmp_path / name)))


def test_labels_become_those_of_the_model() -> None:
    split = Split(name="search", indices=(5, 6, 7), labels=(0, 2, 1), read=lambda _index: None)  # type: ignore[arg-type, return-value]
    assert relabelled(split, (2, 0, 1)).labels == (2, 1, 0)
