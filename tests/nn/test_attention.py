"""Attention operators compared with loops over single spikes; their numbers of operations and the effect of heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from builders import READS, WITH_HEADS
from torch import Tensor, nn

from autospike.counting.counter import Counter
from autospike.kernels.attention import merge_heads
from autospike.nn.attention import Attention, by_head, operator
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import LinearNorm, RepConv
from autospike.space.block import Block, Neuron

ATTENTIONS = [name for name, operands in READS.items() if operands]
WITHOUT_HEADS = [name for name in ATTENTIONS if name not in WITH_HEADS]
SCALE = 0.5  # large enough for spikes on small images

Array = np.ndarray
Spiking = Callable[[Array], Array]


def spikes(*shape: int, rate: float = 0.4, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def operands_of(mixer: str, *shape: int, rate: float = 0.4) -> dict[str, Tensor]:
    return {name: spikes(*shape, rate=rate, seed=seed) for seed, name in enumerate(READS[mixer])}


def build_operator(mixer: str, num_heads: int, neuron: Neuron | None = None, scale: float = SCALE) -> nn.Module:
    heads = {"num_heads": num_heads} if mixer in WITH_HEADS else {}
    return operator(Block(token_mixer=mixer, neuron=neuron or Neuron(), **heads), scale)  # type: ignore[arg-type]


def fire(current: Array, v_threshold: float, tau: float) -> Array:
    """Return the spikes of LIF neurons by their three equations; time is the first dimension."""
    v, fired = np.zeros_like(current[0]), np.empty_like(current)
    for t, x in enumerate(current):
        h = (v + (x - v) / np.float32(tau)).astype(np.float32)
        fired[t] = h >= np.float32(v_threshold)
        v = np.where(fired[t] > 0, np.float32(0), h)
    return fired


def max_pooled(x: Array) -> Array:
    """Return the maximum over 3x3 neighbours in the last two dimensions."""
    rows, columns = x.shape[-2:]
    result = np.empty_like(x)
    for i, j in product(range(rows), range(columns)):
        result[..., i, j] = x[..., max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max(axis=(-2, -1))
    return result


# Each operator on spikes `[T, B, tokens, channels of a head]`, with a function for its neurons.


def matrix_product(q: Array, k: Array, v: Array, spiking: Spiking) -> Array:
    """Sum over all tokens the value times the number of channels in which query and key both spike."""
    current = np.zeros_like(q)
    tokens, channels = q.shape[-2:]
    for i, j, c, d in product(range(tokens), range(tokens), range(channels), range(channels)):
        current[..., i, d] += SCALE * q[..., i, c] * k[..., j, c] * v[..., j, d]
    return spiking(current)


def coincidence(q: Array, k: Array, v: Array, spiking: Spiking) -> Array:
    current = np.zeros_like(q[..., 0, :])
    for i in range(q.shape[-2]):
        current += k[..., i, :] * v[..., i, :]
    gate = spiking(current)
    return np.stack([q[..., i, :] * gate for i in range(q.shape[-2])], axis=-2)


def dilated(q: Array, k: Array, v: Array, spiking: Spiking, *, size: tuple[int, int]) -> Array:
    """Pool k and v over the image, and their product and the result over tokens and channels."""

    def pooled_over_image(x: Array) -> Array:
        images = np.moveaxis(x.reshape(*x.shape[:-2], *size, x.shape[-1]), -1, -3)
        return np.moveaxis(max_pooled(images), -3, -1).reshape(x.shape)

    coincident = max_pooled(pooled_over_image(k) * pooled_over_image(v))
    gate = spiking(coincident.sum(axis=-2))
    return max_pooled(np.stack([q[..., i, :] * gate for i in range(q.shape[-2])], axis=-2))


def query_channel_gate(q: Array, gated: Array, spiking: Spiking) -> Array:
    """Keep the channels in which the query has enough spikes."""
    current = np.zeros_like(q[..., 0, :])
    for i in range(q.shape[-2]):
        current += q[..., i, :]
    gate = spiking(current)
    return np.stack([gated[..., i, :] * gate for i in range(q.shape[-2])], axis=-2)


def query_token_gate(q: Array, gated: Array, spiking: Spiking) -> Array:
    """Keep the tokens at which the query has enough spikes."""
    current = np.zeros_like(q[..., 0])
    for c in range(q.shape[-1]):
        current += q[..., c]
    gate = spiking(current)
    return np.stack([gated[..., c] * gate for c in range(q.shape[-1])], axis=-1)


REFERENCES: dict[str, Callable[..., Array]] = {
    "sdsa_1": coincidence,
    "sdsa_1_dilated": dilated,
    "sdsa_2": query_channel_gate,
    "sdsa_3": matrix_product,
    "sdsa_4": matrix_product,
    "token_qk": query_token_gate,
    "channel_qk": query_channel_gate,
}


def by_loops(mixer: str, operands: dict[str, Tensor], num_heads: int, v_threshold: float, tau: float) -> Array:
    """Return `[T, B, H, W, D]`: each head computes on its own slice of the channels."""
    steps, batch, height, width, channels = operands["q"].shape
    size = channels // num_heads

    reference = REFERENCES[mixer]
    if mixer == "sdsa_1_dilated":
        reference = partial(reference, size=(height, width))

    def head_output(head: int) -> Array:
        head_operands = (
            x.reshape(steps, batch, height * width, channels)[..., head * size :][..., :size] for x in operands.values()
        )
        found = reference(*(x.numpy() for x in head_operands), lambda current: fire(current, v_threshold, tau))
        return found.reshape(steps, batch, height, width, size)

    return np.concatenate([head_output(head) for head in range(num_heads)], axis=-1)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("neuron", [Neuron(), Neuron(v_threshold=3.0, tau=2.0), Neuron(v_threshold=2.3, tau=1.6)], ids=str)
@pytest.mark.parametrize("mixer", ATTENTIONS)
def test_operators_equal_loops_over_spikes(mixer: str, neuron: Neuron, num_heads: int) -> None:
    """The neurons of attention fire at half the block's threshold."""
    operands = operands_of(mixer, 4, 2, 2, 3, 8)
    found = build_operator(mixer, num_heads, neuron)(*operands.values()).detach().numpy()
    np.testing.assert_array_equal(found, by_loops(mixer, operands, num_heads, neuron.v_threshold / 2, neuron.tau))
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("mixer", ATTENTIONS)
def test_operators_with_more_tokens_than_channels_of_a_head(mixer: str) -> None:
    """Covers the other order of the matrix product, and an image larger than the pooling window."""
    operands = operands_of(mixer, 2, 1, 5, 4, 6, rate=0.15)
    found = build_operator(mixer, 2)(*operands.values()).detach().numpy()
    np.testing.assert_array_equal(found, by_loops(mixer, operands, 2, 0.5, 2.0))
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("mixer", WITH_HEADS)
def test_the_number_of_heads_changes_the_output(mixer: str) -> None:
    operands = operands_of(mixer, 4, 2, 3, 3, 8, rate=0.25)
    two, four = (build_operator(mixer, heads)(*operands.values()) for heads in (2, 4))
    assert not torch.equal(two, four)


