"""Training and search never open the test part of the data; the final measurement does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_runner import autospike
from event_recordings import gesture_tree
from tiny_experiment import TINY_EXPERIMENT


def test_training_and_search_never_read_the_test_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recordings of the test list are no recordings, so a command that reads one ends with its path."""
    root = gesture_tree(tmp_path / "data", users=(3, 1))
    for path in (root / "DvsGesture").glob("user04_*.aedat"):
        path.write_bytes(b"not a recording")
    data = {"name": "dvs_gesture", "root": str(root), "frames": 3, "image_size": 8, "cache": str(tmp_path / "cache")}
    training = {"epochs": 1, "batch_size": 24, "warmup_epochs": 0}
    search = {"population": 4, "generations": 1}
    settings = {"data": data, "training": training, "search": search, "baseline": "none"}
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(yaml.safe_dump({**TINY_EXPERIMENT, **settings}))
    assert autospike(capsys, "train", experiment, "--run", tmp_path / "run").code == 0
    assert autospike(capsys, "search", tmp_path / "run").code == 0
    listed = (tmp_path / "run" / "data" / "files.csv").read_text()
    assert listed.count(",test,") == 24
    exported = autospike(capsys, "export", tmp_path / "run")
    assert exported.code == 2
    assert "user04_lab.aedat: not an AEDAT 2.0 or 3.1 file" in exported.err
