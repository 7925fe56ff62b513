"""Costs of an architecture that follow from its genes by arithmetic: nothing is built, trained or measured.

The decoder of a dense task is part of the number of parameters only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from autospike.space.architecture import Architecture, Stage
from autospike.space.block import Block
from autospike.space.embedding_layers import Convolution
from autospike.space.families import embedding_layers
from autospike.space.input_shape import InputShape
from autospike.space.mixers import (
    CHANNEL_REPLINEAR_EXPANSION,
    DEPTHWISE,
    E_SDSA_EXPANSION,
    OPERANDS,
    REPLINEAR_EXPANSION,
    SEPCONV_EXPANSION,
    SEPCONV_KERNEL_SIZE,
    SPIKING_SEPCONVS,
)
from autospike.space.parameters import count_parameters
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import with_values

BYTES_PER_VALUE = 4  # float32, as models are exported
BYTES_PER_KB = 1000


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one image.

    Attributes:
        params: Number of parameters.
        time_steps: T.
        macs: Dense multiply-accumulates of one time step, as `autospike describe` counts them.
        layers_kb: Memory of the activations in kB (1,000 bytes) while each layer runs: its input, its output and the tensors that
            later layers need, at all T time steps, 4 bytes for each value. Each time step has its own input image. In descending
            order.
        fan_ins: Number of synapses of a neuron behind each layer: inputs of a linear layer or convolution, with consecutive linear
            layers merged, or spikes that a neuron of attention sums. Products of spikes have no fixed synapses and are left out.
            In descending order.
    """

    params: int
    time_steps: int
    macs: int
    layers_kb: tuple[float, ...]
    fan_ins: tuple[int, ...]

    @property
    def weights_kb(self) -> float:
        """Memory of the parameters in kB, 4 bytes each."""
        return self.params * BYTES_PER_VALUE / BYTES_PER_KB

    @property
    def activations_kb(self) -> float:
        """Peak memory of the activations in kB."""
        return self.layers_kb[0]

    @property
    def fan_in(self) -> int:
        """Largest number of synapses of a neuron."""
        return self.fan_ins[0]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Costs of one layer for one image and time step.

    Attributes:
        macs: Dense multiply-accumulates if consecutive linear layers are fused.
        separate_macs: The same if they run one by one.
        fan_in: Synapses of a neuron behind the layer.
        values: Values of its input, its output and of tensors that later layers need.
    """

    macs: int
    separate_macs: int
    fan_in: int
    values: int


def costs(architecture: Architecture, shape: InputShape, *, fused: bool = True) -> Costs:
    """Compute the costs of an architecture.

    Args:
        architecture: The architecture.
        shape: Input and output size.
        fused: Whether consecutive linear layers are merged, as in the energy convention `exact`.

    Returns:
        The costs.
    """
    layers = list(_layers(architecture, shape))
    bytes_per_value = architecture.time_steps * BYTES_PER_VALUE
    return Costs(
        params=count_parameters(architecture, in_chans=shape.channels, num_classes=shape.classes),
        time_steps=architecture.time_steps,
        macs=sum(layer.macs if fused else layer.separate_macs for layer in layers),
        layers_kb=tuple(sorted((layer.values * bytes_per_value / BYTES_PER_KB for layer in layers), reverse=True)),
        fan_ins=tuple(sorted((layer.fan_in for layer in layers), reverse=True)),
    )


def _layers(architecture: Architecture, shape: InputShape) -> Iterator[_Layer]:
    """Yield the layers in the order of computation."""
    size, width, membrane = shape.image_size, shape.channels, architecture.shortcut == "membrane"
    for i, stage in enumerate(architecture.stages):
        convolutions, size = embedding_layers(architecture.family, stage.embedding.kind)(
            width,
            stage.embed_dim,
            size=size,
            stride=stage.embedding.stride,
            first=i == 0,
            compact=architecture.compact_embedding,
            membrane=membrane,
        )
        yield from map(_convolution, convolutions)
        width = stage.embed_dim
        for block in stage.blocks:
            yield from _token_layers(block, positions=size * size, width=width, membrane=membrane)
            yield from _channel_layers(stage, block, positions=size * size, membrane=membrane)
    heads = 0 if architecture.decoder is not None else 2 if architecture.distilled else 1
    for _ in range(heads):
        yield _dense(1, width, shape.classes, held=0)


def _convolution(layer: Convolution) -> _Layer:
    fan_in = layer.kernel_size**2 * layer.in_channels
    outputs = layer.out_size**2 * layer.out_channels
    values = layer.in_size**2 * layer.in_channels + outputs + layer.held
    return _Layer(macs=outputs * fan_in, separate_macs=outputs * fan_in, fan_in=fan_in, values=values)


def _dense(positions: int, inputs: int, outputs: int, *, held: int, taps: int = 1) -> _Layer:
    """A linear layer, or with `taps` = 9 a 3x3 convolution that keeps the size."""
    macs = positions * taps * inputs * outputs
    return _Layer(macs=macs, separate_macs=macs, fan_in=taps * inputs, values=positions * (inputs + outputs) + held)


def _token_layers(block: Block, *, positions: int, width: int, membrane: bool) -> Iterator[_Layer]:
    """Yield the layers of a token mixer. The residual stream is held; with membrane shortcuts its spikes are a second tensor."""
    stream = positions * width
    copy = stream if membrane else 0
    if block.token_mixer == "none":
        return
    if block.token_mixer in DEPTHWISE:
        yield _depthwise(positions, width, DEPTHWISE[block.token_mixer], held=copy)
        return
    if block.token_mixer in SPIKING_SEPCONVS:
        hidden = SEPCONV_EXPANSION * width
        yield _dense(positions, width, hidden, held=copy)
        yield _depthwise(positions, hidden, SPIKING_SEPCONVS[block.token_mixer], held=stream)
        yield _dense(positions, hidden, width, held=stream)
        return
    if block.token_mixer == "e_sdsa":
        yield from _e_sdsa(block, positions=positions, width=width, copy=copy)
        return
    if block.token_mixer not in OPERANDS:
        hidden = SEPCONV_EXPANSION * width
        yield _dense(positions, width, hidden, held=copy)
        taps = SEPCONV_KERNEL_SIZE**2
        yield _Layer(
            macs=positions * taps * hidden * width,
            separate_macs=positions * hidden * (taps + width),
            fan_in=taps * hidden,
            values=positions * (hidden + width) + stream,
        )
        return
    operands = len(OPERANDS[block.token_mixer])
    for i in range(operands):
        yield _projection(block.qkv, positions, width, held=copy + i * stream)
    macs, fan_in = _attention(block, positions=positions, width=width)
    yield _Layer(macs=macs, separate_macs=macs, fan_in=fan_in, values=(operands + 2) * stream)
    yield _projection(block.projection, positions, width, held=stream)


def _depthwise(positions: int, channels: int, kernel_size: int, *, held: int) -> _Layer:
    """A depthwise convolution that keeps the size."""
    macs = positions * channels * kernel_size**2
    return _Layer(macs=macs, separate_macs=macs, fan_in=kernel_size**2, values=2 * positions * channels + held)


def _e_sdsa(block: Block, *, positions: int, width: int, copy: int) -> Iterator[_Layer]:
    """Yield the layers of E-SDSA, whose values are wider than its queries and keys."""
    stream, values = positions * width, E_SDSA_EXPANSION * width
    yield _dense(positions, width, width, held=copy)
    yield _dense(positions, width, width, held=copy + stream)
    yield _dense(positions, width, values, held=copy + 2 * stream)
    macs = 2 * positions * values * (width // (block.num_heads or 1))
    held = 3 * stream + 2 * positions * values  # the stream, queries, keys, values and the result
    yield _Layer(macs=macs, separate_macs=macs, fan_in=0, values=held)
    yield _dense(positions, values, width, held=stream)


def _replinear(positions: int, width: int, expansion: float, *, held: int) -> _Layer:
    """Two linear layers that are one if they are fused."""
    macs, hidden = positions * width * width, int(expansion * width)
    return _Layer(macs=macs, separate_macs=2 * positions * width * hidden, fan_in=width, values=2 * positions * width + held)


def _projection(kind: str | None, positions: int, width: int, *, held: int) -> _Layer:
    if kind == "replinear":
        return _replinear(positions, width, REPLINEAR_EXPANSION, held=held)
    if kind != "repconv":
        return _dense(positions, width, width, held=held)
    return _Layer(
        macs=positions * 9 * width * width,
        separate_macs=positions * width * (2 * width + 9),
        fan_in=9 * width,
        values=2 * positions * width + held,
    )


def _attention(block: Block, *, positions: int, width: int) -> tuple[int, int]:
    """Dense multiply-accumulates of the operator of an attention, and the number of spikes that a neuron of it sums."""
    stream, heads = positions * width, block.num_heads or 1
    match block.token_mixer:
        case "sdsa_3" | "sdsa_4":
            return 2 * stream * (width // heads), 0
        case "sdsa_1" | "sdsa_1_dilated":
            return 3 * stream, positions  # coincidence, sum, gate
        case "token_qk":
            return 2 * stream, width // heads  # sum, gate
        case _:
            return 2 * stream, positions


def _channel_layers(stage: Stage, block: Block, *, positions: int, membrane: bool) -> Iterator[_Layer]:
    if block.channel_mixer == "none":
        return
    hidden, stream = stage.hidden_features(block), positions * stage.embed_dim
    if block.channel_mixer == "replinear":
        yield _replinear(positions, stage.embed_dim, CHANNEL_REPLINEAR_EXPANSION, held=stream if membrane else 0)
        return
    taps = 9 if block.channel_mixer == "conv" else 1
    yield _dense(positions, stage.embed_dim, hidden, held=stream if membrane else 0, taps=taps)
    yield _dense(positions, hidden, stage.embed_dim, held=stream, taps=taps)


Cost = Callable[[Architecture], Any]


def minimise(space: SearchSpace, cost: Cost) -> Architecture:
    """Find an architecture of least cost, by coordinate descent over the genes from the smallest architecture.

    Each gene in turn is set to the value of least cost, until no gene changes. The result is the exact minimum if the cost is a sum
    over the parts of the network, whose parts do not compete. For a largest value over the parts, give the values of all parts in
    descending order, so that lowering one of two equal ones is an improvement.

    Args:
        space: The search space. A range is tried at its two ends.
        cost: The cost, a number or a tuple.

    Returns:
        The architecture.
    """
    best = space.smallest()
    least, improved = cost(best), True
    while improved:
        improved = False
        for found in space.genes(best):
            for value in found.gene.values:
                changed = with_values(space, best, {found.path: value})
                now = cost(changed)
                if now < least:
                    best, least, improved = changed, now, True
    return best
