"""Uses of the test split are counted from the log of a run."""

from __future__ import annotations

from pathlib import Path

from tiny_experiment import TINY_EXPERIMENT

from autospike.config import Experiment
from autospike.report.test_split import HeldOutUses, log_opening
from autospike.run_directory import RunDirectory


def test_openings_and_exports_are_counted_and_the_second_subnet_warns(tmp_path: Path) -> None:
    run = RunDirectory(folder=tmp_path, experiment=Experiment.from_dict(TINY_EXPERIMENT))
    assert HeldOutUses.of(run) == HeldOutUses(openings=0, exported=())
    log_opening(run, command="export", images=9, architecture_ids=["a"])
    run.log("exported", architecture_id="a", folder="x")
    run.log("exported", architecture_id="a", folder="y")
    log_opening(run, command="energy", images=9, architecture_ids=["a"])
    uses = HeldOutUses.of(run)
    assert uses == HeldOutUses(openings=2, exported=("a",))
    assert uses.warning() is None
    assert uses.with_export("a") == uses
    warning = uses.with_export("b").warning()
    assert warning is not None and "a, b" in warning
    assert uses.to_json() == {"openings": 2, "exported": ("a",)}


def test_damaged_lines_of_the_log_are_left_out(tmp_path: Path) -> None:
    run = RunDirectory(folder=tmp_path, experiment=Experiment.from_dict(TINY_EXPERIMENT))
    run.log("test split opened", images=3)  # as earlier versions wrote it
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"event": "test split op\n[1]\n\xff\n')
    run.log("exported", architecture_id="b", folder="x")
    assert HeldOutUses.of(run) == HeldOutUses(openings=1, exported=("b",))
