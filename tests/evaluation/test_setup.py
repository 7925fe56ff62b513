"""The configured executor, invalid settings, and conditions for starting a worker."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_experiment import TINY_EXPERIMENT

from autospike.cli_options import ExecutorName, execution_overrides
from autospike.config import Experiment
from autospike.errors import UserError
from autospike.evaluation.setup import CreateTrieEvaluator, versions
from autospike.supernet import Supernet
from autospike.training.setup import build_supernet, open_experiment


def experiment(folder: Path, *overrides: str, **sections: dict[str, Any]) -> Experiment:
    written = deepcopy(TINY_EXPERIMENT) | sections
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(written))
    return Experiment.load(path, overrides)


def test_another_executor_resets_the_settings_of_the_previous_one(tmp_path: Path) -> None:
    """Settings of `--executor ray` do not prevent `--executor serial`."""
    recorded = {"executor": "ray", "workers": 3, "address": "10.0.0.1:6379", "gpus_per_worker": 0.5}
    found = experiment(tmp_path, *execution_overrides(executor=ExecutorName.serial), execution=recorded).execution
    assert (found.executor, found.workers, found.address, found.gpus_per_worker) == ("serial", None, None, 0.0)
    found = experiment(tmp_path, *execution_overrides(executor=ExecutorName.processes, workers=2), execution=recorded).execution
    assert (found.executor, found.workers, found.address) == ("processes", 2, None)


def test_settings_are_kept_without_another_executor(tmp_path: Path) -> None:
    recorded = {"executor": "processes", "workers": 3}
    assert experiment(tmp_path, *execution_overrides(), execution=recorded).execution.workers == 3
    assert experiment(tmp_path, *execution_overrides(workers=4), execution=recorded).execution.workers == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "execution.workers=2",
            "execution.workers: has no effect with executor serial; set execution.executor to processes or ray",
        ),
        ("execution.address=auto", "execution.address: has no effect with executor serial; set execution.executor to ray"),
        ("execution.gpus_per_worker=1", "execution.gpus_per_worker: has no effect with executor serial"),
        ("execution.executor=slurm", "execution.executor: "),
    ],
)
def test_a_setting_without_effect_is_rejected(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        experiment(tmp_path, override)
    assert message in str(caught.value)


def test_racing_is_rejected_with_other_objectives(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.racing: compares accuracy and energy only"):
        experiment(tmp_path, "evaluation.racing=3", "search.objectives=[accuracy, params]")
    assert experiment(tmp_path, "evaluation.racing=3", "search.objectives=[accuracy]").evaluation.racing == 3


@pytest.fixture
def start(tmp_path: Path) -> CreateTrieEvaluator:
    setup = open_experiment(experiment(tmp_path, "threads=1"))
    supernet = build_supernet(setup, setup.experiment.search_space)
    torch.nn.init.constant_(next(supernet.parameters()), 0.25)
    weights = {name: values.numpy() for name, values in supernet.state_dict().items()}
    return CreateTrieEvaluator(
        experiment=setup.experiment, weights=weights, fingerprint=setup.images.fingerprint, versions=versions()
    )


def test_a_worker_has_the_given_weights(start: CreateTrieEvaluator) -> None:
    supernet: Supernet = start().supernet
    assert all(torch.equal(values, torch.tensor(start.weights[name])) for name, values in supernet.state_dict().items())  # type: ignore[index]


def test_a_worker_rejects_other_images(start: CreateTrieEvaluator) -> None:
    with pytest.raises(UserError, match="a worker reads other images than the search"):
        replace(start, fingerprint="000000000000")()


def test_a_worker_rejects_other_versions(start: CreateTrieEvaluator) -> None:
    with pytest.raises(UserError, match=r"a worker has other versions \(autospike .*\) than the search \(autospike 0, torch 1\)"):
        replace(start, versions="autospike 0, torch 1")()
