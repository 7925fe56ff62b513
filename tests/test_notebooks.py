"""Every notebook runs from top to bottom, and is stored without outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest
from cli_runner import autospike

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def executed(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the cells of a notebook in a module of its own, as Jupyter does in `__main__`; return its names."""
    mpl.use("agg")
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_explore_a_run(
    tmp_path: Path, tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "training.epochs=1", "--set", "search.generations=1"]
    assert autospike(capsys, "run", tiny_experiment, "--run", tmp_path, *settings).code == 0
    monkeypatch.setenv("RUN", str(tmp_path))
    found = executed("explore_a_run", monkeypatch)
    assert (~found["table"]["free"]).sum() == 6
    assert found["layers"]["energy (uJ)"].sum() == pytest.approx(found["chosen"].energy.energy_mj * 1000)


def test_own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The best candidate has the smallest value of the notebook's objective among those that are accurate enough."""
    monkeypatch.setenv("OWN_RUN", str(tmp_path))
    monkeypatch.setenv("EPOCHS", "1")
    found = executed("own_parts", monkeypatch)
    run, best, objective = found["run"], found["best"], found["slowest_layer"]
    printed = capsys.readouterr().out
    assert "supernet, epoch 1: loss " in printed
    assert "generation 1: best accuracy " in printed
    table = run.candidates()
    assert set(table["images"]) == {400}
    accurate = table[table["accuracy"] >= 0.9 * table["accuracy"].max()]
    values = [objective(evaluation) for evaluation in run._evaluations(accurate["id"])]
    assert objective(best.evaluation) == min(values)
    assert found["model"].architecture == best.architecture
    assert run.experiment.search.algorithm == "own_parts:MutateTheBest"
