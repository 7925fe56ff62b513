"""Plans of runs within a time budget, with values by hand."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import measurement, one_line_error, small
from tiny_experiment import TINY_EXPERIMENT

from autospike.budget import (
    FIXED_SECONDS,
    Clock,
    Plan,
    duration,
    expected,
    parse_duration,
    training_within,
    within,
)
from autospike.commands.plan import measurement_seconds
from autospike.config import Experiment
from autospike.speed import PROCESS_START_SECONDS, SIDE_BY_SIDE, SideBySide, Speed, TimedSpans, busy_processes, measured_step
from autospike.training.setup import open_experiment

EXPERIMENT = Experiment.model_validate(TINY_EXPERIMENT)
SPEED = Speed(
    supernet_step=0.1,
    fine_tuning_step=0.1,
    reference_step=0.15,
    rival_step=0.0,
    generation=3.0,
    scoring=0.0,
    steps_per_epoch=4,
    search_images=1000,
    test_images=400,
    memory_bytes=10**9,
)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1h1m1s", 3661)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0s", "5m3h", "1e9h", "nan"])
def test_texts_that_are_not_durations_are_one_line_errors(text: str) -> None:
    assert "give for example 90s, 30m or 1h30m" in one_line_error(lambda: parse_duration(text))


def test_epochs_of_a_training_within_a_budget_by_hand() -> None:
    """An epoch takes 100 s, of 8 steps. Five epochs need at least ten steps each."""
    assert training_within(180, step_s=12.5, steps_per_epoch=8, spent_s=0) == (1, 8)
    assert training_within(250, step_s=12.5, steps_per_epoch=8, spent_s=49) == (2, 8)
    message = one_line_error(lambda: training_within(120, step_s=12.5, steps_per_epoch=8, spent_s=21))
    assert message == "--budget 2 min: one epoch of both trainings takes 2 min; give more time"


def test_where_few_whole_epochs_fit_an_epoch_has_fewer_images() -> None:
    """A whole epoch takes 100 s. Of 320 s, five epochs take 64 steps of 1 s each; of 49 s, they would have less than ten steps."""
    long = partial(training_within, step_s=1.0, steps_per_epoch=100, spent_s=0)
    assert long(320) == (5, 64)
    assert long(50) == (5, 10)
    assert long(500) == (5, 100)
    assert "one epoch of both trainings takes" in one_line_error(lambda: long(49))


def test_many_images_are_planned_within_a_short_budget_by_hand() -> None:
    """Of 300 s, a generation may take a third of 36 s: 1,200 of 10,000 images. 45 of 88 parts of the other 264 s are 135 s.

    Five epochs of 108 steps of 0.25 s fill them, and 129 s are left for fine-tuning.
    """
    many = replace(SPEED, steps_per_epoch=1000, search_images=10_000, generation=100.0)
    plan = within(EXPERIMENT, many, 300 + FIXED_SECONDS, fine_tune=True)
    batch = EXPERIMENT.training.batch_size
    assert (plan.epochs, plan.images_per_epoch) == (5, 108 * batch)
    assert plan.search_share == pytest.approx(EXPERIMENT.data.search_share * 0.12)
    assert plan.generations == min(3, EXPERIMENT.search.generations)
    assert plan.fine_tune_epochs == int(129 / (108 * 0.1 * 2))
    assert plan.total_s == pytest.approx(300 + FIXED_SECONDS)
    assert f"5 epochs of {108 * batch:,} images" in plan.text()
    assert f"data.search_share={plan.search_share:g}" in plan.text()


def test_a_plan_within_a_budget_by_hand() -> None:
    """Of 101 s, 3 generations of 3 s take 9 s. 45 of 88 parts of the other 92 s are 47 epochs of 1 s."""
    plan = within(EXPERIMENT, SPEED, 101 + FIXED_SECONDS, fine_tune=True)
    assert (plan.epochs, plan.generations) == (47, EXPERIMENT.search.generations)
    rest = 101 - 47 - 3 * EXPERIMENT.search.generations
    assert plan.fine_tuning_s == pytest.approx(rest)
    assert plan.fine_tune_epochs == int(rest / (2 * 0.4))  # the space has two T
    assert plan.total_s == pytest.approx(101 + FIXED_SECONDS)


def test_the_measurements_on_the_test_split_are_part_of_the_plan_by_hand() -> None:
    """The space has two T: two finalists. 5 * 4 + 10 = 30 candidates on 400 images of 5 ms each take 60 s."""
    plan = within(EXPERIMENT, SPEED, 101 + FIXED_SECONDS, fine_tune=True)
    tested = replace(SPEED, scoring=0.005)
    assert within(EXPERIMENT, tested, 161 + FIXED_SECONDS, fine_tune=True) == replace(plan, fixed_s=60 + FIXED_SECONDS)
    assert expected(EXPERIMENT, tested, fine_tune=True).fixed_s == 60 + FIXED_SECONDS
    message = one_line_error(lambda: within(EXPERIMENT, tested, 60 + FIXED_SECONDS, fine_tune=True))
    assert f"fine-tuning and measurement ({duration(60 + FIXED_SECONDS)})" in message


def test_the_duration_on_a_split_is_extrapolated_by_hand() -> None:
    """The first batch takes 3 s, the second 1 s for 100 images: 150 images more take 1.5 s."""
    timed = TimedSpans(spans=[(0, 100), (100, 200), (200, 250)], seconds=[3.0, 1.0])
    assert [timed.of_an_image, timed.whole] == pytest.approx([0.01, 4.5])
    only = TimedSpans(spans=[(0, 50)], seconds=[2.0])
    assert [only.of_an_image, only.whole] == pytest.approx([0.04, 2.0])


def test_cheaper_finalists_are_part_of_the_plan() -> None:
    """The space has two T: two finalists, and the cheaper ones."""
    retrain = EXPERIMENT.retrain.model_copy(update={"cheaper_finalists": 3})
    two, five = (
        expected(EXPERIMENT.model_copy(update={"retrain": of}), SPEED, fine_tune=True) for of in (EXPERIMENT.retrain, retrain)
    )
    assert five.fine_tuning_s == pytest.approx(two.fine_tuning_s * 5 / 2)


def test_networks_without_spikes_are_part_of_the_plan_by_hand() -> None:
    """47.05 s are for trainings. An epoch takes 4 * (0.25 + 0.04) s = 1.16 s: 40 epochs, of which the rivals take 40 * 0.16 s."""
    plan = within(EXPERIMENT, replace(SPEED, rival_step=0.04), 101 + FIXED_SECONDS, fine_tune=True)
    assert (plan.epochs, plan.rival_epochs) == (40, 40)
    assert [plan.training_s, plan.rivals_s] == pytest.approx([40, 6.4])
    assert plan.total_s == pytest.approx(101 + FIXED_SECONDS)
    assert "networks without spikes (6 s)" in plan.text()
    assert within(EXPERIMENT, SPEED, 101 + FIXED_SECONDS, fine_tune=True).rival_epochs == 0


def test_fine_tuning_has_the_speed_of_its_own_steps() -> None:
    """Training starts with T = 1, and fine-tuning does not: its epochs take 2 * 4 * 0.3 s."""
    plan = within(EXPERIMENT, replace(SPEED, fine_tuning_step=0.3), 101 + FIXED_SECONDS, fine_tune=True)
    assert plan.epochs == 47
    assert plan.fine_tune_epochs == int((101 - 47 - 3 * EXPERIMENT.search.generations) / 2.4)


@pytest.mark.parametrize(
    ("step_s", "at_once", "steps", "rounds"),
    [
        ([3, 2, 1], 1, 6, 0),
        ([3], 2, 3, 0),
        ([3, 2], 2, 3, 1),
        ([3, 2, 1.5], 2, 3.5, 2),  # the last one starts when the second has ended
        ([3, 2, 1], 8, 3, 1),
    ],
)
def test_trainings_side_by_side_take_as_long_as_the_last_one_by_hand(
    step_s: list[float], at_once: int, steps: float, rounds: int
) -> None:
    """The processes of the first round start at the same time. In this process nothing starts, and no training slows another."""
    trainings = SideBySide(step_s=step_s, at_once=at_once)
    assert trainings.wall_s == pytest.approx(steps * (SIDE_BY_SIDE if rounds else 1))
    assert trainings.start_s == rounds * PROCESS_START_SECONDS


def test_on_busy_cores_trainings_run_one_after_the_other() -> None:
    assert SideBySide(step_s=[0.1, 0.1], at_once=2, slowdown=1.9).fastest(10**6).at_once == 2
    assert SideBySide(step_s=[0.1, 0.1], at_once=2, slowdown=2.1).fastest(10**6).at_once == 1


def test_busy_processes_end_with_the_block() -> None:
    def children() -> list[str]:
        return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()

    before = children()
    with busy_processes(2):
        assert len(children()) == len(before) + 2
    assert children() == before


def test_more_epochs_of_fine_tuning_side_by_side_fit_into_a_budget_by_hand() -> None:
    """The rest of 45 s has the start of the processes, and epochs that take 0.4 s alone, of both networks at the same time."""
    plan = within(EXPERIMENT, SPEED, 101 + FIXED_SECONDS, fine_tune=True, at_once=8)
    assert plan.epochs == 47
    assert plan.fine_tune_epochs == int((45 - PROCESS_START_SECONDS) / (0.4 * SIDE_BY_SIDE))
    assert plan.total_s == pytest.approx(101 + FIXED_SECONDS)
    assert f"fine-tuning {plan.fine_tune_epochs} epochs of 2 networks at a time (45 s)" in plan.text()
    assert plan.text().endswith("3.0 GB of memory")  # of this process and two more


def test_the_expected_time_of_fine_tuning_side_by_side() -> None:
    """An epoch of each of two networks takes 0.4 s."""
    longer = Experiment.model_validate({**TINY_EXPERIMENT, "retrain": {"fine_tune_epochs": 100}})
    alone, together = (expected(longer, SPEED, fine_tune=True, at_once=at_once) for at_once in (1, 2))
    assert alone.fine_tuning_s == pytest.approx(100 * 2 * 0.4)
    assert together.fine_tuning_s == pytest.approx(100 * 0.4 * SIDE_BY_SIDE + PROCESS_START_SECONDS)
    assert (alone.trainings_at_once, together.trainings_at_once) == (1, 2)
    assert expected(longer, SPEED, fine_tune=False, at_once=2).fine_tuning_s == 0


def test_short_trainings_are_faster_one_after_the_other() -> None:
    """Starting the processes takes as long as they save with `steps` steps."""
    trainings = SideBySide(step_s=[0.1, 0.1], at_once=2)
    steps = int(PROCESS_START_SECONDS / (0.2 - 0.1 * SIDE_BY_SIDE))
    assert trainings.fastest(steps - 2).at_once == 1
    assert trainings.fastest(steps + 2).at_once == 2
    assert trainings.longest(0.2 * (steps - 2)).at_once == 1
    assert trainings.longest(0.2 * (steps + 2)).at_once == 2
    assert expected(EXPERIMENT, SPEED, fine_tune=True, at_once=2).trainings_at_once == 1


def test_a_plan_without_fine_tuning_trains_longer() -> None:
    plan = within(EXPERIMENT, SPEED, 100 + FIXED_SECONDS, fine_tune=False)
    assert plan.fine_tune_epochs == 0
    assert plan.epochs > 47
    assert plan.total_s <= 100 + FIXED_SECONDS


def test_a_generation_that_takes_more_than_its_share_is_planned_all_the_same() -> None:
    plan = within(EXPERIMENT, replace(SPEED, generation=20), 45 + FIXED_SECONDS, fine_tune=True)
    assert (plan.generations, plan.epochs) == (1, int(25 * 45 / 88))
    assert plan.total_s == pytest.approx(45 + FIXED_SECONDS)


def test_a_budget_that_is_too_small_names_a_possible_one() -> None:
    """An epoch takes 1 s, a generation 3 s, an epoch of fine-tuning 4 * 0.1 s for each of two T; 88 / 45 s hold an epoch."""
    message = one_line_error(lambda: within(EXPERIMENT, SPEED, 15, fine_tune=True))
    assert "too short for one epoch (1 s), one generation of the search (3 s), fine-tuning and measurement (12 s)" in message
    smallest = (FIXED_SECONDS + 3 + 88 / 45) * 1.05
    assert f"give at least {duration(smallest)}" in message
    assert within(EXPERIMENT, SPEED, smallest, fine_tune=True).epochs == 1


def test_the_expected_time_without_a_budget() -> None:
    plan = expected(EXPERIMENT, SPEED, fine_tune=True)
    assert plan.training_s == EXPERIMENT.training.epochs * 1.0
    assert plan.search_s == EXPERIMENT.search.generations * 3.0


def clock(path: Path, **changed: object) -> Clock:
    plan = Plan(
        epochs=5,
        generations=3,
        fine_tune_epochs=4,
        training_s=50,
        search_s=20,
        fine_tuning_s=30,
        fixed_s=12,
        memory_bytes=1,
    )
    return Clock(path=path, budget_s=120, plan=plan, **changed)  # type: ignore[arg-type]


def test_a_clock_resumes_with_the_time_that_is_left(tmp_path: Path) -> None:
    first = clock(tmp_path / "plan.json", started=time.monotonic() - 70)
    with first.recording():
        first.finished_generations, first.fine_tune_epochs = 2, 9
    found = Clock.read(tmp_path, 120.0)
    assert found is not None
    assert found.left_s == pytest.approx(50, abs=1)
    assert found.overrides() == ["training.epochs=5", "retrain.fine_tune_epochs=9", "search.generations=2"]
    assert found.plan == first.plan


def test_the_search_has_its_share_of_the_time_that_is_left(tmp_path: Path) -> None:
    """56 s are left, less 6 s: two fifths of 50 s."""
    late = clock(tmp_path, started=time.monotonic() - 64)
    assert late.search_timeout_s() == pytest.approx(20, abs=0.5)
    late.plan = replace(late.plan, fixed_s=12 + 25)  # 25 s of measurements: two fifths of 25 s
    assert late.search_timeout_s() == pytest.approx(10, abs=0.5)


def test_fine_tuning_takes_the_time_that_is_left(tmp_path: Path) -> None:
    late = clock(tmp_path, started=time.monotonic() - 64)
    assert late.choose_fine_tuning(SideBySide(step_s=[0.5], at_once=1), 4, measurement_s=10.5) == 1
    assert late.fine_tune_epochs == 19  # (56 - 6 - 10.5) / 2
    assert late.choose_fine_tuning(SideBySide(step_s=[0.5, 0.5], at_once=2), 4, measurement_s=10.5) == 2
    assert late.fine_tune_epochs == int((39.5 - PROCESS_START_SECONDS) / (2 * SIDE_BY_SIDE))
    late.choose_fine_tuning(SideBySide(step_s=[1000.0], at_once=1), 1, measurement_s=0)
    assert late.fine_tune_epochs == 1


def test_another_budget_than_that_of_the_plan_is_a_one_line_error(tmp_path: Path) -> None:
    clock(tmp_path / "plan.json").write()
    assert "this run was planned for 2 min" in one_line_error(lambda: Clock.read(tmp_path, 180.0))


@pytest.mark.parametrize("content", ["[]", "{}", '{"budget_s": "x"}'])
def test_a_damaged_plan_is_a_one_line_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    assert "delete it to continue without a budget" in one_line_error(lambda: Clock.read(tmp_path))


def test_a_plan_is_json(tmp_path: Path) -> None:
    written = clock(tmp_path / "plan.json")
    written.plan = replace(written.plan, epochs=6)
    written.write()
    assert json.loads((tmp_path / "plan.json").read_text())["plan"]["epochs"] == 6


def test_steps_are_timed_with_decoded_images_where_a_training_decodes_each_image_once() -> None:
    """The first two steps read all images of the others. An epoch of a part of the images has new ones in every step."""
    setup = open_experiment(EXPERIMENT)
    read: Counter[int] = Counter()
    train = setup.images.splits["train"]

    def counted(index: int) -> Any:
        read[index] += 1
        return train.read(index)

    splits = {**setup.images.splits, "train": replace(train, read=counted)}
    counting = replace(setup, images=replace(setup.images, splits=splits))
    measured_step(counting, EXPERIMENT.search_space, EXPERIMENT.training, seconds=0.5)
    assert (max(read.values()), len(read)) == (1, 2 * EXPERIMENT.training.batch_size)
    part = EXPERIMENT.training.model_copy(update={"images_per_epoch": EXPERIMENT.training.batch_size})
    experiment = EXPERIMENT.model_copy(update={"training": part})
    read.clear()
    measured_step(replace(counting, experiment=experiment), EXPERIMENT.search_space, part, seconds=0.5)
    assert len(read) > 2 * EXPERIMENT.training.batch_size


def test_the_time_of_measurements_by_hand() -> None:
    """Two finalists of 0.5 s, on 60 calibration and 40 search images; 2.4 times as many images. ALONE = 4."""
    finalists = [measurement(small(), correct=1, images=40)] * 2
    found = measurement_seconds(finalists, front=10, test_images=200, calibration_images=60)
    assert found == pytest.approx((5 * 4 + 10) * 0.5 * 2.4)
