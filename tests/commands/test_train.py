"""`autospike train`: damaged checkpoints, signals, torchrun."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_runner import autospike
from torch.utils.tensorboard import SummaryWriter
from trainings import bit_identical, truncate, weights

from autospike.commands.plan import fit_training
from autospike.config import Experiment
from autospike.run_directory import RunDirectory

KILLED_RANK = Path(__file__).parents[1] / "killed_rank.py"


def test_a_damaged_checkpoint_is_reported_and_trained_again(
    tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", tiny_experiment, "--run", tmp_path, "--set", "training.batch_size=512"]
    assert autospike(capsys, *arguments).code == 0
    truncate(tmp_path / "supernet" / "step-00000004.safetensors")
    outcome = autospike(capsys, *arguments)
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if "damaged" in line]
    assert line.startswith("supernet: ")
    assert line.endswith("resuming from the previous checkpoint, of step 2")
    assert "reference network: already trained, 4 steps" in outcome.out.splitlines()
    events = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    (damaged,) = [event for event in events if event["event"] == "checkpoint damaged"]
    assert line == f"supernet: {damaged['what']}"
    assert [event["from_step"] for event in events if event["event"] == "train started"] == [0, 0, 2]
    measured = next(event for event in events if event["event"] == "train")
    assert measured["images_per_second"] > 0
    assert measured["memory_mb"] > 50  # torch alone needs more


def test_a_signal_ends_the_command_with_its_exit_code(
    tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes with the last step of the reference network, so the supernet is not trained."""

    def add_scalar(_writer: SummaryWriter, name: str, _value: Any, step: int) -> None:
        if (name, step) == ("loss", 4):  # once, because a second signal ends the process
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
    outcome = autospike(capsys, "train", tiny_experiment, "--run", tmp_path, "--set", "training.batch_size=512")
    assert (outcome.code, outcome.err) == (143, "interrupted at step 4; run the same command again to resume\n")
    assert not (tmp_path / "supernet").exists()
    events = [json.loads(text)["event"] for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events == ["train started", "train", "train interrupted"]


def test_commands_other_than_train_reject_torchrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    outcome = autospike(capsys, "search", tmp_path)
    assert outcome.code == 2
    assert outcome.err.startswith("error: autospike search: 2 ranks were started")
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_training_under_torchrun_has_the_losses_of_one_process(tmp_path: Path, tiny_experiment: Path) -> None:
    """In float32, where rounding may flip single spikes, the losses differ slightly."""
    settings = ["--set", "training.batch_size=128", "--set", "device=cpu"]
    python, arguments = [sys.executable, "-m"], ["autospike", "train", str(tiny_experiment)]
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    losses = {}
    for name, launcher in {"single": python, "together": torchrun}.items():
        command = [*launcher, *arguments, "--run", str(tmp_path / name), *settings]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        events = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses[name] = [event["loss"] for event in events if event["event"] == "train"]
        assert [event["event"] for event in events if event["event"] != "train"] == ["train started", "train finished"] * 2
    assert len(losses["single"]) > 2
    assert losses["together"] == pytest.approx(losses["single"], rel=0.02)


def test_a_budget_that_is_too_small_is_refused(tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No epoch takes a millisecond."""
    outcome = autospike(capsys, "train", tiny_experiment, "--run", tmp_path / "run", "--budget", "0.001s")
    assert (outcome.code, (tmp_path / "run").exists()) == (2, False)
    assert "one epoch of both trainings takes" in outcome.err


def test_a_budget_chooses_the_epochs_of_a_new_run_only(tmp_path: Path, tiny_experiment: Path) -> None:
    experiment = Experiment.load(tiny_experiment, ["training.epochs=3"])
    chosen = fit_training(experiment, tmp_path, 1e6, begun=time.monotonic())
    assert int(chosen[0].removeprefix("training.epochs=")) > 3
    RunDirectory.start(experiment, tmp_path).save()
    assert fit_training(experiment, tmp_path, 1e6, begun=time.monotonic()) == ["training.epochs=3"]


def test_a_budget_under_torchrun_is_a_one_line_error(
    tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = autospike(capsys, "train", tiny_experiment, "--run", tmp_path / "run", "--budget", "5m")
    assert outcome.code == 2
    assert "not under torchrun" in outcome.err


@pytest.mark.slow
def test_torchrun_restarts_after_a_killed_rank_from_the_checkpoint(tmp_path: Path, tiny_experiment: Path) -> None:
    """SIGKILL of the second rank in the third epoch. Weights and optimizer state are bit-identical to the uninterrupted ones."""
    settings = ["--set", "training.epochs=4", "--set", "training.batch_size=128", "--set", "device=cpu"]
    for name in ("uninterrupted", "killed"):
        program = ["-m", "--", "autospike"] if name == "uninterrupted" else ["--", str(KILLED_RANK), str(tmp_path / "was killed")]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
        command += [*program, "train", str(tiny_experiment), "--run", str(tmp_path / name), *settings]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert (tmp_path / "was killed").exists()
    for network in ("baseline", "supernet"):
        whole, resumed = (weights(tmp_path / name / network) for name in ("uninterrupted", "killed"))
        assert bit_identical(resumed, whole)
    starts = [
        (event["network"], event["from_step"])
        for event in map(json.loads, (tmp_path / "killed" / "log.jsonl").read_text().splitlines())
        if event["event"] == "train started"
    ]
    assert [network for network, _ in starts] == ["hand-made", "supernet", "supernet"]
    assert starts[-1][1] > 0
