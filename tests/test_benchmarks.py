"""The benchmarks' time budget, sampling and extrapolation; the checks for a GPU, run on the CPU."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean, pstdev
from types import ModuleType

import pytest
import torch
from rich.console import Console
from slow_parameters import slow_except

from autospike.searching.archive import Archive
from autospike.space.families import FAMILIES
from autospike.supernet import Supernet

CPU = torch.device("cpu")
BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Import a file of `experiments/benchmarks`, a module that is in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield import_module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def budget(load: Callable[[str], ModuleType]) -> ModuleType:
    """Return `experiments/benchmarks/budget.py`."""
    return load("budget")


@pytest.fixture(scope="module")
def gpu_checks(load: Callable[[str], ModuleType]) -> ModuleType:
    """Return `experiments/benchmarks/gpu_checks.py`."""
    return load("gpu_checks")


class Clock:
    """A clock that only advances with simulated work."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def seconds_of_a_run(budget: ModuleType, *, each: float, population: float, rounds: int = 8) -> tuple[float, int]:
    """Simulate a benchmark whose candidates take `each` seconds; return its duration and its rounds."""
    clock = Clock()
    limit = budget.Budget(780, clock)
    clock.now += 60 + each  # setup and the first candidate
    sample = limit.sample_size(rounds=rounds, fixed=population, each=each)
    done, longest = 0, 0.0
    while done < rounds and (not done or limit.allows(longest)):
        before = clock.now
        clock.now += population + sample * each
        longest, done = max(longest, clock.now - before), done + 1
    return limit.spent(), done


def test_a_fast_machine_times_the_largest_sample_in_all_rounds(budget: ModuleType) -> None:
    clock = Clock()
    limit = budget.Budget(780, clock)
    clock.now += 60
    assert limit.sample_size(rounds=8, fixed=12.0, each=2.0) == budget.MAX_SAMPLE
    assert seconds_of_a_run(budget, each=2.0, population=12.0) == (60 + 2 + 8 * (12 + 12 * 2), 8)


def test_a_slower_machine_times_a_smaller_sample(budget: ModuleType) -> None:
    """(780 - 60) / 8 = 90 seconds a round, 32 of them for the population: 58 / 9.4 = 6 candidates."""
    clock = Clock()
    limit = budget.Budget(780, clock)
    clock.now += 60
    assert limit.sample_size(rounds=8, fixed=32.0, each=9.4) == 6


@pytest.mark.parametrize("each", [5.0, 10.0, 20.0, 40.0])
def test_a_slow_machine_times_fewer_rounds_within_the_budget(budget: ModuleType, each: float) -> None:
    spent, done = seconds_of_a_run(budget, each=each, population=48 * each / 6)
    assert spent <= 780
    assert 1 <= done <= 8


def test_the_sample_has_one_element_of_each_stratum(budget: ModuleType) -> None:
    assert budget.stratified(range(48), 4) == [6, 18, 30, 42]
    assert budget.stratified(range(3), 4) == [0, 1, 2]
    assert budget.stratified(range(48), 48) == list(range(48))


def test_a_total_is_extrapolated_with_its_standard_error(budget: ModuleType) -> None:
    """N = 12, n = 3, mean 11 / 3; squared differences 1 + 9, over 2 (n - 1) = 2.5; 12 sqrt(0.75 * 2.5 / 3) = 9.487."""
    found = budget.extrapolate([2.0, 3.0, 6.0], 12)
    assert found.total == pytest.approx(44.0)
    assert found.error == pytest.approx(9.4868, abs=1e-4)


def test_a_complete_sample_has_no_error(budget: ModuleType) -> None:
    found = budget.extrapolate([1.0, 5.0, 2.0], 3)
    assert (found.total, found.error) == (8.0, 0.0)


def test_the_standard_error_is_similar_to_the_deviation_of_totals(budget: ModuleType) -> None:
    """For populations in random order, of which the estimate uses only a sample."""
    rng, totals, errors = random.Random(0), [], []
    for _ in range(400):
        times = [rng.gauss(10, 2) for _ in range(48)]
        found = budget.extrapolate(budget.stratified(times, 8), 48)
        totals.append(found.total - sum(times))
        errors.append(found.error)
    assert mean(errors) == pytest.approx(pstdev(totals), rel=0.15)


def test_every_family_is_checked_on_a_gpu(gpu_checks: ModuleType) -> None:
    assert set(gpu_checks.SPACES) == set(FAMILIES)


@pytest.mark.parametrize(
    "name",
    slow_except(["forward", "trie evaluation"], ["forward", "backward", "calibration", "counting", "trie evaluation", "resume"]),
)
def test_a_device_passes_the_checks_against_itself(gpu_checks: ModuleType, name: str) -> None:
    check = gpu_checks.run_check(name, partial(gpu_checks.OF_FAMILY[name], partial(gpu_checks.supernet, "qkformer"), CPU))
    assert check.passed, check.note
    assert check.value == 0


@pytest.mark.slow
def test_all_checks_pass_on_the_cpu(gpu_checks: ModuleType) -> None:
    """Also neurons in both surrogates, and all families."""
    found = list(gpu_checks.checks(CPU))
    assert [check.name for check in found if not check.passed] == []
    assert len(found) == 3 + 6 * len(FAMILIES)