@pytest.mark.parametrize("mixer", WITHOUT_HEADS)
def test_operators_without_heads_treat_channels_independently(mixer: str) -> None:
    operands, layer = operands_of(mixer, 4, 2, 3, 3, 8), build_operator(mixer, 1)
    separate = [layer(*(x[..., c : c + 1] for x in operands.values())) for c in range(8)]
    assert torch.equal(torch.cat(separate, dim=-1), layer(*operands.values()))
    with pytest.raises(ValueError, match="num_heads has no effect"):
        Block(token_mixer=mixer, num_heads=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tokens", "head_dim"), [(4, 16), (16, 4), (8, 8), (1, 8), (8, 1)])
def test_both_orders_of_the_matrix_product_are_bit_identical(tokens: int, head_dim: int) -> None:
    q, k, v = (spikes(2, 3, 2, tokens, head_dim, seed=seed) for seed in range(3))
    found = AttentionProduct(SCALE)(Heads(q, k, v))
    assert torch.equal(found, (q @ k.transpose(-1, -2)) @ v * SCALE)
    assert torch.equal(found, q @ (k.transpose(-1, -2) @ v) * SCALE)


@pytest.mark.parametrize(("scale", "spikes_out"), [(0.125, 0), (0.25, 1)])
def test_the_scale_of_the_architecture_is_applied(scale: float, spikes_out: int) -> None:
    """With four coincidences, 4 x 0.125 / tau = 0.25 is below the threshold of 0.5, and 4 x 0.25 / tau equals it."""
    ones = torch.ones(1, 1, 2, 2, 1)
    assert build_operator("sdsa_3", 1, scale=scale)(ones, ones, ones).unique().tolist() == [spikes_out]


@pytest.mark.parametrize("threshold_scale", [0.5, 1.0, 2.0, 4.0, 5.3])
def test_the_scale_of_sdsa_4_multiplies_the_threshold(threshold_scale: float) -> None:
    operands = operands_of("sdsa_4", 5, 2, 4, 4, 8, rate=0.6)
    layer = build_operator("sdsa_4", 2)
    with torch.no_grad():
        layer.threshold_scale.fill_(threshold_scale)  # type: ignore[operator]
        found = layer(*operands.values())
    expected = build_operator("sdsa_3", 2, Neuron(v_threshold=threshold_scale))(*operands.values())
    assert torch.equal(found, expected)
    assert 0 < found.mean() < 1


def test_the_threshold_of_sdsa_4_has_a_gradient() -> None:
    """One step with tau = 2: s = step(y / (2 scale) - 0.5), with a known surrogate derivative by the scale."""
    operands = operands_of("sdsa_4", 1, 2, 4, 4, 8, rate=0.6)
    layer = build_operator("sdsa_4", 2)
    layer(*operands.values()).sum().backward()
    q, k, v = (by_head(x, 2) for x in operands.values())
    y = merge_heads(q @ (k.transpose(-1, -2) @ v) * SCALE).view(operands["q"].shape).double()
    g = torch.sigmoid(4 * (y / 2 - 0.5))
    expected = (4 * g * (1 - g) * -y / 2).sum()
    assert [name for name, _ in layer.named_parameters()] == ["threshold_scale"]
    assert expected.abs() > 1
    torch.testing.assert_close(layer.threshold_scale.grad.double(), expected.view(1), rtol=1e-5, atol=0)


def dense_macs(mixer: str, side: int, channels: int, num_heads: int) -> int:
    """Return the counted dense operations per step of one operator on a square image."""
    layer, counter, operands = build_operator(mixer, num_heads).eval(), Counter(), operands_of(mixer, 1, 1, side, side, channels)
    with torch.no_grad(), counter.watch(layer, images=1, time_steps=1):
        layer(*operands.values())
    return sum(count.macs for count in counter.operations().counts)


@pytest.mark.parametrize("mixer", ["sdsa_1", "sdsa_1_dilated", "sdsa_2", "token_qk", "channel_qk"])
@pytest.mark.parametrize(("side", "channels", "num_heads"), [(2, 8, 1), (4, 8, 1), (4, 16, 1), (4, 16, 4)])
def test_gated_attention_has_a_linear_number_of_operations(mixer: str, side: int, channels: int, num_heads: int) -> None:
    """O(N D) for any number of heads: each element is summed once and gated once; SDSA-1 multiplies k by v before."""
    times = 3 if mixer.startswith("sdsa_1") else 2
    assert dense_macs(mixer, side, channels, num_heads) == times * side**2 * channels


@pytest.mark.parametrize("mixer", ["sdsa_3", "sdsa_4"])
@pytest.mark.parametrize(("side", "channels", "num_heads"), [(2, 8, 1), (4, 8, 1), (4, 16, 1), (4, 16, 4), (8, 16, 4)])
def test_matrix_product_attention_has_head_dim_operations_per_element(mixer: str, side: int, channels: int, num_heads: int) -> None:
    """O(N D^2 / heads): k^T v, then q times the product."""
    assert dense_macs(mixer, side, channels, num_heads) == 2 * side**2 * channels**2 // num_heads


@pytest.mark.parametrize("synapse", ["linear", "repconv"])
@pytest.mark.parametrize("mixer", ATTENTIONS)
def test_attention_equals_its_projections_neurons_and_operator(mixer: str, synapse: str) -> None:
    heads = {"num_heads": 2} if mixer in WITH_HEADS else {}
    block = Block(token_mixer=mixer, qkv=synapse, projection=synapse, neuron=Neuron(v_threshold=0.2), **heads)  # type: ignore[arg-type]
    torch.manual_seed(0)
    layer = Attention(8, block, scale=SCALE, qkv_bias=False)
    x = spikes(3, 4, 3, 3, 8)
    with torch.no_grad():
        for _ in range(20):
            layer(x)  # statistics
        layer.eval()
        currents = {name: layer.get_submodule(name)(x).numpy() for name in READS[mixer]}
        fired = {name: torch.from_numpy(fire(current, 0.2, 2.0)) for name, current in currents.items()}
        mixed = by_loops(mixer, fired, 2 if heads else 1, 0.1, 2.0)
        assert 0 < mixed.mean() < 1
        torch.testing.assert_close(layer(x), layer.projection(torch.from_numpy(mixed)))


@pytest.mark.parametrize("mixer", ATTENTIONS)
@pytest.mark.parametrize(("qkv", "projection"), [("linear", "repconv"), ("repconv", "linear")])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_has_exactly_the_layers_of_its_operands_and_the_projection(
    mixer: str, qkv: str, projection: str, qkv_bias: bool
) -> None:
    block = Block(token_mixer=mixer, qkv=qkv, projection=projection)  # type: ignore[arg-type]
    layer = Attention(8, block, scale=SCALE, qkv_bias=qkv_bias)
    kinds = {"linear": LinearNorm, "repconv": RepConv}
    found = {name: type(child) for name, child in layer.named_children() if isinstance(child, LinearNorm | RepConv)}
    assert found == {**dict.fromkeys(READS[mixer], kinds[qkv]), "projection": kinds[projection]}
    biases = {name for name, _ in layer.named_parameters() if name.endswith("linear.bias")}
    linear = set(READS[mixer] if qkv == "linear" and qkv_bias else ()) | ({"projection"} if projection == "linear" else set())
    assert biases == {f"{name}.linear.bias" for name in linear}
