"""Executors: bit-identical results from every executor, also if workers are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from builders import one_line_error
from populations import (
    Echo,
    Fail,
    KillOnce,
    Pid,
    Refuse,
    Start,
    make_evaluator,
    make_population_evaluator,
    measure_population,
    sample,
)

from autospike.config import ExecutionConfig
from autospike.data.batches import Span
from autospike.errors import UserError
from autospike.execution.dispatch import dispatch
from autospike.execution.executor import Executor, Job, Serial
from autospike.execution.processes import Processes
from autospike.execution.worker_process import ThisProcess, WorkerProcess
from autospike.measurement import Measurement
from autospike.space.architecture import Architecture

TESTS = Path(__file__).parents[1]
NAME = "meta_spikeformer"
SHARDS = [(i, i + 4) for i in range(0, 28, 4)]


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Return whether a condition becomes true within a time limit."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Dispatch, with fake workers.


class LostError(Exception):
    """The worker died."""


@dataclass
class Fake:
    """A worker with a given outcome of each shard: a result, an exception, or none if the future never completes.

    `log`: the shards and restarts of all workers, in order.
    """

    name: int
    answers: Callable[[int, Span], Any]
    log: list[tuple[int, Any]]
    lost: tuple[type[Exception], ...] = (LostError,)
    loading: deque[Any] = field(default_factory=deque)

    def ready(self) -> Future[Any]:
        return self._future(self.loading.popleft() if self.loading else "ready")

    def submit(self, _job: Any, span: Span) -> Future[Any]:
        self.log.append((self.name, span))
        return self._future(self.answers(self.name, span))

    def restart(self) -> None:
        self.log.append((self.name, "restarted"))

    def _future(self, answer: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif isinstance(answer, threading.Timer):
            answer.function = lambda: future.set_result("late")
            answer.start()
        elif answer is not None:
            future.set_result(answer)
        return future


def fakes(count: int, answers: Callable[[int, Span], Any]) -> list[Fake]:
    log: list[tuple[int, Any]] = []
    return [Fake(i, answers, log) for i in range(count)]


def test_workers_run_their_own_shards_first() -> None:
    """Shard i belongs to worker i % 3 as long as that worker has shards left; all take equally long."""
    workers = fakes(3, lambda _n, _span: threading.Timer(0.2, print))
    assert sorted(dispatch("job", SHARDS, workers)) == [(i, "late") for i in range(7)]
    taken = {name: [span[0] // 4 for other, span in workers[0].log if other == name] for name in range(3)}
    assert [taken[name][0] for name in range(3)] == [0, 1, 2]
    assert [taken[name][1] for name in range(3)] == [3, 4, 5]


def test_an_idle_worker_runs_shards_that_others_have_not_started() -> None:
    """The worker of the second shard never completes it."""
    workers = fakes(2, lambda _name, span: threading.Timer(0.3, print) if span == SHARDS[1] else span)
    found = dict(dispatch("job", SHARDS, workers))
    assert found == {**dict(enumerate(SHARDS)), 1: "late"}
    hanging = next(name for name, span in workers[0].log if span == SHARDS[1])
    assert [span for name, span in workers[0].log if name == hanging][-1] == SHARDS[1]


def test_more_workers_than_shards() -> None:
    assert sorted(dispatch("job", SHARDS[:2], fakes(5, lambda _n, span: span))) == [(0, (0, 4)), (1, (4, 8))]


def test_a_worker_process_is_another_one_and_is_killed_when_it_is_shut_down() -> None:
    with WorkerProcess(print) as executor:
        pid = executor.submit(os.getpid).result()
        assert pid != os.getpid()
        assert executor.submit(divmod, 7, 2).result() == (3, 1)
        discarded = [executor.submit(time.sleep, 60) for _ in range(2)]
    assert not is_alive(pid)
    for future in discarded:
        with pytest.raises((BrokenProcessPool, CancelledError)):
            future.result()
    executor.shutdown()


def test_the_executor_of_this_process_runs_at_once() -> None:
    done: list[int] = []
    with ThisProcess() as executor:
        future = executor.submit(done.append, 3)
        assert (done, future.done(), future.result()) == ([3], True, None)
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0)


def test_no_shards() -> None:
    assert list(dispatch("job", [], fakes(2, lambda _n, span: span))) == []


def test_the_shard_of_a_lost_worker_runs_again() -> None:
    deaths = deque([LostError(), LostError()])
    workers = fakes(2, lambda _n, span: deaths.popleft() if span == SHARDS[2] and deaths else span)
    assert sorted(dispatch("job", SHARDS, workers)) == list(enumerate(SHARDS))
    assert [what for _, what in workers[0].log].count("restarted") == 2
    assert [what for _, what in workers[0].log].count(SHARDS[2]) == 3


def test_a_shard_whose_workers_always_die_is_an_error() -> None:
    workers = fakes(2, lambda _n, span: LostError() if span == SHARDS[2] else span)
    message = one_line_error(lambda: list(dispatch("job", SHARDS, workers)))
    assert message.startswith("3 workers died on images 8 to 12, ")
    assert "evaluation.batch_size" in message
    assert [what for _, what in workers[0].log].count(SHARDS[2]) == 3


def test_each_shard_may_lose_two_workers() -> None:
    """Lost workers are counted per shard."""
    deaths = {span: deque([LostError(), LostError()]) for span in SHARDS}
    workers = fakes(3, lambda _n, span: deaths[span].popleft() if deaths[span] else span)
    assert sorted(dispatch("job", SHARDS, workers)) == list(enumerate(SHARDS))


def test_workers_that_always_die_while_they_load_are_an_error() -> None:
    workers = fakes(1, lambda _n, span: span)
    workers[0].loading.extend(LostError() for _ in range(3))
    assert one_line_error(lambda: list(dispatch("job", SHARDS, workers))).startswith("3 workers died while they loaded")


def test_an_error_of_the_job_is_raised_as_it_is() -> None:
    error = UserError("no such image")
    with pytest.raises(UserError) as caught:
        list(dispatch("job", SHARDS, fakes(2, lambda _n, span: error if span == SHARDS[3] else span)))
    assert caught.value is error


def test_a_worker_that_does_not_answer_counts_as_lost() -> None:
    outcomes_of_first_shard = deque([None])
    workers = fakes(
        2, lambda _n, span: outcomes_of_first_shard.popleft() if span == SHARDS[1] and outcomes_of_first_shard else span
    )
    started = time.monotonic()
    assert sorted(dispatch("job", SHARDS, workers, lost_after_seconds=0.2)) == list(enumerate(SHARDS))
    assert 0.2 <= time.monotonic() - started < 2
    silent_worker = next(name for name, what in workers[0].log if what == SHARDS[1])
    assert (silent_worker, "restarted") in workers[0].log


def test_a_slow_worker_is_waited_for() -> None:
    slow = deque([threading.Timer(0.1, print), threading.Timer(0.6, print)])
    workers = fakes(1, lambda _n, span: slow.popleft() if slow else span)
    assert dict(dispatch("job", SHARDS[:2], workers)) == {0: "late", 1: "late"}
    assert "restarted" not in [what for _, what in workers[0].log]


# Executors.


@pytest.fixture(scope="module")
def population() -> list[Architecture]:
    """Also with early exit: the outputs differ little before training, so that small margins decide."""
    whole = sample(make_evaluator(NAME).supernet.space, 3, by_products=True)
    return [
        *whole,
        *(replace(a, exit_margin=margin) for a in [a for a in whole if a.time_steps > 1][:2] for margin in (0.01, 0.05)),
    ]


@pytest.fixture(scope="module")
def expected(population: list[Architecture]) -> list[Measurement]:
    return measure_population(make_evaluator(NAME), population)


@dataclass
class WithChangedJobs:
    """An executor that passes changed jobs to another executor."""

    inner: Executor
    change: Callable[[Job], Job]

    @property
    def workers(self) -> int:
        return self.inner.workers

    def run(self, job: Job, shards: Sequence[Span]) -> Iterator[tuple[int, Any]]:
        return self.inner.run(self.change(job), shards)

    def close(self) -> None:
        self.inner.close()


def measured(executor: Executor, population: list[Architecture], **config: Any) -> list[Measurement]:
    return list(make_population_evaluator(executor, **config)(population))


class ExecutorContract:
    """Behaviour of every executor."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_every_shard_has_one_result(self, executor: Executor) -> None:
        assert sorted(executor.run(Echo(), SHARDS)) == [(i, (3, span)) for i, span in enumerate(SHARDS)]
        assert list(executor.run(Echo(), [])) == []

    @pytest.mark.parametrize("error", [UserError("images are gone"), ValueError("odd"), KeyError("stages.0")])
    def test_an_error_of_the_job_is_raised_as_it_is(self, executor: Executor, error: Exception) -> None:
        with pytest.raises(type(error)) as caught:
            list(executor.run(Fail(error, SHARDS[3][0]), SHARDS))
        assert type(caught.value) is type(error)
        assert caught.value.args == error.args

    def test_an_executor_works_after_an_error(self, executor: Executor) -> None:
        with pytest.raises(ValueError, match="odd"):
            list(executor.run(Fail(ValueError("odd"), 0), SHARDS))
        assert dict(executor.run(Echo(), SHARDS)) == {i: (3, span) for i, span in enumerate(SHARDS)}

    def test_measurements_equal_those_of_one_process(
        self, executor: Executor, population: list[Architecture], expected: list[Measurement]
    ) -> None:
        assert measured(executor, population) == expected
        assert measured(executor, population[::-1], batch_size=4) == expected[::-1]

    def test_successive_halving_drops_the_same_candidates(self, executor: Executor, population: list[Architecture]) -> None:
        assert measured(executor, population, racing=0.05) == measured(Serial(state=make_evaluator(NAME)), population, racing=0.05)


