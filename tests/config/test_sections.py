"""Every number of an experiment has a lower and an upper bound; paths are checked when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import pytest
import yaml
from builders import edited, one_line_error
from pydantic.fields import FieldInfo
from tiny_experiment import TINY_EXPERIMENT, TINY_SPACE

from autospike.config import Experiment
from autospike.config.fields import Section


def _numbers(section: type[Section], path: str = "") -> Iterator[tuple[str, type, list[Any]]]:
    """Path, type and constraints of every number below a section."""
    for name, field in section.model_fields.items():
        yield from _of_type(field.annotation, list(field.metadata), f"{path}{name}")


def _of_type(annotation: Any, constraints: list[Any], path: str) -> Iterator[tuple[str, type, list[Any]]]:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        flat = [c for m in more for c in (m.metadata if isinstance(m, FieldInfo) else [m])]
        yield from _of_type(inner, [*constraints, *flat], path)
    elif get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from _of_type(option, constraints, path)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield from _numbers(annotation, f"{path}.")
    elif annotation in (int, float):
        yield path, annotation, constraints


NUMBERS = list(_numbers(Experiment))


def bounds(constraints: list[Any]) -> tuple[float | None, float | None]:
    """The lower and the upper bound."""
    low = [c.ge for c in constraints if isinstance(c, annotated_types.Ge)] + [
        c.gt for c in constraints if isinstance(c, annotated_types.Gt)
    ]
    high = [c.le for c in constraints if isinstance(c, annotated_types.Le)] + [
        c.lt for c in constraints if isinstance(c, annotated_types.Lt)
    ]
    return next(iter(low), None), next(iter(high), None)  # type: ignore[return-value]


def test_numbers_are_found() -> None:
    names = [path for path, _, _ in NUMBERS]
    assert len(names) > 40
    assert {"seed", "threads", "data.image_size", "training.learning_rate", "training.augmentation.mixup"} <= set(names)


@pytest.mark.parametrize(("path", "kind", "constraints"), NUMBERS, ids=[path for path, _, _ in NUMBERS])
def test_every_number_has_both_bounds(path: str, kind: type, constraints: list[Any], tmp_path: Path) -> None:
    low, high = bounds(constraints)
    assert low is not None
    assert high is not None
    outside = (low - 1, high + 1, *((float("nan"), float("inf"), -float("inf"), 1e308) if kind is float else (2**63, 2**64 - 1)))
    for value in outside:
        assert path in one_line_error(lambda value=value: load(tmp_path, path, value))  # type: ignore[misc]


def load(tmp_path: Path, field: str, value: object) -> Experiment:
    section, dot, name = field.rpartition(".")
    written: Any = yaml.safe_load(yaml.safe_dump(TINY_EXPERIMENT))
    target = written
    for key in section.split(".") if dot else []:
        target = target.setdefault(key, {})
    target[name] = value
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(written))
    return Experiment.load(path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("data.normalisation", {"mean": [0], "std": [1e-320]}, "data.normalisation.std[0]: input should be greater than or equal"),
        ("data.normalisation", {"mean": [0], "std": [1e39]}, "data.normalisation.std[0]: input should be less than or equal"),
        ("data.normalisation", {"mean": [-1e39], "std": [1]}, "data.normalisation.mean[0]: input should be greater than or equal"),
        ("data.root", "", "an empty path"),
        ("data.root", "/proc", "a folder of the system"),
        ("data.root", "/proc/self", "a folder of the system"),
        ("data.root", "/", "a folder of the system"),
        ("data.root", "/sys/kernel", "a folder of the system"),
        ("data.root", "a\0b", "control characters"),
        ("data.root", "x" * 5000, "5,000 characters"),
        ("training.start_from", "a\nb", "control characters"),
        ("training.start_from", "", "an empty path"),
        ("export.pick", "", "at least 1 character"),
        ("export.pick", "x" * 5000, "at most 1000 characters"),
        ("data.name", [["folder"]] * 1000, "data.name"),
    ],
)
def test_paths_and_words(field: str, value: object, words: str, tmp_path: Path) -> None:
    message = one_line_error(lambda: load(tmp_path, field, value))
    assert field in message
    assert words in message
    assert len(message) < 500


def test_a_link_to_a_folder_of_the_system_is_one_as_well(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/proc")
    assert "a folder of the system" in one_line_error(lambda: load(tmp_path, "data.root", str(tmp_path / "data")))


def test_activations_that_cannot_be_stored(tmp_path: Path) -> None:
    """1024 steps of 65,536 images at 2 x 2 positions of width 16: 2^10 * 2^16 * 4 * 16 = 2^32 values are allowed."""
    space = edited(TINY_SPACE, "time_steps", [1024])
    path = tmp_path / "experiment.yaml"
    written = edited(edited(TINY_EXPERIMENT, "space", space), "evaluation.batch_size", 65_536)
    path.write_text(yaml.safe_dump(written))
    assert Experiment.load(path).evaluation.batch_size == 65_536
    message = one_line_error(lambda: Experiment.load(path, ["data.image_size=24"]))
    # By hand: 24 / 4 = 6 positions in both directions, 1024 * 65536 * 36 * 16.
    assert "evaluation.batch_size: 65536 x 1024 frames of 24 x 24 pixels give activations of 38,654,705,664 values" in message
