"""Uploading an export to Hugging Face, against a server that stands in for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, hub

# huggingface_hub reads its settings when it is imported, so an upload runs in a process of its own.
PROGRAM = """
import sys
from pathlib import Path
from autospike.errors import UserError
from autospike.exporting.upload import push
try:
    push(Path(sys.argv[1]), sys.argv[2])
except UserError as error:
    print(error, file=sys.stderr)
    raise SystemExit(2)
"""


def pushed(folder: Path, address: str, token: str | None = TOKEN, name: str = "someone/a-network") -> tuple[int, str, str]:
    """Exit code, output and errors."""
    variables = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder.parent / "hf")}
    variables.pop("HF_TOKEN", None)
    if token is not None:
        variables["HF_TOKEN"] = token
    command = [sys.executable, "-c", PROGRAM, str(folder), name]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: timm\n---\n# A network\n")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "onnx" / "model.onnx").write_bytes(b"\1\2")
    (folder / ".lock").write_text("")
    return folder


def test_every_file_of_an_export_is_uploaded(export: Path) -> None:
    with hub() as server:
        code, output, errors = pushed(export, server.address)
    assert code == 0, errors
    assert "hf-hub:someone/a-network" in output + errors
    expected = {str(path.relative_to(export)): path.read_bytes() for path in export.rglob("*") if path.is_file()}
    del expected[".lock"]
    assert server.repositories == {"someone/a-network": expected}


@pytest.mark.parametrize(
    ("token", "name", "reachable"),
    [
        pytest.param("hf_wrong", "someone/a-network", True, marks=pytest.mark.slow),
        pytest.param(None, "someone/a-network", True, marks=pytest.mark.slow),
        pytest.param(TOKEN, "one/too/many", True, marks=pytest.mark.slow),
        (TOKEN, "someone/a-network", False),
    ],
    ids=["wrong token", "no token", "wrong name", "no network"],
)
def test_a_refused_upload_is_one_line(export: Path, token: str | None, name: str, reachable: bool) -> None:
    with hub() as server:
        address = server.address if reachable else "http://127.0.0.1:9"  # the discard port, where nothing listens
        code, _, errors = pushed(export, address, token, name)
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith(f"--push {name}: ")
    assert "hf auth login" in line
    assert not server.repositories