class WorkersContract(ExecutorContract):
    """Behaviour of every executor with worker processes."""

    @pytest.mark.slow
    def test_measurements_do_not_change_if_a_worker_is_killed(
        self, executor: Executor, population: list[Architecture], expected: list[Measurement], tmp_path: Path
    ) -> None:
        marker = tmp_path / "killed"
        assert measured(WithChangedJobs(executor, lambda job: KillOnce(job, 10, marker)), population) == expected
        assert marker.exists()

    @pytest.mark.slow
    def test_workers_run_concurrently(self, executor: Executor) -> None:
        """After all have created their state, which includes importing torch on a machine that may be busy."""
        assert within(180, lambda: len({pid for _, pid in executor.run(Pid(), SHARDS)} - {os.getpid()}) == 2)

    @pytest.mark.slow
    def test_a_worker_killed_while_idle_is_replaced(self, executor: Executor) -> None:
        pids = {pid for _, pid in executor.run(Pid(), SHARDS)}
        killed = min(pids)
        os.kill(killed, signal.SIGKILL)
        assert within(10, lambda: not is_alive(killed))
        assert sorted(executor.run(Echo(), SHARDS)) == [(i, (3, span)) for i, span in enumerate(SHARDS)]

    @pytest.mark.slow
    def test_a_shard_that_always_kills_its_worker_is_a_user_error(self, executor: Executor) -> None:
        message = one_line_error(lambda: list(executor.run(KillOnce(Echo(), SHARDS[1][0], None), SHARDS)))
        assert message.startswith("3 workers died on images 4 to 8, ")
        assert len(list(executor.run(Echo(), SHARDS))) == len(SHARDS)