@pytest.mark.parametrize("name", slow_except(["forward"], ["forward", "backward", "calibration", "counting"]))
def test_a_device_that_computes_other_values_fails(gpu_checks: ModuleType, name: str) -> None:
    """The second network, that of the device, has one other weight in its first layer."""
    built: list[Supernet] = []

    def differing(device: torch.device) -> Supernet:
        network: Supernet = gpu_checks.supernet("qkformer", device)
        if built:
            next(network.parameters()).data.view(-1)[0] += 0.5
        built.append(network)
        return network

    check = gpu_checks.run_check(name, partial(gpu_checks.OF_FAMILY[name], differing, CPU))
    assert not check.passed
    assert check.value is not None


def test_an_error_and_a_value_that_is_not_a_number_are_failed_checks(gpu_checks: ModuleType) -> None:
    def broken() -> None:
        raise RuntimeError("no kernel image is available")

    failed = gpu_checks.run_check("broken", broken)
    assert (failed.passed, failed.value, failed.note) == (False, None, "RuntimeError: no kernel image is available")
    undefined = gpu_checks.Difference(value=float("nan"), bound=1.0, note="")
    assert not gpu_checks.run_check("undefined", lambda: undefined).passed


def test_bench_gpu_collects_results_within_its_budget(load: Callable[[str], ModuleType], gpu_checks: ModuleType) -> None:
    """Each part takes 100 simulated seconds of 250, and none begins in the last 60: two parts run."""
    bench_gpu, budget, clock = load("bench_gpu"), load("budget"), Clock()

    def checks(number: int) -> Iterator[object]:
        for _ in range(number):
            clock.now += 100
            yield gpu_checks.Check(name="a check", passed=True, value=0.0, bound=0.0, note="", seconds=100.0)

    def figure() -> list[object]:
        clock.now += 100
        return [load("measuring").Result(name="speed", value=2.0, unit="ms", peer="", goal="", threads=0, note="")]

    def run(number: int, *figures: Callable[[], object]) -> dict[str, object]:
        found: dict[str, object] = bench_gpu.run(checks(number), figures, budget.Budget(250, clock), Console(quiet=True))
        return found

    whole = run(1, figure)
    assert (whole["passed"], whole["skipped"], whole["seconds"]) == (True, 0, 200)
    assert [result["name"] for result in whole["results"]] == ["speed"]  # type: ignore[attr-defined]
    short = run(2, figure)
    assert (short["passed"], short["skipped"], short["results"]) == (False, 2, [])
    broken = run(1, lambda: 1 / 0)
    assert (broken["passed"], broken["errors"]) == (False, ["ZeroDivisionError: division by zero"])


def test_bench_gpu_without_a_gpu_ends_with_one_line(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_gpu = load("bench_gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: bench-gpu: no CUDA device on this machine; nothing was checked\n"


@pytest.mark.slow
def test_figures_of_a_gpu_run_on_the_cpu(load: Callable[[str], ModuleType]) -> None:
    gpu = load("gpu")
    tiny = gpu.Scale(width=32, depth=1, stride=4, size=16, batch=2, classes=3)
    found = [
        *gpu.neurons(CPU, (2, 2, 3, 3, 4)),
        *gpu.training_step("tiny", tiny, CPU),
        *gpu.evaluation(CPU, candidates=2, count=8),
    ]
    names = ["gpu_lif_forward_backward", "gpu_step_tiny", "gpu_step_tiny_memory", "gpu_evaluation", "gpu_evaluation_memory"]
    assert [result.name for result in found] == names
    assert all(result.value > 0 for result in found)


def test_a_synthetic_archive_has_every_column_of_a_searched_one(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """A resumed search finds all candidates, and every value that a search of a classification network stores is there."""
    archive = load("archive")
    run = archive.synthetic_run(tmp_path / "run", 12 * archive.GENERATIONS)
    archive.resume(run)
    opened = Archive.newest(run.archive)
    candidates = opened.all()
    assert opened.damage() is None
    opened.close()
    assert len(candidates) == 12 * archive.GENERATIONS
    for field in ("correct_mask", "spikes", "counts"):
        assert all(getattr(candidate.measurement, field) for candidate in candidates)


@pytest.mark.slow
def test_the_input_benchmark_opens_every_kind_of_source(load: Callable[[str], ModuleType]) -> None:
    event_input = load("event_input")
    with event_input.sources() as configs:
        shapes = {name: tuple(next(event_input.training_batches(data, 0)(0, 1)).images.shape) for name, data in configs.items()}
    stills = dict.fromkeys(("images", "metadata", "parquet", "tars", "ade20k", "coco", "scenes", "scene_objects"), (32, 3, 32, 32))
    frames = {"recordings": (4, 32, 2, 32, 32), "cached_frames": (4, 32, 2, 32, 32), "motion": (8, 32, 2, 32, 32)}
    assert shapes == stills | frames | {"digits": (32, 1, 32, 32), "glyphs": (32, 3, 32, 32)}
