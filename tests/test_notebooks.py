"""Every notebook runs from top to bottom on a run, computes what it says, and is stored without outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest

from autospike.space.families import FAMILIES

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Two exports to ONNX; a supernet of a new family; a run on new data.
SLOW = {"deploying_with_onnxruntime", "adding_a_family", "own_parts"}


def explore_a_run(names: dict[str, Any], _run: Path) -> None:
    assert (~names["table"]["free"]).sum() == 6 * 3
    assert names["layers"]["energy (uJ)"].sum() == pytest.approx(names["chosen"].energy.energy_mj * 1000)


def first_search(names: dict[str, Any], _run: Path) -> None:
    assert names["logits"].shape == (2, 2, 10)
    assert len(names["front"]) >= 1


def reading_an_energy_figure(names: dict[str, Any], run: Path) -> None:
    report = json.loads((run / "export" / "report.json").read_text())
    assert names["by_hand"] == pytest.approx(report["energy_mj"] * 1000)
    for name, energy_mj in report["energy_mj_by_convention"].items():
        assert names["totals"][name] == pytest.approx(energy_mj * 1000)


def adding_a_family(names: dict[str, Any], _run: Path) -> None:
    assert names["logits"].shape == (4, 3)
    assert names["counted"].energy("exact").energy_mj > 0
    assert not names["counted"].unknown


def deploying_with_onnxruntime(names: dict[str, Any], _run: Path) -> None:
    assert names["same"] >= 0.9
    assert all(comparison.agrees for comparison in names["comparisons"].values())


def own_parts(names: dict[str, Any], _run: Path) -> None:
    """The best candidate has the smallest value of the notebook's objective among those that are accurate enough."""
    run, best, objective = names["run"], names["best"], names["slowest_layer"]
    table = run.candidates()
    assert set(table["images"]) == {400}
    accurate = table[table["accuracy"] >= 0.9 * table["accuracy"].max()]
    assert objective(best.evaluation) == min(objective(evaluation) for evaluation in run.evaluations(accurate["id"]))
    assert names["model"].architecture == best.architecture
    assert run.experiment.search.algorithm == "own_parts:MutateTheBest"


CHECKS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    check.__name__: check
    for check in (explore_a_run, first_search, reading_an_energy_figure, adding_a_family, deploying_with_onnxruntime, own_parts)
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem in SLOW else path for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(path: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", str(finished_run))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("OWN_RUN", str(tmp_path / "own"))
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setitem(sys.modules, "patchformer", ModuleType("patchformer"))
    mpl.use("agg")
    module = ModuleType(path.stem)  # in Jupyter, it is __main__
    monkeypatch.setitem(sys.modules, path.stem, module)
    try:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), module.__dict__)
        CHECKS[path.stem](module.__dict__, finished_run)
    finally:
        FAMILIES.pop("patchformer", None)  # which a notebook adds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"]]
