"""Rules of this package's own layers, which know what can be fused and in which order attention multiplies. Neurons that a synapse
fires are free.

    linear       value x out_features
    convolution  value x out_channels x kernel positions that stay inside the image; zero padding is never counted
    q (k^T v)    k^T v: each spike of the sparser operand adds a row of the other, head_dim numbers;
                 q (.): each spike of q; the convention, also where (q k^T) v runs because tokens are few
    sum          one accumulation for each spike that is summed
    gate         one for each spike that meets a gate, whether it passes or not

RepConv and SepConv train as several maps and may run fused as one. They are counted both ways, and a convention chooses: as they
train, only the first map reads spikes, the others multiply; fused, the one dense kernel reads spikes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from autospike.counting.accumulator import Operand, OperationAccumulator
from autospike.counting.fan_out import fan_out
from autospike.counting.input_values import InputReader
from autospike.energy.counts import Form
from autospike.models.contract import MeanHead, SpikingHead
from autospike.nn.attention import Gate, SumOfSpikes
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, SeparableConvNorm

Rule = Callable[..., list[OperationAccumulator]]


def _linear(name: str, read: InputReader, module: LinearNorm, x: Tensor) -> list[OperationAccumulator]:
    """`[T, B, H, W, in_features]`."""
    return [_fanned(f"{name}.linear", read, x, module.linear.out_features)]


def _conv(name: str, read: InputReader, module: ConvNorm, x: Tensor, time_steps: int | None = None) -> list[OperationAccumulator]:
    """`[T, B, H, W, in_channels]`, or `[1, B, ...]` with `time_steps`: a still image, real even if its pixels are whole."""
    conv = module.conv
    if time_steps is None:
        reached = conv_fan_out(conv, x).to(x.device)
        return [_fanned(f"{name}.conv", read, x, reached, macs=_conv_macs(conv, x))]
    return [OperationAccumulator(layer=f"{name}.conv", macs=_conv_macs(conv, x), time_steps=time_steps, reads="image")]


def _separable(name: str, read: InputReader, module: SeparableConvNorm, x: Tensor) -> list[OperationAccumulator]:
    """Depthwise, then pointwise on real values; or fused."""
    outputs, macs = module.pointwise.out_features, _conv_macs(module.depthwise, x)
    reached = conv_fan_out(module.depthwise, x).to(x.device)
    return [
        _fanned(f"{name}.depthwise", read, x, reached, macs=macs, form="separate"),
        OperationAccumulator(layer=f"{name}.pointwise", macs=x[0, 0].numel() * outputs, time_steps=len(x), form="separate"),
        _fanned(f"{name}.fused", read, x, reached * outputs, macs=macs * outputs, form="fused"),
    ]


def _repconv(name: str, read: InputReader, module: RepConv, x: Tensor) -> list[OperationAccumulator]:
    """1x1 on spikes, then depthwise 3x3 and 1x1 on real values; or fused to one 3x3."""
    channels, elements = module.last.out_features, x[0, 0].numel()
    reached = fan_out(x.shape[2:4], (3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1)).to(x.device)
    return [
        _fanned(f"{name}.first", read, x, channels, form="separate"),
        OperationAccumulator(layer=f"{name}.depthwise", macs=elements * 9, time_steps=len(x), form="separate"),
        OperationAccumulator(layer=f"{name}.last", macs=elements * channels, time_steps=len(x), form="separate"),
        _fanned(f"{name}.fused", read, x, reached * channels, macs=elements * channels * 9, form="fused"),
    ]


def _spiking_head(name: str, read: InputReader, module: SpikingHead, x: Tensor) -> list[OperationAccumulator]:
    """Spikes `[T, B, D]`."""
    operand = Operand.of(read.total(x), elements=x.shape[-1], fan_out=module.out_features)
    return [OperationAccumulator(layer=name, macs=module.weight.numel(), time_steps=len(x), operands=[operand])]


def _mean_head(name: str, _read: InputReader, module: MeanHead, x: Tensor) -> list[OperationAccumulator]:
    """A mean over positions `[T, B, D]`: real, even where it happens to be whole."""
    return [OperationAccumulator(layer=name, macs=module.weight.numel(), time_steps=len(x), reads="mean")]


def _attention(name: str, read: InputReader, _module: AttentionProduct, heads: Heads) -> list[OperationAccumulator]:
    """q, k and v, each `[T, B, heads, N, head_dim]`."""
    head_dim, elements = heads.q.shape[-1], math.prod(heads.q.shape[2:])
    q, k, v = (Operand.of(read.total(x), elements=elements, fan_out=head_dim) for x in heads)
    shared: dict[str, Any] = {"macs": elements * head_dim, "time_steps": len(heads.q)}
    return [
        OperationAccumulator(layer=f"{name}.kv", operands=[k, v], **shared),
        OperationAccumulator(layer=f"{name}.qkv", operands=[q], **shared),
    ]


def _sum(name: str, read: InputReader, _module: SumOfSpikes, x: Tensor) -> list[OperationAccumulator]:
    """Spikes `[T, B, ...]`, each added once."""
    operand = Operand.of(read.total(x), elements=x[0, 0].numel(), fan_out=1)
    return [OperationAccumulator(layer=name, macs=operand.elements, time_steps=len(x), operands=[operand])]


def _gate(name: str, read: InputReader, _module: Gate, *spikes: Tensor) -> list[OperationAccumulator]:
    """Two layers of spikes `[T, B, ...]`: those of the larger one meet the other, of equally large ones those of the sparser."""
    largest = max(x.numel() for x in spikes)
    met = [x for x in spikes if x.numel() == largest]
    elements = met[0][0, 0].numel()
    operands = [Operand.of(read.total(x), elements=elements, fan_out=1) for x in met]
    return [OperationAccumulator(layer=name, macs=elements, time_steps=len(met[0]), operands=operands)]


def _fanned(
    layer: str, read: InputReader, x: Tensor, reached: float | Tensor, *, macs: int | None = None, form: Form = "always"
) -> OperationAccumulator:
    """`x` `[T, B, H, W, C]` into a layer in which a value reaches so many outputs; a linear map, unless `macs` is given."""
    elements = x[0, 0].numel()
    operand = Operand.of(read.by_position(x), elements=elements, fan_out=reached)
    dense = int(elements * reached) if macs is None else macs
    return OperationAccumulator(layer=layer, macs=dense, time_steps=len(x), operands=[operand], form=form)


def _conv_macs(conv: nn.Conv2d, x: Tensor) -> int:
    """Dense, padding included, for an image of `x` `[T, B, H, W, C]`."""
    height, width = (-(-length // stride) for length, stride in zip(x.shape[2:4], conv.stride, strict=True))
    return height * width * conv.weight.numel()


def conv_fan_out(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """How many outputs each position of one channel of `x` `[T, B, H, W, C]` reaches: `[H * W]`, float64."""
    padding: Any = conv.padding
    reached = fan_out(x.shape[2:4], conv.kernel_size, stride=conv.stride, padding=padding, dilation=conv.dilation)
    return reached * (conv.out_channels // conv.groups)


RULES: dict[type[nn.Module], Rule] = {
    LinearNorm: _linear,
    ConvNorm: _conv,
    SeparableConvNorm: _separable,
    RepConv: _repconv,
    AttentionProduct: _attention,
    SumOfSpikes: _sum,
    Gate: _gate,
    SpikingHead: _spiking_head,
    MeanHead: _mean_head,
}
