"""The modules that a trie's nodes run: plain parts of plain models, on the supernet's weights.

Sharing goes one layer further than nodes do. Siblings read one stream, and weights are entangled: candidates that differ in their
neurons, or in what comes later in the block, still have the same first synapses. These are one object, which remembers its answer
while the siblings run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from autospike.evaluation.trie import Node
from autospike.models import build_segment
from autospike.nn.attention import Attention
from autospike.nn.blocks import MLP, ChannelConv, Residual, SepConv
from autospike.supernet import Supernet, batch_norms, corner


class Remembering:
    """A method of one tensor that remembers its last answer. It stands in the method's place, and does not hold the owner: what a
    population leaves behind is then free at once, and nobody has to look for it in cycles."""

    def __init__(self, method: Callable[[Tensor], Any]) -> None:
        self._method = WeakMethod(method)
        self._last: tuple[Tensor, Any] | None = None

    @property
    def owner(self) -> Any:
        return self.method.__self__

    @property
    def method(self) -> Any:
        method = self._method()
        assert method is not None
        return method

    def __call__(self, x: Tensor) -> Any:
        if self._last is None or self._last[0] is not x:
            self._last = (x, self.method(x))
        return self._last[1]

    def forget(self) -> None:
        self._last = None


class Modules:
    """Of a trie's nodes, built when first asked for: nodes of which everything is kept never are.

    Nodes share the memory of equal weights. Statistics are each node's own, but for those of shared synapses.
    """

    def __init__(self, supernet: Supernet) -> None:
        self._supernet = supernet
        self._corners = _Corners(supernet)
        self._built: dict[str, nn.Module] = {}
        self._shared: dict[str, dict[Any, Remembering]] = defaultdict(dict)

    def of(self, node: Node) -> nn.Module:
        if node.key not in self._built:
            net = self._supernet
            with torch.device("meta"):
                module = build_segment(node.architecture, node.name, num_classes=net.num_classes, in_chans=net.in_chans)
            self._built[node.key] = self._sharing(node.parent, self._corners.given_to(module, node))
        return self._built[node.key]

    def forget(self, parent: Node) -> None:
        """The children of a node have run."""
        for remembering in self._shared.get(parent.key, {}).values():
            remembering.forget()

    def _sharing(self, parent: str, module: nn.Module) -> nn.Module:
        """The module, whose first synapses are those of its siblings where they are alike.

        Under a membrane shortcut they read what the branch's first neurons make of the stream, so these have to be alike as well.
        """
        if not isinstance(module, Residual):
            return module
        before = module.lif.neuron if module.shortcut == "membrane" else None
        if before is not None:
            module.lif = self._one_of(parent, ("lif", before), module.lif, "forward")
        for name in _first_synapses(module.mixer):
            synapse = module.mixer.get_submodule(name)
            alike = (name, type(synapse), tuple(p.shape for p in synapse.parameters()), before)
            held = self._one_of(parent, alike, synapse, "mapped")
            self._one_of(parent, (*alike, "bn"), held.bn, "measured")
            held.shared |= held is not synapse
            setattr(module.mixer, name, held)
        return module

    def _one_of(self, parent: str, alike: Any, module: Any, method: str) -> Any:
        """The module of this kind that the siblings share, whose method remembers as soon as there are two."""
        held = self._shared[parent].get(alike)
        if held is None:
            self._shared[parent][alike] = Remembering(getattr(module, method))
            return module
        setattr(held.owner, method, held)
        return held.owner


def _first_synapses(mixer: nn.Module) -> tuple[str, ...]:
    """What reads a mixer's input."""
    match mixer:
        case Attention():
            return mixer.operands
        case SepConv():
            return ("expand",)
        case MLP():
            return ("fc1",)
        case ChannelConv():
            return ("conv1",)
    return ()


class _Corners:
    """Leading corners of the shared parameters, each copied once."""

    def __init__(self, supernet: Supernet) -> None:
        self._shared = dict(supernet.shared.named_parameters())
        self._device = next(iter(self._shared.values())).device
        self._copies: dict[tuple[str, torch.Size], nn.Parameter] = {}

    def given_to(self, module: nn.Module, node: Node) -> nn.Module:
        """The module, its parameters replaced by those of the store, its statistics ready to be measured."""
        for name, parameter in list(module.named_parameters()):
            owner, leaf = _owner(module, name)
            owner.register_parameter(leaf, self._of(f"{node.prefix}.{name}".lstrip("."), parameter))
        for bn in batch_norms(module):
            bn.running_mean = torch.zeros(bn.num_features, device=self._device)
            bn.running_var = torch.ones(bn.num_features, device=self._device)
            bn.num_batches_tracked = torch.zeros((), dtype=torch.long, device=self._device)
        return module.eval()

    def _of(self, name: str, like: Tensor) -> nn.Parameter:
        key = (name, like.shape)
        if key not in self._copies:
            held = corner(self._shared[name].detach(), like.shape).contiguous()
            self._copies[key] = nn.Parameter(held, requires_grad=False)
        return self._copies[key]


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf
