"""Finalists that are fine-tuned at the same time, in processes of their own: the results of one after the other, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from builders import one_line_error
from trainings import bit_identical, truncate, weights

from autospike.commands.fine_tune import fine_tune
from autospike.commands.plan import finalists_at_once
from autospike.events import CheckpointEvent, EpochEvent, Event, StepEvent
from autospike.run_directory import RunDirectory

Capsys = pytest.CaptureFixture[str]

EPOCHS = 25
# The only checkpoints are that of a signal and the last one.
SETTINGS = (f"retrain.fine_tune_epochs={EPOCHS}", "training.checkpoint_epochs=1000")


@pytest.fixture(scope="module")
def searched(searched_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two finalists: the candidates with T = 3 have classified every image of the search split correctly."""
    folder = tmp_path_factory.mktemp("runs") / "searched"
    shutil.copytree(searched_run, folder, ignore=shutil.ignore_patterns("report", "export"))
    with closing(sqlite3.connect(folder / "archive.sqlite")) as archive:
        every = bytes([255] * 22 + [240])  # 180 bits
        archive.execute("UPDATE evaluations SET correct = images, accuracy = 1, correct_mask = ? WHERE time_steps = 3", (every,))
        archive.commit()
    return folder


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def one_after_the_other(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one after the other"
    shutil.copytree(searched, folder)
    fine_tune(RunDirectory.resume(folder, SETTINGS))
    return folder


def tuned(run: Path) -> list[Path]:
    return sorted(path.relative_to(run) for path in (run / "retrain").glob("*/fine-tuned/seed-0"))


def assert_equal_results(run: Path, expected: Path) -> None:
    """Parameters, optimizer state and measurements are bit-identical."""
    assert tuned(run) == tuned(expected)
    for folder in tuned(expected):
        assert bit_identical(weights(run / folder), weights(expected / folder))
        assert (run / folder / "measurement.json").read_bytes() == (expected / folder / "measurement.json").read_bytes()
        recipes = [json.loads((each / folder / "recipe.json").read_text()) for each in (run, expected)]
        for recipe in recipes:
            del recipe["training"]["start_from"]  # the folder of the run
        assert recipes[0] == recipes[1]


def results(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("fine-tune: ")]


@pytest.mark.slow
def test_the_results_are_those_of_trainings_one_after_the_other(run: Path, one_after_the_other: Path, capsys: Capsys) -> None:
    events: list[Event] = []
    fine_tune(RunDirectory.resume(run, SETTINGS), [events.append], at_once=2)
    printed = capsys.readouterr().out
    assert_equal_results(run, one_after_the_other)
    fine_tune(RunDirectory.resume(one_after_the_other, SETTINGS))
    assert results(printed) == results(capsys.readouterr().out)
    assert len(results(printed)) == 2
    assert printed.count("starts from") == 2

    networks = {event.network for event in events if isinstance(event, StepEvent)}
    assert networks == {f"{folder.parts[1]}/fine-tuned/0" for folder in tuned(run)}
    for network in networks:
        of = [event for event in events if getattr(event, "network", None) == network]
        steps = [event.step for event in of if isinstance(event, StepEvent)]
        assert steps == list(range(1, len(steps) + 1))
        assert [event.epoch for event in of if isinstance(event, EpochEvent)] == list(range(1, EPOCHS + 1))
        assert [(event.step, event.finished) for event in of if isinstance(event, CheckpointEvent)] == [(len(steps), True)]
        bars = [line for line in printed.splitlines() if line.startswith(f"train {network[:12]}: {len(steps)}/{len(steps)}")]
        assert len(bars) == 1
    # Both run at the same time.
    first = [event.network for event in events if isinstance(event, StepEvent)][: len(steps)]
    assert len(set(first)) == 2


@pytest.mark.parametrize(("epochs", "cores"), [(100_000, 1), (1, 2)])
def test_without_another_core_and_for_short_trainings_no_process_is_started(searched: Path, epochs: int, cores: int) -> None:
    """One epoch takes less time than starting processes."""
    assert finalists_at_once(RunDirectory.resume(searched, [f"retrain.fine_tune_epochs={epochs}"]), cores=cores) == 1


def test_long_trainings_run_at_the_same_time_unless_the_other_core_is_busy(searched: Path) -> None:
    """Whether it is depends on the machine that runs the tests."""
    assert finalists_at_once(RunDirectory.resume(searched, ["retrain.fine_tune_epochs=100000"]), cores=2) in (1, 2)


@pytest.mark.slow
def test_finished_trainings_need_no_process(one_after_the_other: Path) -> None:
    assert finalists_at_once(RunDirectory.resume(one_after_the_other, ["retrain.fine_tune_epochs=100000"]), cores=2) == 1


def test_one_at_a_time_no_other_process_starts(run: Path, capsys: Capsys) -> None:
    fine_tune(RunDirectory.resume(run, ["retrain.fine_tune_epochs=1"]))
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    trained = [(event["event"], event["network"]) for event in events if "fine-tuned" in str(event.get("network"))]
    assert [event for event, _ in trained] == ["train started", "train", "train finished"] * 2
    assert capsys.readouterr().out.count("fine-tune: ") == 2


@pytest.mark.slow
def test_an_error_in_a_process_is_one_line(run: Path) -> None:
    """The parameters of the supernet are read by the process of the training only."""
    for path in (run / "supernet").glob("step-*.safetensors"):
        truncate(path)
    assert "cannot be read" in one_line_error(lambda: fine_tune(RunDirectory.resume(run, SETTINGS), at_once=2))


@pytest.mark.slow
def test_an_error_of_a_callback_ends_the_trainings(run: Path, one_after_the_other: Path) -> None:
    def fail(_event: Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fine_tune(RunDirectory.resume(run, SETTINGS), [fail], at_once=2)
    assert_resumes(run, one_after_the_other)


COMMAND = """
import signal, sys
from pathlib import Path
from autospike.command_errors import exit_with
from autospike.process import prepare_process
prepare_process()
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
def command():
    from autospike.commands.fine_tune import fine_tune
    from autospike.run_directory import RunDirectory
    run = RunDirectory.resume(Path(sys.argv[1]), sys.argv[2:])
    with run.locked("run"):
        fine_tune(run, at_once=2)
exit_with(command)
"""


def training(run: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start the command in a process group of its own; return it and its workers, once both have logged the tenth step."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(run), *SETTINGS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(trained_steps(run)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    return process, workers


def trained_steps(run: Path) -> dict[str, int]:
    """The last logged step of each fine-tuned network."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {event["network"]: event["step"] for event in events if event["event"] == "train" and "fine-tuned" in event["network"]}


def checkpoints(run: Path) -> list[Path]:
    return [folder for folder in tuned(run) if (run / folder / "checkpoint.json").exists()]


def assert_ended(run: Path, workers: list[int]) -> None:
    """No process is left, nothing is half-written, and no training has finished."""
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    assert [path for path in run.rglob("*") if path.name.endswith(".part") or path.name.startswith(".tmp")] == []
    assert not (run / ".lock").exists()
    assert list(run.glob("retrain/*/fine-tuned/seed-0/measurement.json")) == []


def assert_resumes(run: Path, expected: Path, at_once: int = 1) -> None:
    fine_tune(RunDirectory.resume(run, SETTINGS), at_once=at_once)
    assert_equal_results(run, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg)],
)
def test_a_signal_ends_both_trainings_after_a_checkpoint(
    run: Path, number: signal.Signals, send: Callable[[int, int], None], one_after_the_other: Path
) -> None:
    """A signal goes to the command, or to the whole group, as Ctrl-C does."""
    process, workers = training(run)
    send(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "interrupted; run the same command again to resume\n")
    assert len(checkpoints(run)) == 2
    assert_ended(run, workers)
    assert_resumes(run, one_after_the_other)


@pytest.mark.slow
def test_a_killed_process_is_a_one_line_error_after_a_checkpoint_of_the_other(run: Path, one_after_the_other: Path) -> None:
    process, workers = training(run)
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert err.startswith("error: fine-tune: the process of a training was killed")
    assert len(checkpoints(run)) == 1
    assert_ended(run, workers)
    assert_resumes(run, one_after_the_other, at_once=2)


@pytest.mark.slow
def test_the_trainings_end_with_a_killed_command(run: Path, one_after_the_other: Path) -> None:
    process, workers = training(run)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert_resumes(run, one_after_the_other)
