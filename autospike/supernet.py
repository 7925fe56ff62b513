"""A supernet is a parameter store; a subnet is a view of it.

The store holds the parameters of the largest architecture of a space and, where blocks choose among token or channel mixers, those
of every choice. A subnet runs the plain model of its architecture on the leading corner of each parameter of the same name,
`shared[name][:s0, :s1, ...]`. This rule is weight entanglement (Auto-Spikformer, arXiv 2306.00807). Attention operators share the
same q, k and v; a separable convolution, a RepConv and each kind of channel mixer have their own parameters.

BatchNorm statistics are not shared. In training, a subnet normalises by the statistics of its batch, on one rank or on all, and
keeps none. An extracted subnet has its own buffers, which must be calibrated before it is scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.nn.neuron import LIF, Dynamics, Surrogate
from autospike.nn.synchronised import synchronise
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

M = TypeVar("M", bound=nn.Module)

Logits = Tensor | tuple[Tensor, Tensor]


class Supernet(nn.Module):
    """The shared parameters of every architecture of a space.

    Args:
        space: The architectures; the largest one determines the shapes.
        num_classes: Number of classes.
        in_chans: Number of channels of an image.
        surrogate: Surrogate gradient of the neurons.

    Attributes:
        shared: The parameters, by the names of the plain models.
    """

    def __init__(self, space: SearchSpace, *, num_classes: int, in_chans: int, surrogate: Surrogate = "sigmoid") -> None:
        super().__init__()
        self.space = space
        self.surrogate = surrogate
        self.num_classes = num_classes
        self.in_chans = in_chans
        self._distributed = False
        self.shared = nn.Module()
        for architecture in space.cover():
            self._add(architecture)

    def _add(self, architecture: Architecture) -> None:
        """Add the parameters of an architecture that the store lacks, and replace stored ones that are corners of its own.

        Raises:
            ValueError: A parameter is larger than the stored one in one dimension and smaller in another, so that no architecture
                has it at its largest.
        """
        held = dict(self.shared.named_parameters())
        needed = self._shapes(architecture)
        if any(name not in held or not _fits(shape, held[name].shape) for name, shape in needed.items()):
            model = build_model(architecture, num_classes=self.num_classes, in_chans=self.in_chans)
            for name, parameter in model.named_parameters():
                if name not in held or (parameter.shape != held[name].shape and _fits(held[name].shape, parameter.shape)):
                    _put(self.shared, name, parameter)
                elif not _fits(parameter.shape, held[name].shape):
                    raise ValueError(f"{name}: no architecture of the space has this parameter at its largest in every dimension")

    def forward(
        self, x: Tensor, architectures: Sequence[Architecture], at: Sequence[int] = (), targets: Any = None
    ) -> list[Logits]:
        """Run several subnets on one batch, each normalising by the statistics of the batch.

        Args:
            x: Images `[B, C, H, W]`, or event frames `[T, B, C, H, W]`.
            architectures: The subnets.
            at: Values of T. If given, each subnet runs for the largest of them instead of its own T.
            targets: Of the batch, for detectors only, which compute their losses.

        Returns:
            For each architecture the losses of a detector, or the logits: `[B, num_classes]`, or `[len(at), B, num_classes]` if
            `at` is given; a pair of them if the architecture has two heads.
        """
        args = (x, at) if targets is None else (x, at, False, targets)
        return [functional_call(self._template(architecture), self.view(architecture), args) for architecture in architectures]

    def synchronise(self) -> None:
        """Normalise by the statistics of the batches of all ranks from now on. All ranks must then call `forward` alike."""
        self._distributed = True

    def view(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return the parameters of a subnet as leading corners of the shared ones.

        Args:
            architecture: The subnet.

        Returns:
            Views that share the memory of the store and pass gradients to it, by name.
        """
        shared = dict(self.shared.named_parameters())
        return {name: corner(shared[name], shape) for name, shape in self._shapes(architecture).items()}

    @torch.no_grad()
    def copy_from(self, parameters: Mapping[str, Tensor]) -> int:
        """Copy the common leading corner of every parameter of the same name and number of dimensions.

        Args:
            parameters: The source, by name.

        Returns:
            The number of copied scalars.
        """
        copied = 0
        for name, own in self.shared.named_parameters():
            source = parameters.get(name)
            if source is not None and source.dim() == own.dim():
                shape = [min(sizes) for sizes in zip(own.shape, source.shape, strict=True)]
                corner(own, shape).copy_(corner(source, shape))
                copied += math.prod(shape)
        return copied

    def extract(self, architecture: Architecture) -> SpikingModel:
        """Build a plain model with a copy of the parameters of a subnet.

        Args:
            architecture: The subnet.

        Returns:
            The model, in eval mode. Its BatchNorm statistics are not calibrated.
        """
        with torch.device("meta"):
            model = build_model(architecture, num_classes=self.num_classes, in_chans=self.in_chans)
        model.to_empty(device=next(self.shared.parameters()).device)
        model.load_state_dict({name: p.detach() for name, p in self.view(architecture).items()}, strict=False)
        for bn in batch_norms(model):
            bn.reset_running_stats()
        return model.eval()

    def _template(self, architecture: Architecture) -> SpikingModel:
        return _template(architecture, self.num_classes, self.in_chans, self._distributed, self.surrogate)

    def _shapes(self, architecture: Architecture) -> dict[str, torch.Size]:
        return _shapes(architecture, self.num_classes, self.in_chans, self._distributed, self.surrogate)


@lru_cache(maxsize=128)
def _template(architecture: Architecture, num_classes: int, in_chans: int, distributed: bool, surrogate: Surrogate) -> SpikingModel:
    """A plain model on the meta device and without statistics, with which `functional_call` runs views."""
    with torch.device("meta"):
        template = _without_statistics(build_model(architecture, num_classes=num_classes, in_chans=in_chans))
        if distributed:
            synchronise(template)
    for lif in template.modules():
        if isinstance(lif, LIF):
            lif.dynamics = Dynamics(surrogate=surrogate)
    template.set_distilled_training()
    return template


@lru_cache(maxsize=128)
def _shapes(architecture: Architecture, *template: Any) -> dict[str, torch.Size]:
    """The shapes of the parameters of a template, by name."""
    return {name: parameter.shape for name, parameter in _template(architecture, *template).named_parameters()}


def _fits(shape: Sequence[int], limits: Sequence[int]) -> bool:
    return len(shape) == len(limits) and all(size <= limit for size, limit in zip(shape, limits, strict=True))


def _put(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under its dotted name."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.register_parameter(leaf, parameter)


def corner(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the leading corner `tensor[:s0, :s1, ...]` of a tensor.

    Args:
        tensor: The tensor.
        shape: Size of the corner in each dimension.

    Returns:
        A view, or the tensor itself if it has this shape.

    Raises:
        ValueError: The shape does not fit into the tensor.
    """
    if not _fits(shape, tensor.shape):
        raise ValueError(f"a parameter of shape {tuple(shape)} is not a corner of the shared parameter {tuple(tensor.shape)}")
    if tuple(shape) == tensor.shape:
        return tensor
    return tensor[tuple(slice(size) for size in shape)]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a model, in the order of its modules.

    Args:
        model: The model.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _without_statistics(model: M) -> M:
    """Normalise by the statistics of the batch, and keep no running ones."""
    for bn in batch_norms(model):
        bn.track_running_stats = False
        bn.running_mean = bn.running_var = bn.num_batches_tracked = None
    return model
