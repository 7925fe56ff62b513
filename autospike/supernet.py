"""A supernet is a parameter store; a subnet is a view of it.

The store holds the parameters of the largest architecture of a space, and, where blocks choose among mixers, those of every choice.
A subnet runs the plain model of its own architecture on the leading corner of each parameter of the same name,
`shared[name][:s0, :s1, ...]`: that one rule is weight entanglement (Auto-Spikformer, arXiv 2306.00807). Attention operators read
the same q, k and v; a separable convolution, a RepConv and each kind of channel mixer have parameters of their own. Normalisation
statistics are nobody's to share: in training a subnet uses those of its batch, be it on one rank or on several,
and keeps none; an extracted subnet has buffers of its own, to be calibrated before it is scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

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
        space: what the supernet spans; its largest architecture sets the shapes.
        num_classes: outputs of every subnet.
        in_chans: channels of an image.
        surrogate: what stands for a neuron's step in training.
    """

    def __init__(self, space: SearchSpace, *, num_classes: int, in_chans: int, surrogate: Surrogate = "sigmoid") -> None:
        super().__init__()
        self.space = space
        self.surrogate = surrogate
        self.num_classes = num_classes
        self.in_chans = in_chans
        self._of_ranks = False
        self.shared = nn.Module()
        for architecture in space.cover():
            self._add(architecture)

    def _add(self, architecture: Architecture) -> None:
        """Make room for an architecture, with fresh parameters where it has some that the store lacks."""
        held = dict(self.shared.named_parameters())
        needed = {name: p.shape for name, p in self._template(architecture).named_parameters()}
        if any(name not in held or not _fits(shape, held[name].shape) for name, shape in needed.items()):
            model = build_model(architecture, num_classes=self.num_classes, in_chans=self.in_chans)
            for name, parameter in model.named_parameters():
                if name not in held:
                    _put(self.shared, name, parameter)
                elif not _fits(parameter.shape, held[name].shape):
                    raise ValueError(f"{name}: no architecture of this space has it at its largest; a family broke the corner rule")

    def forward(self, x: Tensor, architectures: Sequence[Architecture], at: Sequence[int] = ()) -> list[Logits]:
        """Run several subnets on one batch, normalising by its statistics.

        Shape: `x` `[B, C, H, W]`, or frames `[T, B, C, H, W]`, to one `[B, num_classes]` for each architecture, in order; to a pair
        of them where there are two heads. `at` some numbers of steps, whatever T the architectures have: those at each,
        `[len(at), B, num_classes]`, of one run of the most steps.
        """
        return [functional_call(self._template(architecture), self.view(architecture), (x, at)) for architecture in architectures]

    def synchronise(self) -> None:
        """From now on a batch is what all ranks were given, together, and `forward` is called on all of them alike."""
        self._of_ranks = True

    def view(self, architecture: Architecture) -> dict[str, Tensor]:
        """The subnet's parameters: leading corners that share the store's memory, and pass gradients to it."""
        shared = dict(self.shared.named_parameters())
        return {name: corner(shared[name], p.shape) for name, p in self._template(architecture).named_parameters()}

    @torch.no_grad()
    def adopt(self, parameters: Mapping[str, Tensor]) -> int:
        """Take over the common corner of every parameter that the store has under the same name; returns how many numbers."""
        taken = 0
        for name, own in self.shared.named_parameters():
            given = parameters.get(name)
            if given is not None and given.dim() == own.dim():
                shape = [min(sizes) for sizes in zip(own.shape, given.shape, strict=True)]
                corner(own, shape).copy_(corner(given, shape))
                taken += math.prod(shape)
        return taken

    def extract(self, architecture: Architecture) -> SpikingModel:
        """The subnet as a plain model with a copy of its parameters. Its normalisation is not calibrated yet."""
        with torch.device("meta"):
            model = build_model(architecture, num_classes=self.num_classes, in_chans=self.in_chans)
        model.to_empty(device=next(self.shared.parameters()).device)
        model.load_state_dict({name: p.detach() for name, p in self.view(architecture).items()}, strict=False)
        for bn in batch_norms(model):
            bn.reset_running_stats()
        return model.eval()

    def _template(self, architecture: Architecture) -> SpikingModel:
        return _template(architecture, self.num_classes, self.in_chans, self._of_ranks, self.surrogate)


@lru_cache(maxsize=128)
def _template(architecture: Architecture, num_classes: int, in_chans: int, of_ranks: bool, surrogate: Surrogate) -> SpikingModel:
    """A plain model without memory or statistics, through which views are run."""
    with torch.device("meta"):
        template = _without_statistics(build_model(architecture, num_classes=num_classes, in_chans=in_chans))
        if of_ranks:
            synchronise(template)
    for lif in template.modules():
        if isinstance(lif, LIF):
            lif.dynamics = Dynamics(surrogate=surrogate)
    template.set_distilled_training()
    return template


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
    """`tensor[:s0, :s1, ...]`.

    Raises:
        ValueError: the shape does not fit into the tensor; a family broke the corner rule.
    """
    if not _fits(shape, tensor.shape):
        raise ValueError(f"a subnet's parameter of shape {tuple(shape)} is not a corner of the shared {tuple(tensor.shape)}")
    return tensor[tuple(slice(size) for size in shape)]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _without_statistics(model: M) -> M:
    """Normalise by the batch, and keep no running statistics."""
    for bn in batch_norms(model):
        bn.track_running_stats = False
        bn.running_mean = bn.running_var = bn.num_batches_tracked = None
    return model
