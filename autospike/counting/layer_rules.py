"""Counting rules of the layers of this package.

Each rule is called with the name of the layer, an `InputStatisticsCache`, the module, and the arguments of its forward. It returns
one `OperationAccumulator` for each operation, with these accumulations:

    linear layer  value x out_features
    convolution   value x out_channels x kernel positions inside the image; zero padding is not counted
    q (k^T v)     k^T v: each spike of the sparser operand adds a row of the other, its head_dim of numbers;
                  q (.): the head_dim of v for each spike of q; the same if (q k^T) v runs because there are few tokens
    sum           one for each spike that is summed
    gate          one for each spike that meets a gate, whether it passes or not

Layers of a detector read regions, of which images have different numbers. Their counts are those of all regions of an image.

Neurons are free, also those that a layer runs itself. RepConv, RepLinear and SepConv train as several linear layers and may run
fused as one. They are counted in both forms, and an energy convention chooses one. In the separate form only the first layer reads
spikes and the others multiply; in the fused form the one dense kernel reads spikes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autospike.counting.accumulator import OperandAccumulator, OperationAccumulator
from autospike.counting.fan_out import fan_out
from autospike.counting.input_values import InputStatistics, InputStatisticsCache
from autospike.energy.counts import Form
from autospike.models.contract import MeanHead, SpikingHead
from autospike.nn.attention import Gate, SumOfSpikes
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, RepLinear, SeparableConvNorm
from autospike.nn.regions import RegionConv, RegionLinear, RegionUpsampling

# Arguments of layers that cause no counted operations: the neurons after a layer, the stream that their spikes are added to, and
# results of other layers.
UNCOUNTED_ARGUMENTS = ("lif", "stream", "shared")

LayerRule = Callable[..., list[OperationAccumulator]]


def _linear(name: str, inputs: InputStatisticsCache, module: LinearNorm, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a linear layer with `x` `[T, B, H, W, in_features]`."""
    return [_weighted(f"{name}.linear", inputs, x, module.linear.out_features)]


def _conv(
    name: str, inputs: InputStatisticsCache, module: ConvNorm, x: Tensor, time_steps: int | None = None
) -> list[OperationAccumulator]:
    """Rule of a convolution with `x` `[T, B, H, W, in_channels]`.

    With `time_steps`, `x` `[1, B, ...]` is a still image, which is real even if its pixels are whole numbers.
    """
    conv = module.conv
    if time_steps is None:
        reached = conv_fan_out(conv, x).to(x.device)
        return [_weighted(f"{name}.conv", inputs, x, reached, macs=_conv_macs(conv, x))]
    return [OperationAccumulator(layer=f"{name}.conv", macs=_conv_macs(conv, x), time_steps=time_steps, reads="image")]


