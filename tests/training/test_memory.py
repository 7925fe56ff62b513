"""A training that cannot fit into memory is refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import one_line_error
from cli_runner import autospike
from tiny_experiment import TINY_EXPERIMENT

from autospike.config import Experiment
from autospike.errors import UserError
from autospike.process import memory_limit
from autospike.training.memory import check_memory
from autospike.training.setup import Setup, open_experiment

SPACE = {"time_steps": 2, "stages": [{"embed_dim": 8, "embedding": {"stride": 4}, "depth": 1, "block": {"num_heads": 1}}]}


def setup_of(**training: Any) -> Setup:
    given = {**TINY_EXPERIMENT, "space": SPACE, "data": {"name": "digits", "image_size": 8}}
    given["training"] = {"epochs": 1, "warmup_epochs": 0, "batch_size": 64, **training}
    return open_experiment(Experiment.from_dict(given))


def smallest_sufficient(setup: Setup) -> int:
    """The least memory that is not refused, by bisection."""
    low, high = 0, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check_memory(setup, middle)
            high = middle
        except UserError:
            low = middle
    return high


def test_accumulation_divides_the_images_of_a_step() -> None:
    whole, quarter = smallest_sufficient(setup_of()), smallest_sufficient(setup_of(accumulate=4))
    assert abs(whole - 4 * quarter) <= 4  # rounded up to bytes


def test_a_step_needs_at_least_its_pixels_and_the_output_of_the_first_convolution() -> None:
    """64 grey images of 8 x 8 pixels in float32; 2 steps of at least one channel of that size."""
    pixels = 64 * 8 * 8 * 4
    assert smallest_sufficient(setup_of()) > pixels * (1 + 2 / 4)


def test_memory_that_is_enough_or_unknown_is_not_refused() -> None:
    check_memory(setup_of(), 2**30)
    check_memory(setup_of(), None)
    assert (memory_limit() or 2**30) > 2**28


def test_the_message_names_what_to_reduce() -> None:
    message = one_line_error(lambda: check_memory(setup_of(), 1000))
    assert message.startswith("data.image_size: 8: a training step of 64 images needs at least 0.0 GB for pixels and activations")
    assert "this device has 0.0 GB; reduce data.image_size, training.batch_size" in message


def test_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "experiment.yaml"
    data, training = {"name": "digits", "image_size": 4096}, {"epochs": 1, "batch_size": 256, "warmup_epochs": 0}
    path.write_text(yaml.safe_dump({**TINY_EXPERIMENT, "data": data, "training": training}))
    outcome = autospike(capsys, "train", path, "--run", tmp_path / "run")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "data.image_size: 4096: a training step of 256 images needs at least" in outcome.err
    assert not (tmp_path / "run").exists()
