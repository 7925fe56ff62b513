"""What commands do with a run folder that is damaged, read-only or in use, and how signals end them."""

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
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from cli_runner import autospike
from read_only import run_read_only
from slow_parameters import slow_except

from autospike.command_errors import exit_with
from autospike.commands.plot import plot
from autospike.config import Experiment
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.execution.worker_process import WorkerProcess
from autospike.kernels.build import missing_kernels, use_kernels
from autospike.report import figures
from autospike.run_directory import RunDirectory
from autospike.space.architecture import digest

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    "name", slow_except(["report.json"], ["model.safetensors", "config.json", "architecture.json", "report.json"])
)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="lost"),
        pytest.param(append, id="changed", marks=pytest.mark.slow),
        pytest.param(lambda path: path.write_bytes(b""), id="empty", marks=pytest.mark.slow),
    ],
)
def test_an_export_with_a_damaged_file_is_written_again(
    run: Path, capsys: Capsys, name: str, damage: Callable[[Path], None]
) -> None:
    export = run / "moved"
    assert autospike(capsys, "export", run, "--out", export).code == 0
    before = contents(export)
    assert "already holds this subnet" in autospike(capsys, "export", run, "--out", export).out
    if (name, damage) != ("report.json", append):  # white space after JSON changes nothing
        damage(export / name)
    else:
        (export / name).write_text((export / name).read_text().replace('"test_accuracy": 0', '"test_accuracy": 1', 1))
    outcome = autospike(capsys, "export", run, "--out", export)
    assert outcome.code == 0
    assert "already holds" not in outcome.out
    after = contents(export)
    # The test split was opened once more, which the report and its digest say.
    reports = [json.loads(found.pop("report.json")) for found in (before, after)]
    digests = [json.loads(found.pop("export.json")) for found in (before, after)]
    assert reports[1].pop("test_split")["openings"] == reports[0].pop("test_split")["openings"] + 1
    for found in reports:
        found.pop("files")
    assert reports[1] == reports[0]
    assert digests[1]["files"].keys() == digests[0]["files"].keys()
    assert after == before


def test_a_lost_checkpoint_record_does_not_restart_the_training(run: Path, tiny_experiment: Path, capsys: Capsys) -> None:
    before = contents(run / "supernet")
    (run / "supernet" / "checkpoint.json").unlink()
    outcome = autospike(capsys, "search", run)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "training has not finished; run: autospike train" in outcome.err
    outcome = autospike(capsys, "train", tiny_experiment, "--run", run)
    assert outcome.code == 0
    assert "checkpoint.json: lost or damaged, rebuilt from step-" in outcome.out
    assert contents(run / "supernet") == before
    (run / "supernet" / "checkpoint.json").write_bytes(b"")
    assert autospike(capsys, "train", tiny_experiment, "--run", run, "--set", "seed=99").code == 2  # another experiment


@pytest.mark.parametrize("command", slow_except(["search", "plot"], ["search", "plot", "export"]))
def test_a_cut_experiment_is_refused(run: Path, capsys: Capsys, command: str) -> None:
    path = run / "experiment.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("search:"))]))
    assert Experiment.load(path).search.population != 6  # valid, with defaults
    before = contents(run)
    outcome = autospike(capsys, command, run)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"{path}: cut off or edited" in outcome.err
    assert contents(run) == before
    path.write_text("".join(lines[1:]))  # without its digest, as an older version wrote it
    assert autospike(capsys, command, run).code == 0


def test_candidates_without_kernels_have_a_protocol_of_their_own(finished_run: Path) -> None:
    if missing_kernels():
        pytest.skip("no C compiler here")
    run = RunDirectory.resume(finished_run)
    setup = open_for_measurement(run)
    with use_kernels("off"):
        without = protocol_id(setup, run.supernet)
    found = protocol_id(setup, run.supernet)
    assert found != without
    archived = {row[0] for row in sqlite3.connect(finished_run / "archive.sqlite").execute("SELECT protocol_id FROM evaluations")}
    assert archived == {found}


