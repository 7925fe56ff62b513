"""Networks of spikingjelly, an independent implementation, and the same networks of this package with equal weights.

They are in double precision, so that rounding moves no potential across a threshold. Some convolutions of spikingjelly have a bias
that this package omits; a bias before a normalisation is a shift of its running mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model import qkformer, spike_driven_transformer, spikformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model
from autospike.nn.layers import ConvNorm, LinearNorm
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block

T, CLASSES, SIZE = 3, 5, (48, 32)
IMAGES = torch.randn(4, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FRAMES = torch.randn(T, 2, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
# Corresponding LIF layers. One layer of spikingjelly may correspond to several layers of this package.
Layers = list[tuple[nn.Module, tuple[nn.Module, ...]]]


def calibrated(net: Any, *, shift: float = 0.0) -> nn.Module:
    """Return the network in double precision and eval mode with statistics of images; a larger `shift` gives more spikes."""
    for module in net.double().modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 1, 3)
            nn.init.uniform_(module.bias, shift, shift + 1.5)
            module.momentum = None
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    with torch.no_grad():
        run(net.train(), torch.cat([IMAGES, -IMAGES]))
    return net.eval()


def run(net: Any, x: Tensor) -> Tensor:
    functional.reset_net(net)
    return net(x)


def build(architecture: Architecture) -> SpikingModel:
    return build_model(architecture, num_classes=CLASSES, in_chans=3).double().eval()


@torch.no_grad()
def copy(conv: Any, bn: Any, target: Any, part: slice = slice(None)) -> None:
    """Copy a convolution of spikingjelly, or a slice of its channels, and its normalisation to a layer of this package."""
    assert isinstance(target, LinearNorm | ConvNorm)
    inner = target.linear if isinstance(target, LinearNorm) else target.conv
    inner.weight.copy_(conv.weight[part].reshape(inner.weight.shape))
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(target.bn, name).copy_(getattr(bn, name)[part])
    bias = 0 if conv.bias is None else conv.bias[part]
    if inner.bias is None:
        target.bn.running_mean -= bias
    else:
        inner.bias.copy_(torch.zeros_like(inner.bias) + bias)


@torch.no_grad()
def copy_head(net: Any, model: SpikingModel) -> None:
    model.head.weight.copy_(net.head.weight)
    model.head.bias.copy_(net.head.bias)


def copy_attention(reference: Any, target: Any) -> Layers:
    """Copy the attention of Spikformer and QKFormer, whose projections are one stacked convolution in spikingjelly."""
    mixer = target.token.mixer
    conv, bn = reference.qkv_conv_bn if hasattr(reference, "qkv_conv_bn") else reference.qk_conv_bn
    width = reference.dim
    for i, name in enumerate(mixer.operands):
        copy(conv, bn, getattr(mixer, name), slice(i * width, (i + 1) * width))
    copy(*reference.proj_conv_bn, mixer.projection)
    stacked = reference.qkv_lif if hasattr(reference, "qkv_lif") else reference.qk_lif
    separate = tuple(getattr(mixer, f"{name}_lif") for name in mixer.operands)
    return [(stacked, separate), (reference.attn_lif, (mixer.operator.lif,)), (reference.proj_lif, (target.token.lif,))]


@contextmanager
def counted(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the spikes per step of each module, and in the last row the number of its neurons."""
    counts: dict[nn.Module, Tensor] = {}

    def hook(module: nn.Module, _inputs: object, spikes: Tensor) -> None:
        counts[module] = torch.cat([spikes.flatten(1).sum(dim=1), torch.tensor([float(spikes[0].numel())])]).detach()

    hooks = [module.register_forward_hook(hook) for module in modules]
    yield counts
    for each in hooks:
        each.remove()


# Spikformer


def spikingjelly_spikformer(stride: int) -> spikformer.Spikformer:
    torch.manual_seed(2)
    height, width = SIZE
    return spikformer.Spikformer(
        T, 3, height, width, stride, CLASSES, embed_dims=32, num_heads=4, mlp_ratio=2, depths=2, detach_reset=True
    )


