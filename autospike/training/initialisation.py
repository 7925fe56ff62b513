"""Initial parameters of a supernet from a published checkpoint, an exported or imported model, or the supernet of another run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autospike import files
from autospike.config import NormalisationConfig
from autospike.data.preparation import MEAN, STD
from autospike.errors import UserError
from autospike.models.checkpoint_import import load_reference
from autospike.models.checkpoint_protocol import evaluation_protocol
from autospike.models.checkpoint_reader import open_checkpoint
from autospike.models.registry import first_convs
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
    read = read_network(source, network)
    family, parameters = read.family, read.parameters
    if family != supernet.space.family:
        raise UserError(
            f"training.start_from: {source} contains a network of the {family} family, but the search space is of the "
            f"{supernet.space.family} family"
        )
    own = dict(supernet.shared.named_parameters())
    # The dimension that must match for a parameter to be copied.
    fixed = {
        **{f"{conv}.weight": 1 for conv in first_convs(family)},
        **{f"{head}.{leaf}": 0 for head in ("head", "head_dist", "head_dist.linear") for leaf in ("weight", "bias")},
    }
    mismatched = {
        name
        for name, dim in fixed.items()
        if name in own and name in parameters and own[name].shape[dim] != parameters[name].shape[dim]
    }
    return supernet.copy_from({name: tensor for name, tensor in parameters.items() if name not in mismatched})


@dataclass(frozen=True, kw_only=True)
class SourceNetwork:
    """A network from which a training starts.

    Attributes:
        family: Its family.
        parameters: The parameters by the names that this package uses.
        normalisation: With which it was trained; None for that of this package, or for event frames.
        choice: A sentence on the weights of a checkpoint that were taken, if there was a choice; see `Checkpoint.choice`.
    """

    family: str
    parameters: dict[str, Tensor]
    normalisation: NormalisationConfig | None = None
    choice: str | None = None

    @property
    def channels(self) -> int:
        """Number of channels of the images that it reads; 0 if it has no convolution that reads them."""
        names = (f"{conv}.weight" for conv in first_convs(self.family))
        weight = next((self.parameters[name] for name in names if name in self.parameters), None)
        return 0 if weight is None or weight.dim() < 2 else int(weight.shape[1])


def read_network(source: Path, network: NetworkOfRun) -> SourceNetwork:
    """Read a network.

    Args:
        source: A checkpoint file, the folder of an exported or imported model, or a run.
        network: Which network, if the source is a run.

    Returns:
        The network.

    Raises:
        UserError: There is no network at the source, or its parameters are not finite.
    """
    read = _read(source, network)
    broken = next((name for name, tensor in read.parameters.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise UserError(f"training.start_from: {source}: {broken} has values that are NaN or infinite; start from another network")
    return read


def _read(source: Path, network: NetworkOfRun) -> SourceNetwork:
    if (source / "architecture.json").exists():
        architecture = Architecture.from_dict(files.read_json(source / "architecture.json"), source=str(source))
        parameters = _read_tensors(source / "model.safetensors")
        return SourceNetwork(family=architecture.family, parameters=parameters, normalisation=_exported_normalisation(source))
    if (source / network).is_dir():
        record = Checkpoints(folder=source / network).record
        if record is None or not record.finished:
            raise UserError(f"training.start_from: {source / network}: its training has not finished; finish it first")
        tensors = trained_parameters(_read_tensors(source / network / record.file))
        experiment = load_stored_experiment(source)
        parameters = {name.removeprefix("shared."): tensor for name, tensor in tensors.items()}
        family, normalisation = experiment.search_space.family, experiment.data.normalisation
        return SourceNetwork(family=family, parameters=parameters, normalisation=normalisation)
    if source.is_dir():
        raise UserError(f"training.start_from: {source} is neither an exported model (architecture.json) nor a run (supernet/)")
    checkpoint = open_checkpoint(source)
    if any(key.startswith(("stages.", "shared.", "model.shared.")) for key in checkpoint.state_dict):
        raise UserError(
            f"training.start_from: {source} is a file of autospike; give the folder of the exported model or of the run instead"
        )
    model, architecture = load_reference(checkpoint.state_dict)
    read = SourceNetwork(family=architecture.family, parameters=model.state_dict(), choice=checkpoint.choice)
    protocol = evaluation_protocol(architecture, channels=read.channels, num_classes=model.num_classes)
    preparation = protocol.preparation
    return replace(read, normalisation=_normalisation(preparation.mean, preparation.std) if read.channels == 3 else None)


def _exported_normalisation(folder: Path) -> NormalisationConfig | None:
    """The normalisation that the folder of an exported or imported model names."""
    cfg = files.read_json(folder / "config.json")
    try:
        mean, std = (tuple(map(float, cfg["pretrained_cfg"][name])) for name in ("mean", "std"))
        return _normalisation(mean, std)
    except (KeyError, TypeError, ValueError) as error:  # pydantic's error is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"training.start_from: {folder / 'config.json'}: mean and std are damaged ({reason})") from None


def _normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> NormalisationConfig | None:
    """The normalisation as a field of an experiment: None for that of this package, or for none, as of event frames."""
    if ({*mean}, {*std}) in (({MEAN}, {STD}), ({0.0}, {1.0})):
        return None
    return NormalisationConfig(mean=mean, std=std)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"training.start_from: {path} cannot be read ({str(error).splitlines()[0]})") from None
