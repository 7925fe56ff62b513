"""Operations counted where they happen, in the forward pass that also gives the accuracy.

Each synaptic layer and each matrix product of attention is hooked. Of the values that really enter it, the true fan-out is added up
per time step. Totals are integers held in float64, exact below 2^53, so batches add up to the same bits in any order.

    linear       value x out_features
    convolution  value x out_channels x kernel positions that stay inside the image; zero padding is never counted
    q (k^T v)    k^T v: min(sum of k, sum of v) x head_dim: each spike of the sparser operand adds a row of the other;
                 q (.): sum of q x head_dim; the convention, also where (q k^T) v runs because tokens are few
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

from autospike.energy import InputKind, LayerCount
from autospike.nn.attention import AttentionProduct, Heads
from autospike.nn.layers import SpikingConv, SpikingLinear
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

    def add(self, other: Tally) -> None:
        self.values = self.values + other.values
        self.fan_out = self.fan_out + other.fan_out
        self.kind = max(self.kind, other.kind, key=KINDS.index)

    def count(self, images: int) -> LayerCount:
        real = self.kind == "real"
        return LayerCount(
            layer=self.layer,
            input=self.kind,
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
                rule = RULES.get(type(module))
                if rule is not None and not name.endswith(".linear"):  # a spiking layer counts its linear map itself
                    hooks.callback(module.register_forward_pre_hook(partial(self._count_call, rule, name)).remove)
            yield

    def counts(self, *, images: int) -> tuple[LayerCount, ...]:
        """One count for each layer, in the order in which they run; attention's two products are `.kv` and `.qkv`.

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


def _linear(name: str, module: SpikingLinear, x: Tensor) -> list[Tally]:
    """Tokens `[T, B, N, in_features]`."""
    return [_dense(f"{name}.linear", module.linear, x, _kind(x))]


def _readout(name: str, module: nn.Linear, x: Tensor) -> list[Tally]:
    """A bare linear layer is the head, whose input is a mean over tokens: real, even where it happens to be whole. `[T, B, D]`."""
    return [_dense(name, module, x, "real")]


def _dense(layer: str, module: nn.Linear, x: Tensor, kind: InputKind) -> Tally:
    values, elements = _per_step(x), math.prod(x.shape[2:])
    return Tally(
        layer=layer,
        macs=elements * module.out_features,
        elements=elements,
        values=values,
        fan_out=values * module.out_features,
        kind=kind,
    )


def _conv(name: str, module: SpikingConv, x: Tensor, time_steps: int | None = None) -> list[Tally]:
    """`x` is `[T, B, C, H, W]`, or `[1, B, C, H, W]` with `time_steps`: a still image, real even if its pixels are whole."""
    conv, steps = module.conv, time_steps or len(x)
    height, width = x.shape[-2:]
    fan_out = conv_fan_out(conv, (height, width)).to(x.device)
    by_position = x.sum(dim=2).sum(dim=1, dtype=torch.float64)
    return [
        Tally(
            layer=f"{name}.conv",
            macs=height * width * conv.weight.numel(),  # stride 1, padded to the same size; dense includes the padding
            elements=x[0, 0].numel(),
            values=by_position.sum(dim=(1, 2)).expand(steps),
            fan_out=(by_position * fan_out).sum(dim=(1, 2)).expand(steps),
            kind=_kind(x) if time_steps is None else "real",
        )
    ]


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


RULES: dict[type[nn.Module], Rule] = {
    SpikingLinear: _linear,
    SpikingConv: _conv,
    AttentionProduct: _attention,
    nn.Linear: _readout,
}


def _sparser_operand(tallies: list[Tally]) -> list[Tally]:
    if len(tallies) == 1:
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