def _separable(name: str, inputs: InputStatisticsCache, module: SeparableConvNorm, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a depthwise convolution and a pointwise one, which reads real values; `x` `[T, B, H, W, C]`."""
    outputs, macs = module.pointwise.out_features, _conv_macs(module.depthwise, x)
    reached = conv_fan_out(module.depthwise, x).to(x.device)
    return [
        _weighted(f"{name}.depthwise", inputs, x, reached, macs=macs, form="separate"),
        OperationAccumulator(layer=f"{name}.pointwise", macs=x[0, 0].numel() * outputs, time_steps=len(x), form="separate"),
        _weighted(f"{name}.fused", inputs, x, reached * outputs, macs=macs * outputs, form="fused"),
    ]


def _repconv(name: str, inputs: InputStatisticsCache, module: RepConv, x: Tensor) -> list[OperationAccumulator]:
    """Rule of 1x1, depthwise 3x3 and 1x1, of which the last two read real values; fused it is one 3x3. `x` `[T, B, H, W, C]`."""
    channels, elements = module.last.out_features, x[0, 0].numel()
    reached = fan_out(x.shape[2:4], (3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1)).to(x.device)
    return [
        _weighted(f"{name}.first", inputs, x, channels, form="separate"),
        OperationAccumulator(layer=f"{name}.depthwise", macs=elements * 9, time_steps=len(x), form="separate"),
        OperationAccumulator(layer=f"{name}.last", macs=elements * channels, time_steps=len(x), form="separate"),
        _weighted(f"{name}.fused", inputs, x, reached * channels, macs=elements * channels * 9, form="fused"),
    ]


def _replinear(name: str, inputs: InputStatisticsCache, module: RepLinear, x: Tensor) -> list[OperationAccumulator]:
    """Rule of two linear layers, of which the second reads real values; fused they are one. `x` `[T, B, H, W, C]`."""
    hidden, channels, positions = module.first.out_features, module.last.out_features, math.prod(x.shape[2:4])
    return [
        _weighted(f"{name}.first", inputs, x, hidden, form="separate"),
        OperationAccumulator(layer=f"{name}.last", macs=positions * hidden * channels, time_steps=len(x), form="separate"),
        _weighted(f"{name}.fused", inputs, x, channels, form="fused"),
    ]


def _spiking_head(name: str, inputs: InputStatisticsCache, module: SpikingHead, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a head that reads spikes `x` `[T, B, D]`."""
    operand = OperandAccumulator.of(inputs.total(x), elements=x.shape[-1], fan_out=module.out_features)
    return [OperationAccumulator(layer=name, macs=module.weight.numel(), time_steps=len(x), operands=[operand])]


def _mean_head(name: str, _inputs: InputStatisticsCache, module: MeanHead, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a head that reads a mean `x` `[T, B, D]`: it is real, even if the values are whole numbers."""
    return [OperationAccumulator(layer=name, macs=module.weight.numel(), time_steps=len(x), reads="mean")]


def _attention(name: str, inputs: InputStatisticsCache, _module: AttentionProduct, heads: Heads) -> list[OperationAccumulator]:
    """Rule of linear attention; q, k and v are `[T, B, heads, N, head_dim]` each, v possibly with another head_dim."""
    of_key, of_value = heads.k.shape[-1], heads.v.shape[-1]
    reached = (of_value, of_value, of_key)
    q, k, v = (
        OperandAccumulator.of(inputs.total(x), elements=math.prod(x.shape[2:]), fan_out=fan_out)
        for x, fan_out in zip(heads, reached, strict=True)
    )
    shared: dict[str, Any] = {"macs": q.elements * of_value, "time_steps": len(heads.q)}
    return [
        OperationAccumulator(layer=f"{name}.kv", operands=[k, v], **shared),
        OperationAccumulator(layer=f"{name}.qkv", operands=[q], **shared),
    ]


def _sum(name: str, inputs: InputStatisticsCache, _module: SumOfSpikes, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a sum of spikes `x` `[T, B, ...]`: each is added once."""
    operand = OperandAccumulator.of(inputs.total(x), elements=x[0, 0].numel(), fan_out=1)
    return [OperationAccumulator(layer=name, macs=operand.elements, time_steps=len(x), operands=[operand])]


def _gate(name: str, inputs: InputStatisticsCache, _module: Gate, *spikes: Tensor) -> list[OperationAccumulator]:
    """Rule of the product of two spike tensors `[T, B, ...]`.

    The spikes of the larger tensor meet the other; of two equally large ones, those of the sparser.
    """
    largest = max(x.numel() for x in spikes)
    drivers = [x for x in spikes if x.numel() == largest]
    elements = drivers[0][0, 0].numel()
    operands = [OperandAccumulator.of(inputs.total(x), elements=elements, fan_out=1) for x in drivers]
    return [OperationAccumulator(layer=name, macs=elements, time_steps=len(drivers[0]), operands=operands)]


def _region_linear(name: str, inputs: InputStatisticsCache, module: RegionLinear, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a linear layer that reads regions `x` `[T, R, in_features]`."""
    return [_of_regions(name, inputs, x, macs=module.weight.numel(), reached=module.out_features)]


def _region_conv(name: str, inputs: InputStatisticsCache, module: RegionConv, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a convolution that reads regions `x` `[T, R, H, W, in_channels]`."""
    reached, macs = conv_fan_out(module.conv, x).to(x.device), _conv_macs(module.conv, x)
    return [_of_regions(f"{name}.conv", inputs, x, macs=macs, reached=reached)]


def _region_upsampling(name: str, inputs: InputStatisticsCache, module: RegionUpsampling, x: Tensor) -> list[OperationAccumulator]:
    """Rule of a transposed convolution 2x2 of stride 2 that reads regions `x` `[T, R, H, W, C]`: a value reaches 2x2 positions."""
    reached = 4 * module.out_channels
    return [_of_regions(name, inputs, x, macs=math.prod(x.shape[2:]) * reached, reached=reached)]


def _of_regions(layer: str, inputs: InputStatisticsCache, x: Tensor, *, macs: int, reached: float | Tensor) -> OperationAccumulator:
    """Count a layer that reads regions `x` `[T, R, ...]`, of which there may be none."""
    elements, regions, zeros = math.prod(x.shape[2:]), x.shape[1], x.new_zeros((len(x), 1), dtype=torch.float64)
    if not regions:
        statistics = InputStatistics(sums=zeros, kinds=zeros[:, 0].long())
    else:
        statistics = inputs.per_position(x) if isinstance(reached, Tensor) else inputs.total(x)
    operand = OperandAccumulator.of(statistics, elements=elements, fan_out=reached)
    return OperationAccumulator(layer=layer, macs=macs, time_steps=len(x), operands=[operand], regions=regions)


def _weighted(
    layer: str, inputs: InputStatisticsCache, x: Tensor, reached: float | Tensor, *, macs: int | None = None, form: Form = "always"
) -> OperationAccumulator:
    """Count a linear layer or a convolution.

    Args:
        layer: The name of the operation.
        inputs: Statistics of inputs.
        x: Its input, `[T, B, H, W, C]`.
        reached: Outputs that each value reaches: one number, or one for each position, `[H * W]`.
        macs: Dense multiply-accumulates; those of a linear layer unless given.
        form: Whether it is counted always, or only in the separate or the fused form.

    Returns:
        The operation.
    """
    elements = x[0, 0].numel()
    operand = OperandAccumulator.of(inputs.per_position(x), elements=elements, fan_out=reached)
    dense = int(elements * reached) if macs is None else macs
    return OperationAccumulator(layer=layer, macs=dense, time_steps=len(x), operands=[operand], form=form)


def _conv_macs(conv: nn.Conv2d, x: Tensor) -> int:
    """Dense multiply-accumulates, padding included, for one image and step of `x` `[T, B, H, W, C]`."""
    height, width = (-(-length // stride) for length, stride in zip(x.shape[2:4], conv.stride, strict=True))
    return height * width * conv.weight.numel()


def conv_fan_out(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute how many outputs each position of one channel reaches.

    Args:
        conv: The convolution.
        x: Its input, `[T, B, H, W, C]`.

    Returns:
        `[H * W]` float64.
    """
    padding: Any = conv.padding
    reached = fan_out(x.shape[2:4], conv.kernel_size, stride=conv.stride, padding=padding, dilation=conv.dilation)
    return reached * (conv.out_channels // conv.groups)


LAYER_RULES: dict[type[nn.Module], LayerRule] = {
    LinearNorm: _linear,
    ConvNorm: _conv,
    SeparableConvNorm: _separable,
    RepConv: _repconv,
    RepLinear: _replinear,
    AttentionProduct: _attention,
    SumOfSpikes: _sum,
    Gate: _gate,
    SpikingHead: _spiking_head,
    MeanHead: _mean_head,
    RegionLinear: _region_linear,
    RegionConv: _region_conv,
    RegionUpsampling: _region_upsampling,
}