class TestSerial(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Serial(state=make_evaluator(NAME))

    def test_closing_twice_does_nothing(self, executor: Executor) -> None:
        executor.close()
        executor.close()
        assert executor.workers == 1


class TestProcesses(WorkersContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Processes]:
        executor = Processes(create_state=Start(NAME), workers=2)
        yield executor
        pids = executor.pids
        executor.close()
        executor.close()
        assert within(10, lambda: not any(map(is_alive, pids)))

    def test_pids_are_those_of_the_workers(self, executor: Processes) -> None:
        assert executor.workers == 2
        assert {pid for _, pid in executor.run(Pid(0), SHARDS)} <= set(executor.pids)
        assert len(executor.pids) == 2

    @pytest.mark.slow
    def test_an_error_while_a_worker_starts_is_reported(self) -> None:
        executor = Processes(create_state=Refuse(UserError("other images")), workers=1)
        try:
            assert one_line_error(lambda: list(executor.run(Echo(), SHARDS))) == "other images"
        finally:
            executor.close()

    @pytest.mark.slow
    def test_workers_end_if_their_parent_is_killed(self) -> None:
        code = """
if __name__ == "__main__":
    from populations import Pid, Start, Echo
    from autospike.execution.processes import Processes
    executor = Processes(create_state=Start("sew"), workers=1)
    list(executor.run(Echo(), [(0, 4)]))
    print(*executor.pids, flush=True)
    list(executor.run(Pid(600), [(0, 4)]))
"""
        script = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(TESTS)}
        )
        assert script.stdout is not None
        with script.stdout:
            pids = [int(pid) for pid in script.stdout.readline().split()]
        assert pids
        assert all(map(is_alive, pids))
        script.kill()
        script.wait(timeout=60)
        assert within(10, lambda: not any(map(is_alive, pids)))


