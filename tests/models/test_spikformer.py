"""Spikformer: the stride of its embedding, and the values of its stream."""

from __future__ import annotations

import pytest
import torch

from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron


def spikformer(*, depth: int = 1, stride: int = 4, shortcut: str = "sew") -> SpikingModel:
    """Return a model in training mode with low thresholds, so that neurons spike with initial parameters."""
    torch.manual_seed(0)
    low = Neuron(v_threshold=0.3)
    block = Block(num_heads=2, neuron=low)
    stage = Stage(embed_dim=16, embedding=Embedding(stride=stride, neuron=low), blocks=(block,) * depth)
    return build_model(Architecture(shortcut=shortcut, stages=(stage,)), num_classes=5, in_chans=1)


@pytest.mark.parametrize(("stride", "height", "width"), [(1, 16, 24), (2, 8, 12), (4, 4, 6), (8, 2, 3), (16, 1, 2)])
def test_spatial_size_of_the_stream(stride: int, height: int, width: int) -> None:
    """Each pool halves both sides, rounding up."""
    stream = spikformer(stride=stride).forward_features(torch.rand(2, 1, 16, 24))
    assert stream.shape == (4, 2, height, width, 16)


@pytest.mark.parametrize(("stride", "pooled"), [(1, []), (2, [3]), (4, [2, 3]), (8, [1, 2, 3]), (16, [0, 1, 2, 3])])
def test_the_last_convolutions_are_pooled(stride: int, pooled: list[int]) -> None:
    embedding = spikformer(stride=stride).stages[0].embedding
    sides = []
    x = torch.rand(4, 2, 16, 16, 1)
    for conv, lif, pool in zip(embedding.convs, embedding.lifs, embedding.pools, strict=True):
        before, x = x.shape[2], pool(lif(conv(x)))
        sides.append(before // x.shape[2])
    assert sides == [2 if i in pooled else 1 for i in range(4)]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_stream_counts_spikes(depth: int) -> None:
    """The embedding adds two spikes and each block two more."""
    stream = spikformer(depth=depth).forward_features(torch.rand(8, 1, 16, 16) * 4)
    assert torch.equal(stream, stream.round())
    assert 1 < stream.max() <= 2 + 2 * depth


def test_the_stream_is_spikes_with_vanilla_shortcuts() -> None:
    stream = spikformer(depth=2, shortcut="vanilla").forward_features(torch.rand(8, 1, 16, 16) * 4)
    assert set(stream.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("scale", [0.125, 0.25])
@pytest.mark.parametrize(("tokens", "head_dim"), [(4, 16), (16, 4), (8, 8)])
def test_both_orders_of_attention_are_bit_identical(tokens: int, head_dim: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randint(0, 2, (2, 3, 2, tokens, head_dim), generator=generator).float() for _ in range(3))
    assert torch.equal(AttentionProduct(scale)(Heads(q, k, v)), (q @ k.transpose(-1, -2)) @ v * scale)