def autospike_spikformer(net: spikformer.Spikformer, stride: int) -> tuple[SpikingModel, Layers]:
    stage = Stage(embed_dim=32, embedding=Embedding(stride=stride), blocks=(Block(num_heads=4, mlp_ratio=2),) * 2)
    model = build(Architecture(time_steps=T, stages=(stage,)))
    embedding, layers = model.stages[0].embedding, []
    for reference, conv in zip(net.patch_embed.stages, embedding.convs, strict=True):
        copy(reference.conv_bn.block[0], reference.conv_bn.block[1], conv)
    copy(*net.patch_embed.positional_encoding.conv_bn.block[:2], embedding.position.mixer)
    for reference, target in zip(net.blocks, model.stages[0].blocks, strict=True):
        layers += copy_attention(reference.attn, target)
        copy(*reference.mlp.fc1, target.channel.mixer.fc1)
        copy(*reference.mlp.fc2, target.channel.mixer.fc2)
        layers += [(reference.mlp.neuron1, (target.channel.mixer.lif,)), (reference.mlp.neuron2, (target.channel.lif,))]
    copy_head(net, model)
    return model, layers


def remove_pools(net: spikformer.Spikformer) -> list[nn.Module]:
    """Remove the pools from the stem; return one pool or identity for each convolution."""
    pools = []
    for each in net.patch_embed.stages:
        container = each.conv_bn.block
        pools.append(container[2] if len(container) == 3 else nn.Identity())
        if len(container) == 3:
            container[2] = nn.Identity()
    return pools


# Spike-driven Transformer


def spikingjelly_spike_driven(pooling: str, mlp_ratio: float) -> spike_driven_transformer.SpikeDrivenTransformer:
    torch.manual_seed(3)
    return spike_driven_transformer.SpikeDrivenTransformer(
        T, 3, CLASSES, embed_dims=32, num_heads=4, depths=2, mlp_ratio=mlp_ratio, pooling_stat=pooling, detach_reset=True
    )


def autospike_spike_driven(net: Any, stride: int, mlp_ratio: float) -> tuple[SpikingModel, Layers]:
    block = Block(token_mixer="sdsa_1", mlp_ratio=mlp_ratio)
    stage = Stage(embed_dim=32, embedding=Embedding(stride=stride), blocks=(block,) * 2)
    model = build(Architecture(family="spike_driven", shortcut="membrane", time_steps=T, stages=(stage,)))
    embedding, stem = model.stages[0].embedding, net.patch_embed
    layers = [(stem.final_lif, (embedding.position.lif,)), (net.head_lif, (model.head_lif,))]
    for reference, conv in zip([*stem.stages, stem.final_stage], embedding.convs, strict=True):
        copy(reference[0], reference[1], conv)
    copy(stem.rpe_conv, stem.rpe_bn, embedding.position.mixer)
    for reference, target in zip(net.blocks, model.stages[0].blocks, strict=True):
        layers += copy_spike_driven_block(reference, target)
    copy_head(net, model)
    return model, layers


def copy_spike_driven_block(reference: Any, target: Any) -> Layers:
    attention, mixer, mlp = reference.attn, target.token.mixer, reference.mlp
    layers = [(attention.shortcut_lif, (target.token.lif,)), (attention.attn_lif, (mixer.operator.lif,))]
    for name in ("q", "k", "v"):
        copy(getattr(attention, f"{name}_conv"), getattr(attention, f"{name}_bn"), getattr(mixer, name))
        layers.append((getattr(attention, f"{name}_lif"), (getattr(mixer, f"{name}_lif"),)))
    copy(attention.proj_conv, attention.proj_bn, mixer.projection)
    copy(mlp.fc1, mlp.bn1, target.channel.mixer.fc1)
    copy(mlp.fc2, mlp.bn2, target.channel.mixer.fc2)
    return [*layers, (mlp.lif1, (target.channel.lif,)), (mlp.lif2, (target.channel.mixer.lif,))]


