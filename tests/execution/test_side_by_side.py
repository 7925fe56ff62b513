"""Jobs in processes of their own: messages, errors, signals, killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from sending_jobs import Count, Kill, Note, Raise, Train, WaitFor

from autospike.errors import Interrupted, UserError
from autospike.execution.side_by_side import SendingJob, run_side_by_side

TESTS = Path(__file__).parents[1]


def messages(jobs: list[SendingJob], at_once: int = 2) -> list[Any]:
    found: list[Any] = []
    run_side_by_side(jobs, at_once=at_once, receive=found.append)
    return found


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_each_job_has_a_process_whose_messages_arrive_in_order() -> None:
    found = messages([Count("a", 300), Count("b", 300), Count("c", 2)])
    of = {name: [number for other, number in found if other == name] for name in "abc"}
    assert [of[name][:-1] for name in "abc"] == [list(range(300)), list(range(300)), [0, 1]]
    pids = {numbers[-1] for numbers in of.values()}
    assert len(pids) == 3
    assert not any(map(exists, pids))


def test_jobs_run_at_the_same_time_as_many_as_allowed(tmp_path: Path) -> None:
    """The first two end when both have begun. The third begins after that."""
    shared = tmp_path / "file"

    def receive(message: Any) -> None:
        found.append(message)
        if len(found) == 2:
            shared.touch()

    found: list[Any] = []
    run_side_by_side([WaitFor(shared), WaitFor(shared), Count("c", 0)], at_once=2, receive=receive)
    assert found[:2] == ["waits", "waits"]
    assert len(found) == 3


def test_notes_of_a_job_are_messages_and_its_progress_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert messages([Note("a [b] c")]) == ["a [b] c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [UserError("the loss is not finite"), MemoryError("batches")])
def test_an_error_is_raised_when_the_other_jobs_have_ended_in_order(tmp_path: Path, error: Exception) -> None:
    begun: list[int] = []
    with pytest.raises(type(error), match=str(error)):
        run_side_by_side([Train(tmp_path / "a"), Raise(error), Count("c", 1)], at_once=2, receive=begun.append)
    # Before the other process has begun its training, it ends at once.
    assert (tmp_path / "a").exists() == bool(begun)
    assert len(begun) <= 1
    assert not any(map(exists, begun))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGKILL, BrokenProcessPool), (signal.SIGUSR1, UserError)])
def test_a_process_that_another_one_ends_is_an_error(number: signal.Signals, error: type[Exception]) -> None:
    found: list[Any] = []
    with pytest.raises(error):
        run_side_by_side([Kill(number)], at_once=2, receive=found.append)
    assert found == ["dies"]


def test_an_error_of_the_receiver_kills_the_processes(tmp_path: Path) -> None:
    pids: list[int] = []

    def receive(message: Any) -> None:
        pids.append(message)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_side_by_side([Train(tmp_path / "a")], at_once=1, receive=receive)
    assert not exists(pids[0])
    assert not (tmp_path / "a").exists()


def test_a_signal_is_passed_on_and_no_job_starts_after_it(tmp_path: Path) -> None:
    jobs: list[SendingJob] = [Train(tmp_path / "a"), Train(tmp_path / "b"), Train(tmp_path / "c")]
    begun: list[int] = []

    def receive(message: Any) -> None:
        begun.append(message)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"^interrupted; run the same command again to resume$") as interruption:
        run_side_by_side(jobs, at_once=2, receive=receive)
    assert interruption.value.exit_code == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert not any(map(exists, begun))


SCRIPT = """
import signal, sys
from pathlib import Path
from autospike.command_errors import exit_with
from autospike.execution.side_by_side import run_side_by_side
from sending_jobs import Train
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
jobs = [Train(Path(sys.argv[1]) / name) for name in "ab"]
exit_with(lambda: run_side_by_side(jobs, at_once=2, receive=lambda pid: print(pid, flush=True)))
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start two jobs in a process group of their own; return their parent and their process ids when they have begun."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_both_jobs_write_a_checkpoint_whoever_receives_the_signal(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """A signal goes to the command, or to the whole group, as Ctrl-C does. The processes receive it once or twice."""
    process, pids = started(tmp_path)
    send(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "")
    assert err == "interrupted; run the same command again to resume\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert not any(map(exists, pids))


@pytest.mark.slow
def test_processes_end_if_their_parent_is_killed(tmp_path: Path) -> None:
    process, pids = started(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(map(exists, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
