"""Networks of spikingjelly, an independent implementation, and the same networks of this package with their weights.

In double precision, so that rounding moves no potential across a threshold. Their convolutions may have biases that ours lack: one
before a normalisation is a shift of its running mean.
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
# Layers of theirs and ours that are the same: theirs may be stacked where ours are apart.
Layers = list[tuple[nn.Module, tuple[nn.Module, ...]]]


def settled(net: Any, *, shift: float = 0.0) -> nn.Module:
    """In double precision and eval mode, normalised by statistics of images; neurons fire, and more with more `shift`."""
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


def built(architecture: Architecture) -> SpikingModel:
    return build_model(architecture, num_classes=CLASSES, in_chans=3).double().eval()


@torch.no_grad()
def copy(conv: Any, bn: Any, ours: Any, part: slice = slice(None)) -> None:
    """Their convolution (or a part of its channels) and normalisation into our synapse."""
    assert isinstance(ours, LinearNorm | ConvNorm)
    inner = ours.linear if isinstance(ours, LinearNorm) else ours.conv
    inner.weight.copy_(conv.weight[part].reshape(inner.weight.shape))
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(ours.bn, name).copy_(getattr(bn, name)[part])
    bias = 0 if conv.bias is None else conv.bias[part]
    if inner.bias is None:
        ours.bn.running_mean -= bias
    else:
        inner.bias.copy_(torch.zeros_like(inner.bias) + bias)


@torch.no_grad()
def copy_head(net: Any, model: SpikingModel) -> None:
    model.head.weight.copy_(net.head.weight)
    model.head.bias.copy_(net.head.bias)


def copy_attention(theirs: Any, ours: Any) -> Layers:
    """Of Spikformer and QKFormer: their projections are one stacked convolution."""
    mixer = ours.token.mixer
    conv, bn = theirs.qkv_conv_bn if hasattr(theirs, "qkv_conv_bn") else theirs.qk_conv_bn
    width = theirs.dim
    for i, name in enumerate(mixer.operands):
        copy(conv, bn, getattr(mixer, name), slice(i * width, (i + 1) * width))
    copy(*theirs.proj_conv_bn, mixer.projection)
    stacked = theirs.qkv_lif if hasattr(theirs, "qkv_lif") else theirs.qk_lif
    apart = tuple(getattr(mixer, f"{name}_lif") for name in mixer.operands)
    return [(stacked, apart), (theirs.attn_lif, (mixer.operator.lif,)), (theirs.proj_lif, (ours.token.lif,))]


@contextmanager
def counted(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Spikes per step of each module, and in the last row the number of its neurons."""
    counts: dict[nn.Module, Tensor] = {}

    def hook(module: nn.Module, _inputs: object, spikes: Tensor) -> None:
        counts[module] = torch.cat([spikes.flatten(1).sum(dim=1), torch.tensor([float(spikes[0].numel())])]).detach()

    hooks = [module.register_forward_hook(hook) for module in modules]
    yield counts
    for each in hooks:
        each.remove()


# Spikformer


def their_spikformer(stride: int) -> spikformer.Spikformer:
    torch.manual_seed(2)
    height, width = SIZE
    return spikformer.Spikformer(
        T, 3, height, width, stride, CLASSES, embed_dims=32, num_heads=4, mlp_ratio=2, depths=2, detach_reset=True
    )


def our_spikformer(net: spikformer.Spikformer, stride: int) -> tuple[SpikingModel, Layers]:
    stage = Stage(embed_dim=32, embedding=Embedding(stride=stride), blocks=(Block(num_heads=4, mlp_ratio=2),) * 2)
    model = built(Architecture(time_steps=T, stages=(stage,)))
    embedding, layers = model.stages[0].embedding, []
    for theirs, conv in zip(net.patch_embed.stages, embedding.convs, strict=True):
        copy(theirs.conv_bn.block[0], theirs.conv_bn.block[1], conv)
    copy(*net.patch_embed.positional_encoding.conv_bn.block[:2], embedding.position.mixer)
    for theirs, ours in zip(net.blocks, model.stages[0].blocks, strict=True):
        layers += copy_attention(theirs.attn, ours)
        copy(*theirs.mlp.fc1, ours.channel.mixer.fc1)
        copy(*theirs.mlp.fc2, ours.channel.mixer.fc2)
        layers += [(theirs.mlp.neuron1, (ours.channel.mixer.lif,)), (theirs.mlp.neuron2, (ours.channel.lif,))]
    copy_head(net, model)
    return model, layers


def take_pools(net: spikformer.Spikformer) -> list[nn.Module]:
    """Their pools, taken out of the stem: of each convolution, its own, or nothing."""
    pools = []
    for each in net.patch_embed.stages:
        container = each.conv_bn.block
        pools.append(container[2] if len(container) == 3 else nn.Identity())
        if len(container) == 3:
            container[2] = nn.Identity()
    return pools


# Spike-driven Transformer


def their_spike_driven(pooling: str, mlp_ratio: float) -> spike_driven_transformer.SpikeDrivenTransformer:
    torch.manual_seed(3)
    return spike_driven_transformer.SpikeDrivenTransformer(
        T, 3, CLASSES, embed_dims=32, num_heads=4, depths=2, mlp_ratio=mlp_ratio, pooling_stat=pooling, detach_reset=True
    )


