"""Weights to start a supernet from: a published checkpoint, an exported or imported model, or another run's supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autospike import files
from autospike.config import load_experiment
from autospike.errors import UserError
from autospike.models.checkpoint_import import load_reference, read_checkpoint
from autospike.models.registry import first_conv
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints, trained

Part = Literal["supernet", "baseline"]


def adopt(supernet: Supernet, source: Path, part: Part) -> int:
    """Take over what the store and a source have in common, leading corners where sizes differ; returns how many numbers.

    Of a run, `part` says which of its networks.

    The head of other classes, and the first convolution of images with other channels, stay as they are.

    Raises:
        UserError: there is no network at the source, or it is of another family.
    """
    family, parameters = opened(source, part)
    if family != supernet.space.family:
        raise UserError(f"training.start_from: {source} holds a {family}, the space is of the {supernet.space.family} family")
    own = dict(supernet.shared.named_parameters())
    fixed = {
        f"{first_conv(family)}.weight": 1,
        **dict.fromkeys(("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"), 0),
    }
    foreign = {
        name
        for name, dim in fixed.items()
        if name in own and name in parameters and own[name].shape[dim] != parameters[name].shape[dim]
    }
    return supernet.adopt({name: tensor for name, tensor in parameters.items() if name not in foreign})


def opened(source: Path, part: Part) -> tuple[str, dict[str, Tensor]]:
    """The family of a network, and its parameters under our names.

    Raises:
        UserError: there is none.
    """
    if (source / "architecture.json").exists():
        architecture = Architecture.from_dict(files.read_json(source / "architecture.json"), source=str(source))
        return architecture.family, _tensors(source / "model.safetensors")
    if (source / "supernet").is_dir():
        record = Checkpoints(folder=source / part).record
        if record is None or not record.finished:
            raise UserError(f"training.start_from: {source / part}: its training has not finished; go on with it first")
        tensors = trained(_tensors(source / part / record.file))
        space = load_experiment(source / "experiment.yaml").search_space
        return space.family, {name.removeprefix("shared."): tensor for name, tensor in tensors.items()}
    if source.is_dir():
        raise UserError(f"training.start_from: {source} is neither an exported model (architecture.json) nor a run (supernet/)")
    state = read_checkpoint(source)
    if any(key.startswith(("stages.", "model.shared.")) for key in state):
        raise UserError(
            f"training.start_from: {source} is a file of this package; give the exported folder, or the run, that holds it"
        )
    model, architecture = load_reference(state)
    return architecture.family, model.state_dict()


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"training.start_from: {path} cannot be read ({str(error).splitlines()[0]})") from None
