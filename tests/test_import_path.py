"""The user's own modules and functions that raise an error: one line with its type, file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import one_line_error

from autospike import import_path
from autospike.config import DataConfig
from autospike.data.loading import load_images


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_broken_module.py").write_text("x = 1\n1 / 0\n")
    (tmp_path / "own_wrong_syntax.py").write_text("def f(:\n")
    (tmp_path / "own_functions.py").write_text("def images(config):\n    raise KeyError(config.name)\n")
    monkeypatch.chdir(tmp_path)


def test_a_module_that_raises() -> None:
    message = one_line_error(lambda: import_path.load("own_broken_module:x", source="data.name"))
    assert message.startswith("data.name: own_broken_module:x: the import raised ZeroDivisionError: division by zero (")
    assert message.endswith("own_broken_module.py:2)")


def test_a_module_that_is_not_python() -> None:
    assert "raised SyntaxError" in one_line_error(lambda: import_path.load("own_wrong_syntax:f", source="data.name"))


def test_a_module_of_too_many_packages() -> None:
    path = f"{'email.' * 1500}mime:x"
    assert "data.name: email.email" in one_line_error(lambda: import_path.load(path, source="data.name"))


def test_a_function_that_raises() -> None:
    config = DataConfig(name="own_functions:images", image_size=4)
    message = one_line_error(lambda: load_images(config, seed=0))
    assert message.startswith("data.name: own_functions:images raised KeyError: 'own_functions:images' (")
    assert message.endswith("own_functions.py:2)")