def test_the_protocol_of_all_kernels_is_that_of_earlier_versions(finished_run: Path) -> None:
    """So archives of earlier versions remain valid: by hand, from the fields that they had."""
    if missing_kernels():
        pytest.skip("no C compiler here")
    import torch

    from autospike.counting.counter import VERSION as COUNTING_VERSION
    from autospike.evaluation.calibration import VERSION as CALIBRATION_VERSION

    run = RunDirectory.resume(finished_run)
    setup = open_for_measurement(run)
    fields = {
        "weights": json.loads((finished_run / "supernet" / "checkpoint.json").read_text())["sha256"],
        "image_size": 8,
        "images": setup.images.fingerprint,
        "torch": torch.__version__,
        "calibration": [64, 64, CALIBRATION_VERSION],
        "time_steps": 3,
        "counting": COUNTING_VERSION,
        "device": setup.device.type,
        "threads": torch.get_num_threads() if setup.device.type == "cpu" else None,
    }
    assert protocol_id(setup, run.supernet) == digest(fields)


def test_a_search_without_kernels_says_so_once(run: Path, capsys: Capsys) -> None:
    with use_kernels("off"):
        outcome = autospike(capsys, "search", run, "--set", "search.generations=1")
    assert outcome.code == 0
    assert outcome.out.count("the C kernels are missing (switched off by AUTOSPIKE_KERNELS=off)") == 1
    assert outcome.err == ""


def damage_row(run: Path) -> str:
    """Make the counts of the third row unusable; return its id."""
    db = sqlite3.connect(run / "archive.sqlite")
    with db:
        db.execute("UPDATE evaluations SET counts = x'00', correct = 'x' WHERE rowid = 3")
        ((name,),) = db.execute("SELECT architecture_id FROM evaluations WHERE rowid = 3")
    db.close()
    return str(name)


def test_a_damaged_row_is_named_and_measured_again(run: Path, capsys: Capsys) -> None:
    rows = "SELECT architecture_id, correct, images, energy_mj, f_aeb, counts FROM evaluations ORDER BY architecture_id"
    before = sqlite3.connect(run / "archive.sqlite").execute(rows).fetchall()
    name = damage_row(run)
    words = f"{run / 'archive.sqlite'}: row 3 ({name}) is damaged: correct is not between 0 and images"
    for command in (["plot", run], ["export", run, "--pick", "knee"], ["search", run]):
        outcome = autospike(capsys, *command)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.count(words) == 1
    assert sqlite3.connect(run / "archive.sqlite").execute(rows).fetchall() == before
    assert "row 3" not in autospike(capsys, "plot", run).out


@pytest.mark.slow
def test_a_read_only_run_is_plotted_and_exported(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    command = [sys.executable, "-m", "autospike"]
    refused = run_read_only(run, [*command, "plot", str(run)])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert f"{run / 'report'}: you may not write here; choose another folder with --out" in refused.stderr
    for name in ("plot", "export"):
        done = run_read_only(run, [*command, name, str(run), "--out", str(tmp_path / name)])
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "plot" / "pareto.png").exists()
    assert (tmp_path / "export" / "report.json").exists()
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["training.start_from=/nowhere", "training.teacher=/nowhere"])
def test_a_refused_command_leaves_nothing_behind(tmp_path: Path, tiny_experiment: Path, capsys: Capsys, setting: str) -> None:
    outcome = autospike(capsys, "run", tiny_experiment, "--run", tmp_path / "new" / "run", "--set", setting)
    assert outcome.code == 2
    assert not list(tmp_path.iterdir())


def test_a_refused_search_leaves_the_run_as_it_was(run: Path, capsys: Capsys) -> None:
    (run / "archive.sqlite").unlink()
    shutil.rmtree(run / "baseline")
    before = contents(run)
    outcome = autospike(capsys, "search", run, "--set", "search.population=4")
    assert outcome.code == 2
    assert "training has not finished" in outcome.err
    assert contents(run) == before


