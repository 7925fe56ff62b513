"""Every notebook runs from top to bottom on a run."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pytest
from cli_runner import autospike

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, tmp_path: Path, tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "training.epochs=1", "--set", "search.generations=1"]
    assert autospike(capsys, "run", tiny_experiment, "--run", tmp_path, *settings).code == 0
    monkeypatch.setenv("RUN", str(tmp_path))
    mpl.use("agg")
    namespace: dict[str, object] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    assert (~namespace["table"]["free"]).sum() == 6  # type: ignore[index]
    assert namespace["layers"]["energy (uJ)"].sum() == pytest.approx(  # type: ignore[index]
        namespace["chosen"].energy.energy_mj * 1000  # type: ignore[attr-defined]
    )