# Ray.


@dataclass
class Node:
    """A node of a Ray cluster, as processes of this machine."""

    process: subprocess.Popen[bytes]

    @classmethod
    def begin(cls, *options: str) -> Node:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
        process = subprocess.Popen(
            [*command, *options],
            env=ray_environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return cls(process)

    def kill(self) -> None:
        """Kill the node with all its child processes."""
        if self.process.poll() is None:
            for pid in (self.process.pid, *descendants(self.process.pid)):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(timeout=60)


def ray_environment() -> dict[str, str]:
    usual = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **usual, "PYTHONPATH": str(TESTS)}


def descendants(pid: int) -> list[int]:
    children = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


@pytest.fixture
def _ray_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    for name, value in ray_environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
class TestCluster(WorkersContract):
    """A cluster that is started on this machine."""

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Executor]:
        pytest.importorskip("ray")
        from autospike.execution.ray_cluster import Cluster

        with pytest.MonkeyPatch.context() as patch:
            for name, value in ray_environment().items():
                patch.setenv(name, value)
            executor = Cluster(create_state=Start(NAME), config=ExecutionConfig(executor="ray", workers=2), threads=1)
            assert executor.workers == 2
            yield executor
            executor.close()
            executor.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_environment")
class TestTwoMachines:
    """A Ray cluster of two nodes, of which one is lost."""

    @pytest.fixture
    def nodes(self) -> Iterator[tuple[str, list[Node]]]:
        port = 20000 + os.getpid() % 20000
        short = Path(f"/tmp/ray-{port}")  # paths of sockets are limited in length
        head = Node.begin("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={short}")
        nodes = [head]
        try:
            assert within(60, lambda: _answers(port)), "no head"
            nodes.append(Node.begin(f"--address=127.0.0.1:{port}"))
            yield f"127.0.0.1:{port}", nodes
        finally:
            for node in reversed(nodes):
                node.kill()
            shutil.rmtree(short, ignore_errors=True)

    def test_measurements_do_not_change_if_a_machine_is_lost(
        self, nodes: tuple[str, list[Node]], population: list[Architecture], expected: list[Measurement]
    ) -> None:
        import ray

        from autospike.execution.ray_cluster import Cluster

        address, (_, second) = nodes
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        assert within(60, lambda: ray.cluster_resources().get("CPU") == 2)
        ray.shutdown()
        executor = Cluster(create_state=Start(NAME), config=ExecutionConfig(executor="ray", address=address), threads=1)
        try:
            assert executor.workers == 2
            assert measured(executor, population) == expected
            assert within(60, lambda: len({pid for _, pid in executor.run(Pid(), SHARDS)}) == 2)
            timer = threading.Timer(1.5, second.kill)
            timer.start()
            found = dict(executor.run(Pid(1.0), SHARDS))
            timer.join()
            assert sorted(found) == list(range(len(SHARDS)))
            assert measured(executor, population) == expected
        finally:
            executor.close()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_environment")
def test_an_unreachable_cluster_is_a_user_error() -> None:
    """In a separate process with a time limit, because Ray itself retries for minutes."""
    code = """
from populations import Start
from autospike.config import ExecutionConfig
from autospike.errors import UserError
from autospike.execution.ray_cluster import Cluster
try:
    Cluster(create_state=Start("sew"), config=ExecutionConfig(executor="ray", address="127.0.0.1:1"), threads=1)
except UserError as error:
    print(error)
"""
    script = [sys.executable, "-c", code]
    done = subprocess.run(script, capture_output=True, text=True, env=ray_environment(), timeout=60, check=True)
    assert done.stdout.startswith("execution.address: no Ray cluster at 127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_environment")
def test_a_cluster_without_free_resources_is_a_user_error() -> None:
    from autospike.execution.ray_cluster import Cluster

    message = one_line_error(lambda: Cluster(create_state=Start(NAME), config=ExecutionConfig(executor="ray"), threads=1000))
    assert "has no room for a worker of 1000 threads" in message
