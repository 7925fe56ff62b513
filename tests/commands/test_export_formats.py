"""`autospike export --format`, `verify` and `pack` on a tiny run."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from cli_runner import autospike


@pytest.fixture(scope="module")
def run(searched_run: Path) -> Path:
    """A searched run with an export in plain PyTorch, also in 8 bits."""
    from autospike.cli import app

    command = ["export", searched_run, "--pick", "knee", "--format", "timm,torch", "--variant", "exact,int8"]
    app([str(arg) for arg in command], standalone_mode=False)
    return searched_run


def test_files_and_manifest(run: Path) -> None:
    export = run / "export"
    manifest = json.loads((export / "export.json").read_text())
    assert set(manifest["formats"]) == {"torch", "torch-int8"}
    assert set(manifest["formats"]["torch-int8"]["files"]) == {"model.py", "model.safetensors"}
    assert all(entry["comparison"]["images"] == 16 for entry in manifest["formats"].values())
    assert {"model.safetensors", "report.json", "README.md", "probes.safetensors"} <= set(manifest["files"])
    assert not list(export.glob(".*.part"))


def test_int8_is_measured_with_the_costs_of_8_bits(run: Path) -> None:
    measured = json.loads((run / "export" / "export.json").read_text())["variants"]["int8"]
    report = json.loads((run / "export" / "report.json").read_text())
    assert measured["convention"] == "exact/int8"
    assert measured["test_images"] == report["test_images"]
    assert 0 < measured["energy_mj"] < report["energy_mj"] / 5  # 0.23 and 0.03 pJ instead of 4.6 and 0.9


def test_the_model_card_has_the_figures_of_the_report(run: Path) -> None:
    text, report = (run / "export" / "README.md").read_text(), json.loads((run / "export" / "report.json").read_text())
    _, header, body = text.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["library_name"] == "timm"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == round(report["test_accuracy"], 4)
    for name, energy_mj in report["energy_mj_by_convention"].items():
        assert f"| `{name}`" in body
        assert f"| {energy_mj * 1000:.4g} |" in body
    low, high = report["test_accuracy_interval"]
    assert f"{low:.4f} to {high:.4f}" in body
    assert "`torch-int8`" in body


def test_a_repeated_export_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "export").rglob("*")}
    assert autospike(capsys, "export", run, "--pick", "knee").code == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "export").rglob("*")} == before


def test_an_added_format_keeps_the_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "export", run, "--pick", "knee", "--format", "spikingjelly")
    assert outcome.code == 0
    assert "largest difference of a logit" in outcome.out
    assert set(json.loads((run / "export" / "export.json").read_text())["formats"]) == {"torch", "torch-int8", "spikingjelly"}


def test_a_format_that_cannot_express_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = autospike(capsys, "export", run, "--pick", "knee", "--format", "nir")
    assert outcome.code == 2
    assert "NIR cannot express" in outcome.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_verify_and_what_differs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 as written; 1 after a change of one byte, of the version, or of the report."""
    export = run / "export"
    outcome = autospike(capsys, "verify", export)
    assert outcome.code == 0, outcome.out
    assert "nothing differs" in outcome.out
    for name, old, new in [
        ("torch/model.py", b"LIF", b"LIP"),
        ("report.json", b'"test_correct": ', b'"test_correct": 1'),
        ("export.json", b'"torch": "', b'"torch": "0.'),
    ]:
        path = export / name
        content = path.read_bytes()
        path.write_bytes(content.replace(old, new, 1))
        assert autospike(capsys, "verify", export).code == 1, name
        path.write_bytes(content)
    assert autospike(capsys, "verify", export).code == 0


def test_an_export_repairs_damaged_probes_and_a_damaged_manifest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Formats that were written before stay where the manifest is intact; a damaged one is written again."""
    export = run / "export"
    (export / "probes.safetensors").write_bytes(b"\xff" * 100)
    assert autospike(capsys, "export", run, "--pick", "knee").code == 0
    assert autospike(capsys, "verify", export).code == 0
    assert "torch-int8" in json.loads((export / "export.json").read_text())["formats"]
    for damaged in ('{"formats": {"torch": 3}}', '{"files": []}', "[1]", "{"):
        (export / "export.json").write_text(damaged)
        assert autospike(capsys, "export", run, "--pick", "knee").code == 0, damaged
        assert autospike(capsys, "verify", export).code == 0, damaged


@pytest.mark.parametrize("args", ["[1]", "null", '"x"', '{"exit_margin": []}'])
def test_arguments_of_a_model_of_another_type_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: str
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(run / "export", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_args": json.loads(args)}))
    outcome = autospike(capsys, "energy", folder, "--data", "digits", "--images", 2, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "the model is damaged" in outcome.err
    assert not (tmp_path / "out").exists()


def test_verify_needs_an_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "verify", run / "supernet")
    assert (outcome.code, "no export to verify" in outcome.err) == (2, True)


def test_pack(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything but checkpoints, with digests; equal runs give equal archives."""
    paths = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for path in paths:
        assert autospike(capsys, "pack", run, "--out", path).code == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MANIFEST.json"))
    assert {"README.txt", "experiment.yaml", "archive.sqlite", "log.jsonl", "export/report.json", "export/torch/model.py"} <= names
    assert names == {*manifest, "README.txt", "MANIFEST.json"}
    assert not [name for name in names if name.startswith("supernet/") and name.endswith(".safetensors")]
    assert autospike(capsys, "pack", run, "--out", tmp_path).code == 2


def test_firing_of_the_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "firing", run, "--images", "50", "--out", tmp_path / "firing")
    assert outcome.code == 0, outcome.err
    names = {path.name for path in (tmp_path / "firing").iterdir()}
    assert {"layers.csv", "neurons.csv", "rates.png", "attention.png"} <= names
    assert autospike(capsys, "firing", run / "supernet").code == 2