def our_spike_driven(net: Any, stride: int, mlp_ratio: float) -> tuple[SpikingModel, Layers]:
    block = Block(token_mixer="sdsa_1", mlp_ratio=mlp_ratio)
    stage = Stage(embed_dim=32, embedding=Embedding(stride=stride), blocks=(block,) * 2)
    model = built(Architecture(family="spike_driven", shortcut="membrane", time_steps=T, stages=(stage,)))
    embedding, stem = model.stages[0].embedding, net.patch_embed
    layers = [(stem.final_lif, (embedding.position.lif,)), (net.head_lif, (model.head_lif,))]
    for theirs, conv in zip([*stem.stages, stem.final_stage], embedding.convs, strict=True):
        copy(theirs[0], theirs[1], conv)
    copy(stem.rpe_conv, stem.rpe_bn, embedding.position.mixer)
    for theirs, ours in zip(net.blocks, model.stages[0].blocks, strict=True):
        layers += copy_spike_driven_block(theirs, ours)
    copy_head(net, model)
    return model, layers


def copy_spike_driven_block(theirs: Any, ours: Any) -> Layers:
    attention, mixer, mlp = theirs.attn, ours.token.mixer, theirs.mlp
    layers = [(attention.shortcut_lif, (ours.token.lif,)), (attention.attn_lif, (mixer.operator.lif,))]
    for name in ("q", "k", "v"):
        copy(getattr(attention, f"{name}_conv"), getattr(attention, f"{name}_bn"), getattr(mixer, name))
        layers.append((getattr(attention, f"{name}_lif"), (getattr(mixer, f"{name}_lif"),)))
    copy(attention.proj_conv, attention.proj_bn, mixer.projection)
    copy(mlp.fc1, mlp.bn1, ours.channel.mixer.fc1)
    copy(mlp.fc2, mlp.bn2, ours.channel.mixer.fc2)
    return [*layers, (mlp.lif1, (ours.channel.lif,)), (mlp.lif2, (ours.channel.mixer.lif,))]


# QKFormer


def their_qkformer(qka_type: str) -> qkformer.QKFormer:
    torch.manual_seed(4)
    return qkformer.QKFormer(
        T, 3, CLASSES, embed_dims=32, num_heads=(1, 2, 4), depths=(1, 2, 1), mlp_ratio=2, qka_type=qka_type, detach_reset=True
    )


def our_qkformer(net: qkformer.QKFormer, qka_type: str, *, compact: bool = False) -> tuple[SpikingModel, Layers]:
    def early(num_heads: int) -> Block:
        heads = {"num_heads": num_heads} if qka_type == "token" else {}
        return Block(token_mixer=f"{qka_type}_qk", mlp_ratio=2, **heads)

    blocks = ((early(1),), (early(2),) * 2, (Block(num_heads=4, mlp_ratio=2),))
    stages = tuple(
        Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=inside)
        for width, stride, inside in zip((8, 16, 32), (1 if compact else 4, 2, 2), blocks, strict=True)
    )
    model = built(Architecture(family="qkformer", time_steps=T, compact_embedding=compact, stages=stages))
    layers = copy_first_embedding(net.patch_embed1, model.stages[0].embedding)
    for theirs, stage in ((net.patch_embed2, model.stages[1]), (net.patch_embed3, model.stages[2])):
        layers += copy_embedding(theirs, stage.embedding)
    for blocks_of, stage in zip((net.stage1, net.stage2, net.stage3), model.stages, strict=True):
        for theirs, ours in zip(blocks_of, stage.blocks, strict=True):
            layers += copy_attention(theirs.attn, ours)
            copy(theirs.mlp.fc1, theirs.mlp.bn1, ours.channel.mixer.fc1)
            copy(theirs.mlp.fc2, theirs.mlp.bn2, ours.channel.mixer.fc2)
            layers += [(theirs.mlp.lif1, (ours.channel.mixer.lif,)), (theirs.mlp.lif2, (ours.channel.lif,))]
    copy_head(net, model)
    return model, layers


def copy_first_embedding(theirs: Any, ours: Any) -> Layers:
    copy(theirs.conv1, theirs.bn1, ours.conv.conv)
    copy(theirs.conv2, theirs.bn2, ours.rest.conv1.conv)
    copy(*theirs.shortcut[:2], ours.rest.residual)
    layers = [(theirs.lif1, ours.conv.lif), (theirs.lif2, ours.rest.conv1.lif), (theirs.shortcut[2], ours.rest.residual_lif)]
    if not isinstance(theirs.conv3, nn.Identity):
        copy(theirs.conv3, theirs.bn3, ours.rest.conv2.conv)
        layers.append((theirs.lif3, ours.rest.conv2.lif))
    return [(each, (same,)) for each, same in layers]


def copy_embedding(theirs: Any, ours: Any) -> Layers:
    copy(theirs.conv1, theirs.bn1, ours.conv1.conv)
    copy(theirs.conv2, theirs.bn2, ours.conv2.conv)
    copy(*theirs.shortcut[:2], ours.residual)
    return [(theirs.lif1, (ours.conv1.lif,)), (theirs.lif2, (ours.conv2.lif,)), (theirs.shortcut[2], (ours.residual_lif,))]


def made_compact(net: qkformer.QKFormer) -> qkformer.QKFormer:
    """The CIFAR form, by surgery on theirs, which has the ImageNet form alone."""
    first = net.patch_embed1
    first.pool1, first.pool2, first.conv3, first.bn3, first.lif3 = (nn.Identity() for _ in range(5))
    first.shortcut[0].stride = (1, 1)
    for each in (net.patch_embed2, net.patch_embed3):
        each.pool, pool = nn.Identity(), each.pool
        each.lif2.register_forward_pre_hook(lambda _module, inputs, pool=pool: (pool(*inputs),))
    return net
