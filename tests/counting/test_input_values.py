"""Statistics of inputs by the compiled kernel and by tensor operations, compared with integer sums of numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import few_examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autospike.counting.accumulator import OperandAccumulator
from autospike.counting.counter import Counter, SegmentContext
from autospike.counting.input_values import InputStatistics, InputStatisticsCache, input_statistics
from autospike.energy.counts import KINDS
from autospike.kernels.build import library, use_kernels
from autospike.nn.attention import Attention
from autospike.space.block import Block

Compute = Callable[[Tensor], InputStatistics]

# A whole number of this size or more counts as real: 2^19.
LIMIT = 524_288

needs_kernel = pytest.mark.skipif(library("input_values") is None, reason="no C compiler")


def without_kernel(x: Tensor) -> InputStatistics:
    with use_kernels("off"):
        return input_statistics(x)


IMPLEMENTATIONS: dict[str, Compute] = {
    "kernel": input_statistics,
    "tensor operations": without_kernel,
    "double precision": lambda x: input_statistics(x.double()),
}
each_implementation = pytest.mark.parametrize(
    "compute",
    [pytest.param(IMPLEMENTATIONS["kernel"], marks=needs_kernel), *list(IMPLEMENTATIONS.values())[1:]],
    ids=IMPLEMENTATIONS,
)


def kind_of(step: np.ndarray) -> str:
    """The kind of all values of one step."""
    seen = np.unique(step).tolist()
    if not all(math.isfinite(value) and value == int(value) and 0 <= value < LIMIT for value in seen):
        return "real"
    return "binary" if max(seen) <= 1 else "integer"


def assert_statistics(compute: Compute, x: Tensor) -> None:
    """Check the kinds of `[T, B, positions, C]` by step, and the sums by step and position where values are not real."""
    found, array = compute(x), x.double().numpy()
    assert (found.sums.shape, found.sums.dtype) == ((x.shape[0], x.shape[2]), torch.float64)
    assert [KINDS[kind] for kind in found.kinds.tolist()] == [kind_of(step) for step in array]
    for kind, sums, step in zip(found.kinds.tolist(), found.sums, array, strict=True):
        if KINDS[kind] != "real":
            assert np.array_equal(sums.numpy(), step.astype(np.int64).sum(axis=(0, 2)))


# Values that are not spikes, and values around the limit.
SPECIAL = [2.0, 7.0, 255.0, LIMIT - 1.0, LIMIT, LIMIT + 1.0, 2.0**23, 2.0**24 + 2, 2.0**31, 2.0**32, 3e38, -0.0]
SPECIAL += [-1.0, -2.0, -LIMIT, -(2.0**31), 0.5, 1.5, 1e-40, 0.99999994, LIMIT - 0.5, -0.25, math.nan, math.inf, -math.inf]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Spikes or small integers `[T, B, positions, C]`, with up to two special values."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 130)))
    high = draw(st.sampled_from([1, 2, 5, LIMIT]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = rng.integers(0, high, shape).astype(np.float32)
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=2)):
        array.flat[rng.integers(array.size)] = value
    return torch.from_numpy(array)


@each_implementation
@few_examples
@given(x=tensors())
def test_sums_and_kinds(compute: Compute, x: Tensor) -> None:
    assert_statistics(compute, x)


@each_implementation
@pytest.mark.parametrize("channels", [1, 3, 63, 64, 65, 130])
@pytest.mark.parametrize("value", SPECIAL)
def test_one_special_value_decides_the_kind_of_its_step(compute: Compute, channels: int, value: float) -> None:
    """Among zeros and among ones, at several places."""
    for index in ((0, 0, 0, 0), (1, 2, 1, channels - 1), (0, 1, 0, channels // 2)):
        for other in (0.0, 1.0):
            x = torch.full((3, 3, 2, channels), other)
            x[index] = value
            assert_statistics(compute, x)


@each_implementation
@pytest.mark.parametrize("shape", [(1, 1, 2, 9001), (1, 8200, 2, 3)], ids=["channels", "images"])
def test_sums_of_many_large_integers_do_not_overflow(compute: Compute, shape: tuple[int, ...]) -> None:
    """Sums of the largest integers that exceed 32 bits."""
    x = torch.full(shape, LIMIT - 1.0)
    assert shape[1] * shape[3] * (LIMIT - 1) > 2**32
    assert_statistics(compute, x)


@each_implementation
def test_steps_and_positions_are_independent(compute: Compute) -> None:
    x = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)
    for image in range(3):
        for channel in range(5):
            expected = torch.zeros_like(x)
            expected[:, image, :, channel] = x[:, image, :, channel]
            assert torch.equal(compute(expected).sums, x[:, image, :, channel].double())


@each_implementation
@few_examples
@given(x=tensors(), order=st.permutations(range(4)))
def test_memory_layout_does_not_matter(compute: Compute, x: Tensor, order: list[int]) -> None:
    inverse = [order.index(i) for i in range(4)]
    scattered = x.permute(order).contiguous().permute(inverse)
    assert scattered.shape == x.shape
    assert_statistics(compute, scattered)
    assert_statistics(compute, x.repeat_interleave(2, dim=3)[..., ::2])
    assert_statistics(compute, x[:, :1].expand(-1, 3, -1, -1))


@few_examples
@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3), st.integers(1, 70), st.integers(0, 99))
def test_sums_per_position_and_total(steps: int, batch: int, inside: list[int], channels: int, seed: int) -> None:
    """For each position of `[T, B, ..., C]`, or over all positions."""
    x = torch.randint(0, 3, (steps, batch, *inside, channels), generator=torch.Generator().manual_seed(seed)).float()
    array = x.numpy().astype(np.int64)
    positions = array.reshape(steps, batch, -1, channels).sum(axis=(1, 3))
    if inside:
        assert np.array_equal(InputStatisticsCache().per_position(x).sums.numpy(), positions)
    total = InputStatisticsCache().total(x)
    assert np.array_equal(total.sums.numpy(), positions.sum(axis=1, keepdims=True))
    assert [KINDS[kind] for kind in total.kinds.tolist()] == ["integer" if step.max() > 1 else "binary" for step in array]


def test_accumulators_of_batches_add_up() -> None:
    """The kind is the wider one at each step; sums are weighted with the fan-out of their position."""
    statistics = InputStatistics(sums=torch.tensor([[1.0, 2.0], [0, 3]], dtype=torch.float64), kinds=torch.tensor([0, 1]))
    other = InputStatistics(sums=torch.tensor([[2.0**50, 5.0], [1, 1]], dtype=torch.float64), kinds=torch.tensor([1, 0]))
    fan_out = torch.tensor([2.0, 1.0], dtype=torch.float64)
    parts = [OperandAccumulator.of(each, elements=9, fan_out=fan_out) for each in (statistics, other)]
    for first, second in (parts, parts[::-1]):
        summed = replace(first)
        summed.add(second)
        for total in (summed.total(), first.total() + second.total()):
            assert (total.sums, total.acs) == ((2**50 + 8, 5), (2**51 + 9, 6))
            assert [KINDS[kind] for kind in total.kinds] == ["integer", "integer"]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_spikes_of_any_data_type_are_binary(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (2, 3, 4, 8), generator=torch.Generator().manual_seed(0))
    found = input_statistics(x.to(dtype))
    assert [KINDS[kind] for kind in found.kinds.tolist()] == ["binary", "binary"]
    assert torch.equal(found.sums, x.sum(dim=(1, 3)).double())


# The cache


def set_values(x: Tensor, value: float) -> None:
    """Change a tensor in a way that torch does not track, so that cached statistics stay as they are."""
    x.numpy()[...] = value


def test_statistics_of_a_tensor_are_computed_once() -> None:
    cache, x = InputStatisticsCache(), torch.ones(2, 3, 4, 5)
    assert cache.per_position(x) is cache.per_position(x)


def test_statistics_are_computed_again_after_a_change_in_place() -> None:
    cache, x = InputStatisticsCache(), torch.ones(2, 3, 4, 5)
    cache.per_position(x)
    x[0] = 0
    assert cache.per_position(x).sums.sum(dim=1).tolist() == [0, 3 * 4 * 5]
    x.view(-1).mul_(2)
    assert cache.per_position(x).sums.sum(dim=1).tolist() == [0, 2 * 3 * 4 * 5]


def test_statistics_are_computed_again_after_a_change_in_inference_mode() -> None:
    """Torch does not track changes there, so nothing is cached."""
    cache = InputStatisticsCache()
    with torch.inference_mode():
        x = torch.ones(2, 3, 4, 5)
        assert cache.per_position(x).sums.sum() == x.numel()
        x[0] = 0
        assert cache.per_position(x).sums.sum() == x.numel() / 2


def test_a_view_has_separate_statistics() -> None:
    """Although it has the address and the version of the whole tensor."""
    cache, x = InputStatisticsCache(), torch.ones(2, 3, 4, 5)
    assert cache.per_position(x).sums.sum() == 2 * 3 * 4 * 5
    assert cache.per_position(x[..., :2]).sums.sum() == 2 * 3 * 4 * 2


def test_a_new_tensor_in_the_memory_of_a_freed_one_has_separate_statistics() -> None:
    cache = InputStatisticsCache()
    for value in (0.0, 1.0, 2.0):
        found = cache.per_position(torch.full((1, 1, 4, 5), value))
        assert found.sums.tolist() == [[5 * value] * 4]


def test_the_total_of_a_view_of_all_values_is_cached() -> None:
    """For example heads `[T, B, heads, N, head_dim]` of `[T, B, N, C]`."""
    cache, x = InputStatisticsCache(), torch.randint(0, 3, (2, 3, 5, 8)).float()
    cache.per_position(x)
    expected = [[step.sum().item()] for step in x]
    heads, kinds = x.unflatten(-1, (2, 4)).transpose(2, 3), [int(step.max() > 1) for step in x]
    set_values(x, 9)
    found = cache.total(heads)
    assert (found.sums.tolist(), found.kinds.tolist()) == (expected, kinds)
    x[0, 0, 0, 0] += 1
    assert cache.total(heads).sums.tolist() == [[step.sum().item()] for step in x]


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[..., :4],
        lambda x: x[:1],
        lambda x: x[1:],
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: x[:, 1:2].expand(-1, 3, -1, -1),
        lambda x: x.transpose(0, 1),
    ],
)
def test_a_view_of_other_values_has_a_separate_total(part: Callable[[Tensor], Tensor]) -> None:
    cache, x = InputStatisticsCache(), torch.arange(3.0 * 3 * 5 * 8).view(3, 3, 5, 8).clone()
    cache.per_position(x)
    assert cache.total(part(x)).sums.tolist() == [[step.sum().item()] for step in part(x)]


class Wrapper(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class RecordingCache(InputStatisticsCache):
    """Records which statistics layers used, and the sums that neurons recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[InputStatistics] = []
        self.recorded: list[Tensor] = []

    def per_position(self, x: Tensor) -> InputStatistics:
        self.used.append(super().per_position(x))
        return self.used[-1]

    def record(self, spikes: Tensor, sums: Tensor, *, integers: bool = False) -> None:
        self.recorded.append(sums)
        super().record(spikes, sums, integers=integers)


def test_q_k_and_v_share_the_statistics_of_their_input() -> None:
    """The projection uses the statistics that the kernel of the neurons before it recorded."""
    model = Wrapper(Attention(8, Block(num_heads=2), scale=0.125, qkv_bias=False)).eval()
    x, counter, cache = torch.randint(0, 2, (2, 3, 2, 2, 8)).float(), Counter(), RecordingCache()
    with torch.no_grad(), counter.watch(model, images=3, time_steps=2, segment=SegmentContext(inputs=cache)):
        model(x)
    of_q, of_k, of_v, of_projection = cache.used
    assert of_q is of_k is of_v
    if library("lif") is not None:
        assert any(of_projection.sums is sums for sums in cache.recorded)
    q, k, v, *_ = counter.operations().counts
    assert q.acs == k.acs == v.acs == tuple(8 * step.sum().item() / 3 for step in x)
