"""`autospike pack`: one archive with everything that the appendix of a paper needs. Does not import torch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from autospike import files
from autospike.console import note
from autospike.errors import UserError
from autospike.run_directory import RunDirectory

# What of a run is packed, in this order. Checkpoints are not, unless they are asked for: they are large, and the export has the
# weights of the selected subnet.
CONTENT = (
    "experiment.yaml",
    "environment.json",
    "plan.json",
    "data.json",
    "data/*",
    "log.jsonl",
    "archive.sqlite",
    "report/**/*",
    "export/**/*",
    "baseline/*.json",
    "supernet/*.json",
    "retrain/**/*.json",
)
WEIGHTS = ("supernet/*.safetensors", "baseline/*.safetensors", "retrain/**/*.safetensors")
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # of every file, so that equal runs give equal archives

READ_ME = """This archive was written by `autospike pack`.

experiment.yaml     complete configuration with the search space
environment.json    package versions, seed and machine
log.jsonl           events of the run
data.json, data/    digest and list of the samples with their splits
archive.sqlite      every measured candidate with its operation counts
report/             figures and tables
export/             the selected subnet; check it with: autospike verify export --data DATA
MANIFEST.json       SHA-256 of every file
"""


def pack(run: RunDirectory, out: Path | None = None, *, weights: bool = False) -> Path:
    """Write the files of a run to one zip file. The run itself is only read.

    Args:
        run: The run.
        out: The file to write; RUN.zip beside the run unless given.
        weights: Whether to include the checkpoints of supernet, reference network and retrained networks.

    Returns:
        The file.

    Raises:
        UserError: Nothing was searched yet, or the file cannot be written.
    """
    run.existing_archive()
    target = out or run.folder.resolve().with_name(f"{run.folder.resolve().name}.zip")
    if target.is_dir():
        raise UserError(f"{target}: is a folder; give a file to write with --out")
    root = run.folder
    found = [path for pattern in (*CONTENT, *(WEIGHTS if weights else ())) for path in sorted(root.glob(pattern))]
    found = [path for path in dict.fromkeys(found) if path.is_file() and _belongs(path.relative_to(root))]
    manifest = {str(path.relative_to(root)): files.sha256(path) for path in found}
    with files.replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("README.txt", READ_ME), ("MANIFEST.json", json.dumps(manifest, indent=2) + "\n")):
            archive.writestr(_entry(name), text)
        for path in found:
            archive.writestr(_entry(str(path.relative_to(root))), path.read_bytes())
    size = target.stat().st_size / 1e6
    note(f"pack: {target}, {len(found)} files, {size:.1f} MB{'' if weights else '; without checkpoints (--weights adds them)'}")
    return target


def _belongs(path: Path) -> bool:
    """Whether a file is part of the run: no lock and no unfinished file."""
    return not any(part.startswith(".") or part.endswith(".part") for part in path.parts)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, TIMESTAMP)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry
