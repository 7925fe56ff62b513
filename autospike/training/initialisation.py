"""Initial parameters of a supernet from a published checkpoint, an exported or imported model, or the supernet of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autospike import files
from autospike.errors import UserError
from autospike.models.checkpoint_import import load_reference, read_checkpoint
from autospike.models.registry import first_conv
from autospike.run_directory import load_stored_experiment
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints, trained_parameters

# The folder of one of the two networks that a run trains.
NetworkOfRun = Literal["supernet", "baseline"]


def initialise_from(supernet: Supernet, source: Path, network: NetworkOfRun) -> int:
    """Copy the parameters that a supernet and a source have in common, the leading corner where their sizes differ.

    A head for another number of classes and a first convolution for another number of channels are not copied.

    Args:
        supernet: Its parameters are changed in place.
        source: A checkpoint file, the folder of an exported or imported model, or a run.
        network: Which network, if the source is a run.

    Returns:
        The number of copied scalars.

    Raises:
        UserError: There is no network at the source, or it belongs to another family.
    """
    family, parameters = read_network(source, network)
    if family != supernet.space.family:
        raise UserError(
            f"training.start_from: {source} contains a network of the {family} family, but the search space is of the "
            f"{supernet.space.family} family"
        )
    own = dict(supernet.shared.named_parameters())
    # The dimension that must match for a parameter to be copied.
    fixed = {
        f"{first_conv(family)}.weight": 1,
        **dict.fromkeys(("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"), 0),
    }
    mismatched = {
        name
        for name, dim in fixed.items()
        if name in own and name in parameters and own[name].shape[dim] != parameters[name].shape[dim]
    }
    return supernet.copy_from({name: tensor for name, tensor in parameters.items() if name not in mismatched})


def read_network(source: Path, network: NetworkOfRun) -> tuple[str, dict[str, Tensor]]:
    """Read a network.

    Args:
        source: A checkpoint file, the folder of an exported or imported model, or a run.
        network: Which network, if the source is a run.

    Returns:
        The family, and the parameters by the names that this package uses.

    Raises:
        UserError: There is no network at the source.
    """
    if (source / "architecture.json").exists():
        architecture = Architecture.from_dict(files.read_json(source / "architecture.json"), source=str(source))
        return architecture.family, _read_tensors(source / "model.safetensors")
    if (source / "supernet").is_dir():
        record = Checkpoints(folder=source / network).record
        if record is None or not record.finished:
            raise UserError(f"training.start_from: {source / network}: its training has not finished; finish it first")
        tensors = trained_parameters(_read_tensors(source / network / record.file))
        space = load_stored_experiment(source).search_space
        return space.family, {name.removeprefix("shared."): tensor for name, tensor in tensors.items()}
    if source.is_dir():
        raise UserError(f"training.start_from: {source} is neither an exported model (architecture.json) nor a run (supernet/)")
    state = read_checkpoint(source)
    if any(key.startswith(("stages.", "model.shared.")) for key in state):
        raise UserError(
            f"training.start_from: {source} is a file of autospike; give the folder of the exported model or of the run instead"
        )
    model, architecture = load_reference(state)
    return architecture.family, model.state_dict()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"training.start_from: {path} cannot be read ({str(error).splitlines()[0]})") from None