# A command whose work takes a minute, in a process of its own. It prints a line when the work has begun.
SLOW = """
import signal, sys, time
from autospike import cli
from autospike.{module} import {name} as _
import autospike.{module} as module
def wait(*_args, **_kwargs):
    print("ready", flush=True)
    time.sleep(60)
module.{name} = wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
cli.main()
"""
SLOW_WORK = {"plot": ("commands.plot", "with_fitness"), "export": ("commands.export", "calibrated_subnet")}


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("plot", signal.SIGINT),
        pytest.param("plot", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("export", signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_command_with_one_line(run: Path, command: str, number: signal.Signals) -> None:
    module, name = SLOW_WORK[command]
    before = contents(run)
    program = [sys.executable, "-c", SLOW.format(module=module, name=name), command, str(run)]
    if command == "export":
        program += ["--pick", "least-energy", "--out", str(run / "other")]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("ready" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "interrupted; run the same command again to resume\n")
    assert contents(run) == before


# `plot` with a worker process, which it has only for large archives. Once the worker has work, this process waits for a minute.
WITH_A_WORKER = """
import signal, sys, time
from pathlib import Path
from autospike.command_errors import exit_with
from autospike.commands.plot import plot
from autospike.execution.worker_process import WorkerProcess
from autospike.run_directory import RunDirectory
class Busy(WorkerProcess):
    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        if getattr(args[0], "__name__", "") == "save":
            print("ready", flush=True)
            time.sleep(60)
        return future
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
exit_with(lambda: plot(RunDirectory.resume(Path(sys.argv[1])), executor=Busy(print)))
"""


def plotting(run: Path) -> tuple[subprocess.Popen[str], int]:
    """Start `plot` with a worker process; return it and the id of the worker once both are busy."""
    program = [sys.executable, "-c", WITH_A_WORKER, str(run)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert any("ready" in line for line in iter(process.stdout.readline, ""))
    (worker,) = workers_of(process.pid)
    return process, worker


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_the_worker_process_of_a_plot_is_gone_before_it_is(
    run: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """A signal goes to the command, or to the whole group, as Ctrl-C does."""
    before = contents(run)
    process, worker = plotting(run)
    send(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "interrupted; run the same command again to resume\n")
    assert not Path(f"/proc/{worker}").exists()
    assert contents(run) == before


@pytest.mark.slow
def test_the_worker_process_of_a_killed_plot_ends(run: Path) -> None:
    process, worker = plotting(run)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Killed(WorkerProcess):
    """A worker process that is killed when it has to write a figure."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if function is figures.save and args[1].name == "pareto.png":
            (worker,) = workers_of(os.getpid())
            os.kill(worker, signal.SIGKILL)
        return super().submit(function, *args, **kwargs)


@pytest.mark.slow
def test_a_plot_whose_worker_process_is_killed_changes_nothing(run: Path, capsys: Capsys) -> None:
    before = contents(run)
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: plot(RunDirectory.resume(run), executor=Killed(print)))
    err = capsys.readouterr().err
    assert (ended.value.code, len(err.splitlines())) == (2, 1)
    assert "its worker process was killed" in err
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_are_gone_before_an_interrupted_search_is(run: Path, number: signal.Signals) -> None:
    """The signal goes to the whole group, as Ctrl-C does."""
    (run / "archive.sqlite").unlink()
    settings = [word for setting in ("search.generations=1000", "search.population=24") for word in ("--set", setting)]
    command = [sys.executable, "-m", "autospike", "search", str(run), "--executor", "processes", "--workers", "2", *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    workers = until_measuring(process.pid, run)
    assert len(workers) == 2
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (128 + number, "interrupted; run the same command again to resume\n")
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    assert not (run / ".lock").exists()


def until_measuring(pid: int, run: Path) -> list[int]:
    """Wait until a search has archived candidates; return its workers, without Python's tracker of their resources."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (run / "archive.sqlite").exists():
            db = sqlite3.connect(run / "archive.sqlite", timeout=60)
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = "evaluations" in tables and db.execute("SELECT count(*) FROM evaluations").fetchone() > (0,)
            db.close()
            if found:
                return workers_of(pid)
        time.sleep(0.2)
    raise AssertionError("the search has measured nothing")


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_second_command_on_a_folder_is_refused(run: Path, capsys: Capsys, tiny_experiment: Path) -> None:
    hold = "import sys\nfrom pathlib import Path\nfrom autospike.lock import locked\n"
    hold += "with locked(Path(sys.argv[1]), 'autospike run'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = contents(run)
        for command in (["run", tiny_experiment, "--run", run], ["train", tiny_experiment, "--run", run], ["search", run]):
            outcome = autospike(capsys, *command)
            assert (outcome.code, outcome.err.count("\n")) == (2, 1)
            assert f"{run}: in use by `autospike run` (process {holder.pid} on " in outcome.err
        assert contents(run) == before
        assert autospike(capsys, "plot", run).code == 0  # reads only
    finally:
        holder.communicate("", timeout=60)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "probes.safetensors", "export.json"])
def test_an_export_over_a_folder_changes_nothing(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (run / "export" / name).unlink(missing_ok=True)
    (run / "export" / name).mkdir()
    (run / "export" / "README.md").write_text("before")
    before = contents(run / "export")
    outcome = autospike(capsys, "export", run)
    assert outcome.code == 2
    assert outcome.err == f"error: {run}/export/{name}: a folder, where a file is to be written; remove it; nothing was changed\n"
    assert contents(run / "export") == before


def test_a_training_that_cannot_write_one_file_of_the_data_writes_none(
    run: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("files.csv", "batch.png", "batch.json"):
        (run / "data" / name).unlink()
    (run / "data" / "batch.json").mkdir()
    outcome = autospike(capsys, "train", tiny_experiment, "--run", run)
    line = f"error: {run}/data/batch.json: a folder, where a file is to be written; remove it; nothing was changed\n"
    assert (outcome.code, outcome.err) == (2, line)
    assert sorted(path.name for path in (run / "data").iterdir()) == ["batch.json"]


@pytest.mark.parametrize("command", ["search", "export"])
def test_a_named_pipe_in_place_of_the_log_is_an_error_of_one_line(run: Path, capsys: Capsys, command: str) -> None:
    """Opening it to write would wait for ever."""
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    shutil.rmtree(run / "export")
    before = contents(run)
    outcome = autospike(capsys, command, run)
    line = f"error: {run}/log.jsonl: not a file; move it away\n"
    assert (outcome.code, outcome.err.splitlines(keepends=True)[-1]) == (2, line)
    assert contents(run) == before


def test_a_damaged_archive_that_is_only_read_leaves_no_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = run / "archive.sqlite"
    content = bytearray(archive.read_bytes())
    content[4096:] = bytes(len(content) - 4096)  # all pages but the first one
    archive.write_bytes(content)
    before = sorted(path.name for path in run.iterdir())
    assert autospike(capsys, "plot", run).code == 2
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_refused_training_does_not_write_an_unchanged_experiment(
    run: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run / "baseline").glob("step-*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = (run / "experiment.yaml").stat().st_mtime_ns
    assert autospike(capsys, "train", tiny_experiment, "--run", run).code == 2
    assert (run / "experiment.yaml").stat().st_mtime_ns == before


def test_a_plot_that_cannot_replace_one_file_replaces_none(run: Path, capsys: Capsys) -> None:
    (run / "report" / "genes.pdf").unlink()
    (run / "report" / "genes.pdf").mkdir()
    (run / "report" / "front.csv").write_text("before")
    before = contents(run)
    outcome = autospike(capsys, "plot", run)
    line = f"error: {run}/report/genes.pdf: a folder, where a file is to be written; remove it; nothing was changed\n"
    assert (outcome.code, outcome.err) == (2, line)
    assert contents(run) == before


def test_a_plot_that_fails_leaves_no_files_of_the_database(run: Path, capsys: Capsys) -> None:
    (run / "data.json").write_text("{")
    before = contents(run)
    outcome = autospike(capsys, "plot", run)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert contents(run) == before