# QKFormer


def spikingjelly_qkformer(qka_type: str) -> qkformer.QKFormer:
    torch.manual_seed(4)
    return qkformer.QKFormer(
        T, 3, CLASSES, embed_dims=32, num_heads=(1, 2, 4), depths=(1, 2, 1), mlp_ratio=2, qka_type=qka_type, detach_reset=True
    )


def autospike_qkformer(net: qkformer.QKFormer, qka_type: str, *, compact: bool = False) -> tuple[SpikingModel, Layers]:
    def early(num_heads: int) -> Block:
        heads = {"num_heads": num_heads} if qka_type == "token" else {}
        return Block(token_mixer=f"{qka_type}_qk", mlp_ratio=2, **heads)

    blocks = ((early(1),), (early(2),) * 2, (Block(num_heads=4, mlp_ratio=2),))
    stages = tuple(
        Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=stage_blocks)
        for width, stride, stage_blocks in zip((8, 16, 32), (1 if compact else 4, 2, 2), blocks, strict=True)
    )
    model = build(Architecture(family="qkformer", time_steps=T, compact_embedding=compact, stages=stages))
    layers = copy_first_embedding(net.patch_embed1, model.stages[0].embedding)
    for reference, stage in ((net.patch_embed2, model.stages[1]), (net.patch_embed3, model.stages[2])):
        layers += copy_embedding(reference, stage.embedding)
    for blocks_of, stage in zip((net.stage1, net.stage2, net.stage3), model.stages, strict=True):
        for reference, target in zip(blocks_of, stage.blocks, strict=True):
            layers += copy_attention(reference.attn, target)
            copy(reference.mlp.fc1, reference.mlp.bn1, target.channel.mixer.fc1)
            copy(reference.mlp.fc2, reference.mlp.bn2, target.channel.mixer.fc2)
            layers += [(reference.mlp.lif1, (target.channel.mixer.lif,)), (reference.mlp.lif2, (target.channel.lif,))]
    copy_head(net, model)
    return model, layers


def copy_first_embedding(reference: Any, target: Any) -> Layers:
    copy(reference.conv1, reference.bn1, target.conv.conv)
    copy(reference.conv2, reference.bn2, target.rest.conv1.conv)
    copy(*reference.shortcut[:2], target.rest.residual)
    layers = [
        (reference.lif1, target.conv.lif),
        (reference.lif2, target.rest.conv1.lif),
        (reference.shortcut[2], target.rest.residual_lif),
    ]
    if not isinstance(reference.conv3, nn.Identity):
        copy(reference.conv3, reference.bn3, target.rest.conv2.conv)
        layers.append((reference.lif3, target.rest.conv2.lif))
    return [(each, (layer_names,)) for each, layer_names in layers]


def copy_embedding(reference: Any, target: Any) -> Layers:
    copy(reference.conv1, reference.bn1, target.conv1.conv)
    copy(reference.conv2, reference.bn2, target.conv2.conv)
    copy(*reference.shortcut[:2], target.residual)
    return [
        (reference.lif1, (target.conv1.lif,)),
        (reference.lif2, (target.conv2.lif,)),
        (reference.shortcut[2], (target.residual_lif,)),
    ]


def to_compact(net: qkformer.QKFormer) -> qkformer.QKFormer:
    """Return the CIFAR form, made from the ImageNet form, because spikingjelly has only that."""
    first = net.patch_embed1
    first.pool1, first.pool2, first.conv3, first.bn3, first.lif3 = (nn.Identity() for _ in range(5))
    first.shortcut[0].stride = (1, 1)
    for each in (net.patch_embed2, net.patch_embed3):
        each.pool, pool = nn.Identity(), each.pool
        each.lif2.register_forward_pre_hook(lambda _module, inputs, pool=pool: (pool(*inputs),))
    return net
