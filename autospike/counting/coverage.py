"""The second look: every operation of torch that a model runs outside layers with rules, and in which layer it does."""

from __future__ import annotations

from collections import Counter as Frequencies
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from autospike.counting.accumulator import OperationAccumulator
from autospike.counting.layers import RULES
from autospike.counting.operations import COUNTED, REASONS, Batch, free_reason, is_composite, operation, same_at_every_step
from autospike.nn.neuron import LIF

# Spikingjelly's neurons have no common base.
NEURON_LAYERS: tuple[type[nn.Module], ...] = (
    LIF,
    *(kind for kind in vars(neuron).values() if isinstance(kind, type) and issubclass(kind, nn.Module)),
)
NEURONS = "neurons"
# What happens inside them no convention counts.
FREE_LAYERS: dict[tuple[type[nn.Module], ...], str] = {
    NEURON_LAYERS: NEURONS,
    (_BatchNorm,): "normalisation, which folds into weights",
}


class UnknownOperationError(RuntimeError):
    """An operation that would cost nothing, for no rule says what it costs."""


def numbered(name: str, calls: Frequencies[str]) -> str:
    """`name`, then `name#2`, ...: what is called again in one forward is another layer."""
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}#{calls[name]}"


def unnumbered(name: str) -> str:
    return name.partition("#")[0]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module of the model. What happens in a covered one is counted by its rule, or free."""

    name: str
    covered: bool
    free: str | None
    synapse: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> Layer:
        free = next((reason for kinds, reason in FREE_LAYERS.items() if isinstance(module, kinds)), None)
        covered = free is not None or type(module) in RULES
        return cls(name=name, covered=covered, free=free, synapse=isinstance(module, nn.Linear | _ConvNd))


@dataclass
class StillImages:
    """Knows what reads a still image: before any neuron fired, what enters is the same at every step, or at every call."""

    inputs: dict[str, Tensor] = field(default_factory=dict)

    def enters(self, layer: str, x: Tensor, *, time_steps: int, neurons_fired: bool) -> bool:
        first = self.inputs.get(unnumbered(layer))
        if first is not None:
            return torch.equal(first, x)
        if not neurons_fired:
            self.inputs[unnumbered(layer)] = x
        return not neurons_fired and same_at_every_step(x, time_steps)


class OperatorCoverage(TorchDispatchMode):
    """Gives what it counts to `add`, by layer and operation; collects calls that are free, by reason, and unknown ones.

    Args:
        named: the model, then all that is in it.
        behind_neurons: whether it is a part of a network before which neurons have fired.
        reads_image: whether a layer that an earlier batch met reads a still image; None of one that is new.
    """

    reads_layers = True  # by rules: it need not see what runs in them

    def __init__(
        self,
        named: dict[str, nn.Module],
        batch: Batch,
        *,
        strict: bool,
        behind_neurons: bool,
        add: Callable[[OperationAccumulator], None],
        reads_image: Callable[[str], bool | None],
    ) -> None:
        super().__init__()
        self.batch, self.strict, self.add, self.reads_image = batch, strict, add, reads_image
        self.behind_neurons = behind_neurons
        self.layers = {module: Layer.of(name, module) for name, module in named.items()}
        self.path = [next(iter(self.layers.values()))]  # the model, whose methods may be called, not itself
        self.covered = 0
        self.counted = False
        self.images = StillImages()
        self.calls, self.free, self.unknown = Frequencies[str](), Frequencies[str](), Frequencies[str]()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Hooks of others run inside the layers that they observe."""
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._enter).remove)  # before a module's own hooks
            for module in self.layers:
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)  # after them
            stack.enter_context(self)
            yield

    def _enter(self, module: nn.Module, args: Any) -> None:
        layer = self.layers.get(module)
        if layer:
            self.path.append(layer)
            self.covered += layer.covered
            for inside in (layer, *(self.layers[x] for x in args if isinstance(x, _BatchNorm) and x in self.layers)):
                if inside.free:  # neurons normalise what enters them, if they are told to
                    self.free[inside.free] += 1

    def _leave(self, _module: nn.Module, _args: Any, _result: Any) -> None:
        self.covered -= self.path.pop().covered

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.covered:
            return func(*args, **kwargs)
        name = operation(func)
        if name not in COUNTED and name not in REASONS and is_composite(func):
            with self:  # inference mode shows what is made of others whole
                return func.decompose(*args, **kwargs)
        self._look(name, args, kwargs)  # before it runs, for it may write over what enters
        return func(*args, **kwargs)

    def _look(self, name: str, args: Any, kwargs: Any) -> None:
        rule = COUNTED.get(name)
        tally = rule(self.batch, self._named(name), *args, **kwargs) if rule else None
        if tally is not None:
            self.counted = True
            self.add(self._of_an_image(tally, args))
            return
        reason = free_reason(name, self.batch, args)
        if reason is None:
            self._meet_unknown(f"{self.path[-1].name or 'the model'}: {name}")
        else:
            self.free[reason] += 1

    def _named(self, operation: str) -> str:
        """The layer's name, followed by the operation unless that is what the layer is, and by its number if it is repeated."""
        inside = self.path[-1]
        itself = inside.name and inside.synapse
        return numbered(inside.name if itself else f"{inside.name}.{operation}".lstrip("."), self.calls)

    def _of_an_image(self, tally: OperationAccumulator, args: Any) -> OperationAccumulator:
        entering = next((x for x in args if isinstance(x, Tensor) and not self.batch.is_weight(x)), None)
        known = self.reads_image(tally.layer)
        if known is None and entering is not None:
            fired = self.behind_neurons or self.free[NEURONS] > 0
            known = self.images.enters(tally.layer, entering, time_steps=tally.time_steps, neurons_fired=fired)
        return replace(tally, operands=(), reads="image") if known else tally

    def _meet_unknown(self, name: str) -> None:
        if self.strict:
            raise UnknownOperationError(
                f"{name}: no rule says what this operation costs; give its layer one in autospike.counting.layers.RULES, or count "
                "with strict=False, which lists it"
            )
        self.unknown[name] += 1
