"""Attention operators against loops over single spikes, what they cost, and what heads mean to them."""

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
SCALE = 0.5  # lets something fire on images this small

Array = np.ndarray
Spiking = Callable[[Array], Array]


def spikes(*shape: int, rate: float = 0.4, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def operands_of(mixer: str, *shape: int, rate: float = 0.4) -> dict[str, Tensor]:
    return {name: spikes(*shape, rate=rate, seed=seed) for seed, name in enumerate(READS[mixer])}


def built(mixer: str, num_heads: int, neuron: Neuron | None = None, scale: float = SCALE) -> nn.Module:
    heads = {"num_heads": num_heads} if mixer in WITH_HEADS else {}
    return operator(Block(token_mixer=mixer, neuron=neuron or Neuron(), **heads), scale)  # type: ignore[arg-type]


def fire(current: Array, v_threshold: float, tau: float) -> Array:
    """The neuron's three equations; time comes first."""
    v, fired = np.zeros_like(current[0]), np.empty_like(current)
    for t, x in enumerate(current):
        h = (v + (x - v) / np.float32(tau)).astype(np.float32)
        fired[t] = h >= np.float32(v_threshold)
        v = np.where(fired[t] > 0, np.float32(0), h)
    return fired


def pooled(x: Array) -> Array:
    """The largest of the 3x3 neighbours in the last two dimensions."""
    rows, columns = x.shape[-2:]
    result = np.empty_like(x)
    for i, j in product(range(rows), range(columns)):
        result[..., i, j] = x[..., max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max(axis=(-2, -1))
    return result


# Each operator on spikes `[T, B, tokens, channels of a head]`, with a function for its neurons.


def matrix(q: Array, k: Array, v: Array, spiking: Spiking) -> Array:
    """Every query token sums the values of every token, as often as the two share a channel."""
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
    """K and v see their neighbours in the image; the coincidence and the result theirs in the table of tokens and channels."""

    def over_the_image(x: Array) -> Array:
        images = np.moveaxis(x.reshape(*x.shape[:-2], *size, x.shape[-1]), -1, -3)
        return np.moveaxis(pooled(images), -3, -1).reshape(x.shape)

    coincident = pooled(over_the_image(k) * over_the_image(v))
    gate = spiking(coincident.sum(axis=-2))
    return pooled(np.stack([q[..., i, :] * gate for i in range(q.shape[-2])], axis=-2))


def of_the_query(q: Array, passed: Array, spiking: Spiking) -> Array:
    """Channels in which the query fired at some tokens."""
    current = np.zeros_like(q[..., 0, :])
    for i in range(q.shape[-2]):
        current += q[..., i, :]
    gate = spiking(current)
    return np.stack([passed[..., i, :] * gate for i in range(q.shape[-2])], axis=-2)


def of_tokens(q: Array, passed: Array, spiking: Spiking) -> Array:
    """Tokens at which the query fired in some channels."""
    current = np.zeros_like(q[..., 0])
    for c in range(q.shape[-1]):
        current += q[..., c]
    gate = spiking(current)
    return np.stack([passed[..., c] * gate for c in range(q.shape[-1])], axis=-1)


REFERENCES: dict[str, Callable[..., Array]] = {
    "sdsa_1": coincidence,
    "sdsa_1_dilated": dilated,
    "sdsa_2": of_the_query,
    "sdsa_3": matrix,
    "sdsa_4": matrix,
    "token_qk": of_tokens,
    "channel_qk": of_the_query,
}


def by_loops(mixer: str, operands: dict[str, Tensor], num_heads: int, v_threshold: float, tau: float) -> Array:
    """`[T, B, H, W, D]`: each head is a network of its own, over its share of the channels."""
    steps, batch, height, width, channels = operands["q"].shape
    size = channels // num_heads

    reference = REFERENCES[mixer]
    if mixer == "sdsa_1_dilated":
        reference = partial(reference, size=(height, width))

    def of_head(head: int) -> Array:
        taken = (x.reshape(steps, batch, height * width, channels)[..., head * size :][..., :size] for x in operands.values())
        found = reference(*(x.numpy() for x in taken), lambda current: fire(current, v_threshold, tau))
        return found.reshape(steps, batch, height, width, size)

    return np.concatenate([of_head(head) for head in range(num_heads)], axis=-1)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("neuron", [Neuron(), Neuron(v_threshold=3.0, tau=2.0), Neuron(v_threshold=2.3, tau=1.6)], ids=str)
@pytest.mark.parametrize("mixer", ATTENTIONS)
def test_an_operator_is_what_the_loops_say(mixer: str, neuron: Neuron, num_heads: int) -> None:
    """The neurons of attention fire at half the block's threshold."""
    operands = operands_of(mixer, 4, 2, 2, 3, 8)
    found = built(mixer, num_heads, neuron)(*operands.values()).detach().numpy()
    np.testing.assert_array_equal(found, by_loops(mixer, operands, num_heads, neuron.v_threshold / 2, neuron.tau))
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("mixer", ATTENTIONS)
def test_an_image_of_many_tokens_and_small_heads(mixer: str) -> None:
    """The other order of the matrix product, and an image in which a pool does not reach everything."""
    operands = operands_of(mixer, 2, 1, 5, 4, 6, rate=0.15)
    found = built(mixer, 2)(*operands.values()).detach().numpy()
    np.testing.assert_array_equal(found, by_loops(mixer, operands, 2, 0.5, 2.0))
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("mixer", WITH_HEADS)
def test_heads_matter_where_there_are_any(mixer: str) -> None:
    operands = operands_of(mixer, 4, 2, 3, 3, 8, rate=0.25)
    two, four = (built(mixer, heads)(*operands.values()) for heads in (2, 4))
    assert not torch.equal(two, four)


@pytest.mark.parametrize("mixer", WITHOUT_HEADS)
def test_elsewhere_each_channel_is_a_head_of_its_own(mixer: str) -> None:
    operands, layer = operands_of(mixer, 4, 2, 3, 3, 8), built(mixer, 1)
    alone = [layer(*(x[..., c : c + 1] for x in operands.values())) for c in range(8)]
    assert torch.equal(torch.cat(alone, dim=-1), layer(*operands.values()))
    with pytest.raises(ValueError, match="num_heads has no effect"):
        Block(token_mixer=mixer, num_heads=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tokens", "head_dim"), [(4, 16), (16, 4), (8, 8), (1, 8), (8, 1)])
def test_both_orders_of_the_matrix_product_are_equal_bit_for_bit(tokens: int, head_dim: int) -> None:
    q, k, v = (spikes(2, 3, 2, tokens, head_dim, seed=seed) for seed in range(3))
    found = AttentionProduct(SCALE)(Heads(q, k, v))
    assert torch.equal(found, (q @ k.transpose(-1, -2)) @ v * SCALE)
    assert torch.equal(found, q @ (k.transpose(-1, -2) @ v) * SCALE)


@pytest.mark.parametrize(("scale", "spikes_out"), [(0.125, 0), (0.25, 1)])
def test_the_scale_is_the_architecture_s(scale: float, spikes_out: int) -> None:
    """Four coincidences: 4 x 0.125 / tau = 0.25 stays under a threshold of 0.5, 4 x 0.25 / tau reaches it."""
    ones = torch.ones(1, 1, 2, 2, 1)
    assert built("sdsa_3", 1, scale=scale)(ones, ones, ones).unique().tolist() == [spikes_out]


@pytest.mark.parametrize("threshold_scale", [0.5, 1.0, 2.0, 4.0, 5.3])
def test_sdsa_4_s_scale_is_one_of_the_threshold(threshold_scale: float) -> None:
    operands = operands_of("sdsa_4", 5, 2, 4, 4, 8, rate=0.6)
    layer = built("sdsa_4", 2)
    with torch.no_grad():
        layer.threshold_scale.fill_(threshold_scale)  # type: ignore[operator]
        found = layer(*operands.values())
    expected = built("sdsa_3", 2, Neuron(v_threshold=threshold_scale))(*operands.values())
    assert torch.equal(found, expected)
    assert 0 < found.mean() < 1


def test_sdsa_4_learns_its_threshold() -> None:
    """One step at tau 2: s = step(y / (2 scale) - 0.5), whose surrogate derivative by the scale is known."""
    operands = operands_of("sdsa_4", 1, 2, 4, 4, 8, rate=0.6)
    layer = built("sdsa_4", 2)
    layer(*operands.values()).sum().backward()
    q, k, v = (by_head(x, 2) for x in operands.values())
    y = merge_heads(q @ (k.transpose(-1, -2) @ v) * SCALE).view(operands["q"].shape).double()
    g = torch.sigmoid(4 * (y / 2 - 0.5))
    expected = (4 * g * (1 - g) * -y / 2).sum()
    assert [name for name, _ in layer.named_parameters()] == ["threshold_scale"]
    assert expected.abs() > 1
    torch.testing.assert_close(layer.threshold_scale.grad.double(), expected.view(1), rtol=1e-5, atol=0)


def dense_macs(mixer: str, side: int, channels: int, num_heads: int) -> int:
    """Operations of one operator per step, as they are counted, on an image with so many pixels a side."""
    layer, counter, operands = built(mixer, num_heads).eval(), Counter(), operands_of(mixer, 1, 1, side, side, channels)
    with torch.no_grad(), counter.watch(layer, images=1, time_steps=1):
        layer(*operands.values())
    return sum(count.macs for count in counter.operations().counts)


@pytest.mark.parametrize("mixer", ["sdsa_1", "sdsa_1_dilated", "sdsa_2", "token_qk", "channel_qk"])
@pytest.mark.parametrize(("side", "channels", "num_heads"), [(2, 8, 1), (4, 8, 1), (4, 16, 1), (4, 16, 4)])
def test_gates_cost_the_elements_a_few_times(mixer: str, side: int, channels: int, num_heads: int) -> None:
    """O(N D), whatever the number of heads: everything is summed once and gated once; of SDSA-1, k meets v before that."""
    times = 3 if mixer.startswith("sdsa_1") else 2
    assert dense_macs(mixer, side, channels, num_heads) == times * side**2 * channels


@pytest.mark.parametrize("mixer", ["sdsa_3", "sdsa_4"])
@pytest.mark.parametrize(("side", "channels", "num_heads"), [(2, 8, 1), (4, 8, 1), (4, 16, 1), (4, 16, 4), (8, 16, 4)])
def test_a_matrix_product_costs_a_head_s_width_at_every_element(mixer: str, side: int, channels: int, num_heads: int) -> None:
    """O(N D^2 / heads): k^T v, then q times it."""
    assert dense_macs(mixer, side, channels, num_heads) == 2 * side**2 * channels**2 // num_heads


@pytest.mark.parametrize("synapse", ["linear", "repconv"])
@pytest.mark.parametrize("mixer", ATTENTIONS)
def test_attention_projects_fires_mixes_and_projects_back(mixer: str, synapse: str) -> None:
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
def test_attention_has_the_synapses_that_it_reads_and_no_others(mixer: str, qkv: str, projection: str, qkv_bias: bool) -> None:
    block = Block(token_mixer=mixer, qkv=qkv, projection=projection)  # type: ignore[arg-type]
    layer = Attention(8, block, scale=SCALE, qkv_bias=qkv_bias)
    kinds = {"linear": LinearNorm, "repconv": RepConv}
    found = {name: type(child) for name, child in layer.named_children() if isinstance(child, LinearNorm | RepConv)}
    assert found == {**dict.fromkeys(READS[mixer], kinds[qkv]), "projection": kinds[projection]}
    biases = {name for name, _ in layer.named_parameters() if name.endswith("linear.bias")}
    linear = set(READS[mixer] if qkv == "linear" and qkv_bias else ()) | ({"projection"} if projection == "linear" else set())
    assert biases == {f"{name}.linear.bias" for name in linear}
