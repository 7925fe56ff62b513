"""Operations counted where they happen, in the forward pass that also gives the accuracy.

Each synapse and each operation of attention is hooked. Of the values that really enter it, the true fan-out is added up per time
step. Totals are integers held in float64, exact below 2^53, so batches add up to the same bits in any order.

    linear       value x out_features
    convolution  value x out_channels x kernel positions that stay inside the image; zero padding is never counted
    q (k^T v)    k^T v: min(sum of k, sum of v) x head_dim: each spike of the sparser operand adds a row of the other;
                 q (.): sum of q x head_dim; the convention, also where (q k^T) v runs because tokens are few
    sum          one accumulation for each spike that is summed
    gate         one for each spike that meets a gate, whether it passes or not

RepConv and SepConv train as several maps and may run fused as one. They are counted both ways, and a convention chooses: as they
train, only the first map reads spikes, the others multiply; fused, the one dense kernel reads spikes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from autospike.energy import Form, InputKind, LayerCount
from autospike.models.contract import SpikingHead
from autospike.nn.attention import AttentionProduct, Gate, Heads, SumOfSpikes
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, SeparableConvNorm
from autospike.nn.neuron import LIF

KINDS: tuple[InputKind, ...] = ("binary", "integer", "real")


@dataclass(kw_only=True)
class Tally:
    """Running totals of the values on one path into a layer, for each time step, over all images seen.

    `values` and `fan_out`: `[T]` float64, sums of the values and of the accumulations that they cause.
    """

    layer: str
    macs: int
    elements: int
    values: Tensor
    fan_out: Tensor
    kind: InputKind
    form: Form = "always"

    def add(self, other: Tally) -> None:
        self.values = self.values + other.values
        self.fan_out = self.fan_out + other.fan_out
        self.kind = max(self.kind, other.kind, key=KINDS.index)

    def count(self, images: int) -> LayerCount:
        real = self.kind == "real"
        return LayerCount(
            layer=self.layer,
            input=self.kind,
            form=self.form,
            time_steps=len(self.values),
            macs=self.macs,
            acs=() if real else tuple((self.fan_out / images).tolist()),
            rate=() if real else tuple((self.values / (images * self.elements)).tolist()),
        )


@dataclass(kw_only=True)
class Counter:
    """Totals by layer. Run batches through the model inside `with counter.watch(model)`, then read `counts`."""

    layers: dict[str, list[Tally]] = field(default_factory=dict)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                rule = _rule_of(name, module)
                if rule is not None:
                    hooks.callback(module.register_forward_pre_hook(partial(self._count_call, rule, name)).remove)
            yield

    def counts(self, *, images: int) -> tuple[LayerCount, ...]:
        """One count for each operation, in the order in which they run; attention's two products are `.kv` and `.qkv`.

        Args:
            images: how many images ran; counts are means over them.

        Raises:
            ValueError: no batch was counted.
        """
        if not self.layers:
            raise ValueError("no batch was counted: call the model inside `with counter.watch(model)` first")
        return tuple(tally.count(images) for tallies in self.layers.values() for tally in _sparser_operand(tallies))

    def _count_call(self, rule: Rule, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        with torch.no_grad():
            tallies = rule(name, module, *args)
        if name not in self.layers:
            self.layers[name] = tallies
            return
        for total, new in zip(self.layers[name], tallies, strict=True):
            total.add(new)


Rule = Callable[..., list[Tally]]


def _linear(name: str, module: LinearNorm, x: Tensor) -> list[Tally]:
    """`[T, B, H, W, in_features]`."""
    outputs = module.linear.out_features
    return [_fanned(f"{name}.linear", x, None, _everywhere(x, outputs), x[0, 0].numel() * outputs)]


def _conv(name: str, module: ConvNorm, x: Tensor, time_steps: int | None = None) -> list[Tally]:
    """`[T, B, H, W, in_channels]`, or `[1, B, ...]` with `time_steps`: a still image, real even if its pixels are whole."""
    conv, size = module.conv, (x.shape[2], x.shape[3])
    return [_fanned(f"{name}.conv", x, time_steps, conv_fan_out(conv, size).to(x.device), _conv_macs(conv, size))]


def _separable(name: str, module: SeparableConvNorm, x: Tensor) -> list[Tally]:
    """Depthwise, then pointwise on real values; or fused."""
    depthwise, size = module.depthwise, (x.shape[2], x.shape[3])
    outputs, fan_out = module.pointwise.out_features, conv_fan_out(depthwise, size).to(x.device)
    return [
        _fanned(f"{name}.depthwise", x, None, fan_out, _conv_macs(depthwise, size), form="separate"),
        _multiplied(f"{name}.pointwise", x, x[0, 0].numel() * outputs),
        _fanned(f"{name}.fused", x, None, fan_out * outputs, _conv_macs(depthwise, size) * outputs, form="fused"),
    ]


def _repconv(name: str, module: RepConv, x: Tensor) -> list[Tally]:
    """1x1 on spikes, then depthwise 3x3 and 1x1 on real values; or fused to one 3x3."""
    channels, (height, width) = module.last.out_features, (x.shape[2], x.shape[3])
    positions = height * width
    fan_out = _reached((height, width), (3, 3), (1, 1), (1, 1), (1, 1)).to(x.device) * channels
    return [
        _fanned(f"{name}.first", x, None, _everywhere(x, channels), positions * channels**2, form="separate"),
        _multiplied(f"{name}.depthwise", x, positions * channels * 9),
        _multiplied(f"{name}.last", x, positions * channels**2),
        _fanned(f"{name}.fused", x, None, fan_out, positions * channels**2 * 9, form="fused"),
    ]


def _readout(name: str, module: nn.Linear, x: Tensor) -> list[Tally]:
    """A head `[T, B, D]`. But for a spiking one it reads a mean over positions: real, even where it happens to be whole."""
    values, elements = _per_step(x), x.shape[-1]
    kind: InputKind = "binary" if isinstance(module, SpikingHead) else "real"
    outputs = module.out_features
    return [Tally(layer=name, macs=elements * outputs, elements=elements, values=values, fan_out=values * outputs, kind=kind)]


def _fanned(layer: str, x: Tensor, time_steps: int | None, fan_out: Tensor, macs: int, *, form: Form = "always") -> Tally:
    """`x` `[T, B, H, W, C]` into a layer in which a value at a position reaches `fan_out` `[H, W]` outputs."""
    by_position = x.sum(dim=-1).sum(dim=1, dtype=torch.float64)
    steps = time_steps or len(x)
    return Tally(
        layer=layer,
        macs=macs,
        elements=x[0, 0].numel(),
        values=by_position.sum(dim=(1, 2)).expand(steps),
        fan_out=(by_position * fan_out).sum(dim=(1, 2)).expand(steps),
        kind=_kind(x) if time_steps is None else "real",
        form=form,
    )


def _multiplied(layer: str, x: Tensor, macs: int) -> Tally:
    """A layer that reads what another linear map made of `x`."""
    nothing = torch.zeros(len(x), dtype=torch.float64)
    return Tally(layer=layer, macs=macs, elements=1, values=nothing, fan_out=nothing, kind="real", form="separate")


def _everywhere(x: Tensor, outputs: int) -> Tensor:
    return torch.full((x.shape[2], x.shape[3]), float(outputs), dtype=torch.float64, device=x.device)


def _conv_macs(conv: nn.Conv2d, size: tuple[int, int]) -> int:
    """Dense: padding included."""
    height, width = (-(-length // stride) for length, stride in zip(size, conv.stride, strict=True))
    return height * width * conv.weight.numel()


def _attention(name: str, _module: AttentionProduct, heads: Heads) -> list[Tally]:
    """Tallies of q, k and v, each `[T, B, heads, N, head_dim]`; of k and v the sparser one is counted in the end."""
    head_dim, elements = heads.q.shape[-1], math.prod(heads.q.shape[2:])
    layers = {"q": f"{name}.qkv", "k": f"{name}.kv", "v": f"{name}.kv"}
    tallies = []
    for operand, x in heads._asdict().items():
        values = _per_step(x)
        tally = Tally(
            layer=layers[operand],
            macs=elements * head_dim,
            elements=elements,
            values=values,
            fan_out=values * head_dim,
            kind=_kind(x),
        )
        tallies.append(tally)
    return tallies


def _sum(name: str, _module: SumOfSpikes, x: Tensor) -> list[Tally]:
    """Spikes `[T, ...]`, each added once."""
    return [_once(name, x)]


def _gate(name: str, _module: Gate, x: Tensor, _gate: Tensor) -> list[Tally]:
    """Spikes `[T, ...]`, each met by a gate once."""
    return [_once(name, x)]


def _once(layer: str, x: Tensor) -> Tally:
    values, elements = _per_step(x), math.prod(x.shape[2:])
    return Tally(layer=layer, macs=elements, elements=elements, values=values, fan_out=values, kind=_kind(x))


RULES: dict[type[nn.Module], Rule] = {
    LinearNorm: _linear,
    ConvNorm: _conv,
    SeparableConvNorm: _separable,
    RepConv: _repconv,
    AttentionProduct: _attention,
    SumOfSpikes: _sum,
    Gate: _gate,
    SpikingHead: _readout,
}


def _rule_of(name: str, module: nn.Module) -> Rule | None:
    """The rule of a module. Linear maps inside a synapse are the synapse's; a bare one is a head."""
    if type(module) is nn.Linear and name.startswith("head"):
        return _readout
    return RULES.get(type(module))


