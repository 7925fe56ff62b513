"""Digests of a short run of every family on the digits: `python experiments/reproduction OUT.json`, twice, then compare the files.

A change that only moves or renames code must not change any digest on the same machine. Each run trains 12 steps, searches three
generations and exports, through the command line. Recorded: the checkpoints of both trainings, every row and proposal of the
archive without its times, the exported weights and measurements, and the logits of the exported model on fixed images.

    python experiments/reproduction before.json    # at the commit before the change
    python experiments/reproduction after.json     # at the commit after it
    diff before.json after.json
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import timm
import torch

import autospike  # noqa: F401  registers the models in timm

FAMILIES = ("digits", "digits_spike_driven", "digits_meta_spikeformer", "digits_qkformer")
SETTINGS = {
    "training.epochs": 1,
    "training.batch_size": 88,  # 12 steps of the 1,077 training images
    "training.warmup_epochs": 0,
    "search.population": 8,
    "search.generations": 3,
}
NOT_COMPARED = ("protocol_id", "seconds", "measured_at", "counts")


def main(out: Path) -> None:
    """Run every family, and write the digests to `out`."""
    experiments = Path(__file__).parents[1]
    found = {name: digests_of(experiments / f"{name}.yaml") for name in FAMILIES}
    out.write_text(json.dumps(found, indent=2) + "\n")


def digests_of(experiment: Path) -> dict[str, Any]:
    """Run an experiment for a short time, and return the digests of what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        overrides = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "autospike", "run", str(experiment), "--run", str(run), *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return {
            "checkpoints": {
                part: json.loads((run / part / "checkpoint.json").read_text())["sha256"] for part in ("supernet", "baseline")
            },
            "archive": _archive(run / "archive.sqlite"),
            "export": _export(run / "export"),
        }


def _archive(path: Path) -> dict[str, str]:
    archive = sqlite3.connect(path)
    archive.row_factory = sqlite3.Row
    rows = [dict(row) for row in archive.execute("SELECT * FROM evaluations ORDER BY rowid")]
    counts = [json.loads(zlib.decompress(row["counts"])) for row in rows]
    compared = [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows]
    proposed = [
        tuple(row) for row in archive.execute("SELECT generation, position, architecture_id, free FROM proposals ORDER BY rowid")
    ]
    return {"rows": str(len(rows)), "evaluations": _digest(compared), "counts": _digest(counts), "proposals": _digest(proposed)}


def _export(folder: Path) -> dict[str, str]:
    report = json.loads((folder / "report.json").read_text())
    measured = [(r["test_accuracy"], r["energy_mj"], r["params"], r["firing_rates"]) for r in (report, report["baseline"])]
    model = timm.create_model(f"local-dir:{folder}").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        logits = model(torch.rand(8, *model.pretrained_cfg["input_size"]) * 2 - 1)
    return {
        "architecture": report["architecture_id"],
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "measured": _digest(measured),
        "logits": hashlib.sha256(logits.numpy().tobytes()).hexdigest(),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=bytes.hex).encode()).hexdigest()  # masks are bytes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
