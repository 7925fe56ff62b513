"""The model that a command measures: its folder, its calibration and its classes."""

from __future__ import annotations

from pathlib import Path

from autospike.console import note
from autospike.data.images import Images
from autospike.errors import UserError
from autospike.evaluation.calibration import UncalibratedError, require_calibrated
from autospike.model_folder import ExportedModel, read_model
from autospike.report.test_split import log_opening
from autospike.run_directory import RunDirectory
from autospike.space.published import PUBLISHED, similar_networks


def find_model(model: Path) -> tuple[Path, bool]:
    """Find the folder of a model.

    Args:
        model: A folder, a run, which stands for its export, or the name of a published network.

    Returns:
        The folder and True, or False for a published name.

    Raises:
        UserError: There is no such folder or network.
    """
    folder = next((path for path in (model / "export", model) if (path / "architecture.json").exists()), model)
    if folder.is_dir() or str(model) not in PUBLISHED:
        if not folder.is_dir():
            raise UserError(f"{model}: no such folder, and no published network of this name; {similar_networks(str(model))}")
        return folder, True
    return folder, False


def check_writable(out: Path) -> None:
    """Check that a folder can be written to.

    Args:
        out: The folder.

    Raises:
        UserError: It, or one of its parents, is a file.
    """
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{out}: {existing} is a file; give a folder to write to: --out FOLDER")


def read_calibrated(folder: Path) -> ExportedModel:
    """Read a model whose BatchNorm statistics were calibrated.

    Args:
        folder: The folder.

    Returns:
        The model.

    Raises:
        UserError: They were not.
    """
    exported = read_model(folder)
    try:
        require_calibrated(exported.model)
    except UncalibratedError as error:
        raise UserError(f"{folder}: cannot measure a model whose normalisation was not calibrated ({error})") from None
    return exported


def log_test_split(source: str, command: str, exported: ExportedModel, images: int) -> None:
    """Log that the test split of a run is opened. Without a folder that may be written to, a line is printed instead.

    Args:
        source: The data. If it is no run, nothing is logged.
        command: Name of the command.
        exported: The model that is measured.
        images: Number of images that are measured.

    Raises:
        UserError: The run cannot be opened, or its log cannot be written.
    """
    if not (Path(source) / "experiment.yaml").exists():
        return
    run = RunDirectory.resume(Path(source))
    if run.is_writable:
        log_opening(run, command=command, images=images, architecture_ids=[exported.model.architecture.id])
    else:
        note(f"{command}: test split opened; not in the log, {run.folder} is read-only")


def other_classes(exported: ExportedModel, images: Images) -> str:
    """Return why the classes of a model are not known to be those of the data, and what to do.

    Args:
        exported: The model.
        images: The data.
    """
    numbered = exported.classes == tuple(str(i) for i in range(len(exported.classes)))
    why = "a checkpoint has numbers instead of names" if numbered else "they have other names"
    return (
        f"its {len(exported.classes)} classes are not the {len(images.classes)} of the data ({why}); say which are which: "
        "--class-map FILE with CLASS,FOLDER in each line, or --class-map order if both are in the same order"
    )