def _sparser_operand(tallies: list[Tally]) -> list[Tally]:
    if not tallies[0].layer.endswith(".qkv"):
        return tallies
    q, k, v = tallies
    return [min(k, v, key=lambda tally: float(tally.values.sum())), q]


def conv_fan_out(conv: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """How many outputs each input position of one channel reaches: `[H, W]`, float64."""
    return _reached(size, conv.kernel_size, conv.stride, conv.padding, conv.dilation) * (conv.out_channels // conv.groups)


@lru_cache(maxsize=64)
def _reached(size: tuple[int, int], kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """As `conv_fan_out`, of one output channel."""
    ones, kernel = torch.ones(1, 1, *size, dtype=torch.float64), torch.ones(1, 1, *kernel_size, dtype=torch.float64)
    outputs = F.conv2d(ones, kernel, None, stride, padding, dilation)
    return conv2d_input(ones.shape, kernel, torch.ones_like(outputs), stride, padding, dilation)[0, 0]


def _per_step(x: Tensor) -> Tensor:
    """Sum over everything but time: `[T]`. Rows are added in the tensor's own precision, exact for integers below 2^24."""
    return x.sum(dim=-1).flatten(1).sum(dim=1, dtype=torch.float64)


def _kind(x: Tensor) -> InputKind:
    if float(x.min()) < 0 or not torch.equal(x, x.round()):
        return "real"
    return "binary" if float(x.max()) <= 1 else "integer"


@dataclass(kw_only=True)
class FiringRates:
    """Mean output of every neuron layer: a number between 0 and 1 by name."""

    spikes: dict[str, float] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                if isinstance(module, LIF):
                    hooks.callback(module.register_forward_hook(partial(self._add, name)).remove)
            yield

    def rates(self) -> dict[str, float]:
        return {name: spikes / self.neurons[name] for name, spikes in self.spikes.items()}

    def _add(self, name: str, _module: nn.Module, _args: Any, spikes: Tensor) -> None:
        self.spikes[name] = self.spikes.get(name, 0.0) + float(_per_step(spikes).sum())
        self.neurons[name] = self.neurons.get(name, 0) + spikes.numel()
