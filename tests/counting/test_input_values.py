"""What enters a layer, read by the kernel in C and by tensor operations, against numpy's integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import few
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autospike.counting import input_values as values
from autospike.counting.accumulator import Operand
from autospike.counting.counter import Counter
from autospike.counting.input_values import InputReader, Values, _read
from autospike.energy.counts import KINDS
from autospike.kernels.lif import kernel
from autospike.nn.attention import Attention
from autospike.space.architecture import Block

Read = Callable[[Tensor], Values]

# By hand: from here on a whole number is no sum of spikes.
LIMIT = 524_288

needs_kernel = pytest.mark.skipif(values._kernel() is None, reason="no C compiler")


def by_tensors(x: Tensor) -> Values:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_kernel", lambda: None)
        return _read(x)


READS: dict[str, Read] = {
    "kernel": _read,
    "tensor operations": by_tensors,
    "double precision": lambda x: _read(x.double()),
}
each_way = pytest.mark.parametrize(
    "read", [pytest.param(READS["kernel"], marks=needs_kernel), *list(READS.values())[1:]], ids=READS
)


def kind_of(step: np.ndarray) -> str:
    """Of all values of one step."""
    seen = np.unique(step).tolist()
    if not all(math.isfinite(value) and value == int(value) and 0 <= value < LIMIT for value in seen):
        return "real"
    return "binary" if max(seen) <= 1 else "integer"


def assert_read(read: Read, x: Tensor) -> None:
    """Kinds of `[T, B, positions, C]` by step, and its sums by step and position, where they have a meaning."""
    found, array = read(x), x.double().numpy()
    assert (found.sums.shape, found.sums.dtype) == ((x.shape[0], x.shape[2]), torch.float64)
    assert [KINDS[kind] for kind in found.kinds.tolist()] == [kind_of(step) for step in array]
    for kind, sums, step in zip(found.kinds.tolist(), found.sums, array, strict=True):
        if KINDS[kind] != "real":
            assert np.array_equal(sums.numpy(), step.astype(np.int64).sum(axis=(0, 2)))


# What a value may be beside spikes, and where whole numbers end.
ODD = [2.0, 7.0, 255.0, LIMIT - 1.0, LIMIT, LIMIT + 1.0, 2.0**23, 2.0**24 + 2, 2.0**31, 2.0**32, 3e38, -0.0]
ODD += [-1.0, -2.0, -LIMIT, -(2.0**31), 0.5, 1.5, 1e-40, 0.99999994, LIMIT - 0.5, -0.25, math.nan, math.inf, -math.inf]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Spikes or small integers `[T, B, positions, C]`, among which there may be odd values."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 130)))
    high = draw(st.sampled_from([1, 2, 5, LIMIT]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = rng.integers(0, high, shape).astype(np.float32)
    for value in draw(st.lists(st.sampled_from(ODD), max_size=2)):
        array.flat[rng.integers(array.size)] = value
    return torch.from_numpy(array)


@each_way
@few
@given(x=tensors())
def test_sums_and_kinds(read: Read, x: Tensor) -> None:
    assert_read(read, x)


@each_way
@pytest.mark.parametrize("channels", [1, 3, 63, 64, 65, 130])
@pytest.mark.parametrize("value", ODD)
def test_one_odd_value_anywhere_decides_its_step(read: Read, channels: int, value: float) -> None:
    """Among spikes, or where nothing else is."""
    for place in ((0, 0, 0, 0), (1, 2, 1, channels - 1), (0, 1, 0, channels // 2)):
        for other in (0.0, 1.0):
            x = torch.full((3, 3, 2, channels), other)
            x[place] = value
            assert_read(read, x)


@each_way
@pytest.mark.parametrize("shape", [(1, 1, 2, 9001), (1, 8200, 2, 3)], ids=["channels", "images"])
def test_sums_of_many_large_integers_do_not_overflow(read: Read, shape: tuple[int, ...]) -> None:
    """The largest sums of spikes, so many that 32 bits would not hold them."""
    x = torch.full(shape, LIMIT - 1.0)
    assert shape[1] * shape[3] * (LIMIT - 1) > 2**32
    assert_read(read, x)


@each_way
def test_every_step_and_position_is_apart(read: Read) -> None:
    x = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)
    for image in range(3):
        for channel in range(5):
            alone = torch.zeros_like(x)
            alone[:, image, :, channel] = x[:, image, :, channel]
            assert torch.equal(read(alone).sums, x[:, image, :, channel].double())


@each_way
@few
@given(x=tensors(), order=st.permutations(range(4)))
def test_how_a_tensor_lies_in_memory_makes_no_difference(read: Read, x: Tensor, order: list[int]) -> None:
    inverse = [order.index(i) for i in range(4)]
    scattered = x.permute(order).contiguous().permute(inverse)
    assert scattered.shape == x.shape
    assert_read(read, scattered)
    assert_read(read, x.repeat_interleave(2, dim=3)[..., ::2])
    assert_read(read, x[:, :1].expand(-1, 3, -1, -1))


@few
@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3), st.integers(1, 70), st.integers(0, 99))
def test_a_reader_keeps_positions_or_not(steps: int, batch: int, inside: list[int], channels: int, seed: int) -> None:
    """`[T, B, ..., C]`: by all that stands between images and channels, or all in one."""
    x = torch.randint(0, 3, (steps, batch, *inside, channels), generator=torch.Generator().manual_seed(seed)).float()
    array = x.numpy().astype(np.int64)
    positions = array.reshape(steps, batch, -1, channels).sum(axis=(1, 3))
    if inside:
        assert np.array_equal(InputReader().by_position(x).sums.numpy(), positions)
    total = InputReader().total(x)
    assert np.array_equal(total.sums.numpy(), positions.sum(axis=1, keepdims=True))
    assert [KINDS[kind] for kind in total.kinds.tolist()] == ["integer" if step.max() > 1 else "binary" for step in array]


@needs_kernel
def test_heads_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed heads `[T, B, heads, N, head_dim]` of `[T, B, N, heads, head_dim]`: nothing is copied."""
    x = torch.randint(0, 2, (2, 3, 5, 4, 8)).float()
    seen: list[Tensor] = []
    monkeypatch.setattr(values, "_read", lambda given: seen.append(given) or _read(given))
    found = InputReader().total(x.transpose(2, 3))
    assert found.sums.flatten().tolist() == [step.sum().item() for step in x]
    assert [given.data_ptr() for given in seen] == [x.data_ptr()]
    assert seen[0].is_contiguous()


def test_values_add_up() -> None:
    """At each step the wider kind; each position's values times what it reaches."""
    one = Values(sums=torch.tensor([[1.0, 2.0], [0, 3]], dtype=torch.float64), kinds=torch.tensor([0, 1]))
    other = Values(sums=torch.tensor([[2.0**50, 5.0], [1, 1]], dtype=torch.float64), kinds=torch.tensor([1, 0]))
    reached = torch.tensor([2.0, 1.0], dtype=torch.float64)
    parts = [Operand.of(values, elements=9, fan_out=reached) for values in (one, other)]
    for first, second in (parts, parts[::-1]):
        summed = replace(first)
        summed.add(second)
        for total in (summed.total(), first.total() + second.total()):
            assert (total.sums, total.acs) == ((2**50 + 8, 5), (2**51 + 9, 6))
            assert [KINDS[kind] for kind in total.kinds] == ["integer", "integer"]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_spikes_of_any_type_are_spikes(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (2, 3, 4, 8), generator=torch.Generator().manual_seed(0))
    found = _read(x.to(dtype))
    assert [KINDS[kind] for kind in found.kinds.tolist()] == ["binary", "binary"]
    assert torch.equal(found.sums, x.sum(dim=(1, 3)).double())


# Read once


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is read, each time that it is."""
    seen: list[Tensor] = []

    def spy(x: Tensor) -> Values:
        seen.append(x)
        return _read(x)

    monkeypatch.setattr(values, "_read", spy)
    return seen


def test_a_tensor_is_read_once(reads: list[Tensor]) -> None:
    read, x = InputReader(), torch.ones(2, 3, 4, 5)
    first = read.by_position(x)
    assert read.by_position(x) is first
    assert len(reads) == 1


def test_a_tensor_that_changed_in_place_is_read_again(reads: list[Tensor]) -> None:
    read, x = InputReader(), torch.ones(2, 3, 4, 5)
    read.by_position(x)
    x[0] = 0
    assert read.by_position(x).sums.sum(dim=1).tolist() == [0, 3 * 4 * 5]
    x.view(-1).mul_(2)
    assert read.by_position(x).sums.sum(dim=1).tolist() == [0, 2 * 3 * 4 * 5]
    assert len(reads) == 3


def test_a_tensor_that_changed_in_place_is_read_again_in_inference_mode() -> None:
    """Where torch does not tell that it changed."""
    read = InputReader()
    with torch.inference_mode():
        x = torch.ones(2, 3, 4, 5)
        assert read.by_position(x).sums.sum() == x.numel()
        x[0] = 0
        assert read.by_position(x).sums.sum() == x.numel() / 2


def test_a_view_is_read_for_itself(reads: list[Tensor]) -> None:
    """Though it begins where the whole does, and changed as often."""
    read, x = InputReader(), torch.ones(2, 3, 4, 5)
    assert read.by_position(x).sums.sum() == 2 * 3 * 4 * 5
    assert read.by_position(x[..., :2]).sums.sum() == 2 * 3 * 4 * 2
    assert len(reads) == 2


def test_equal_tensors_are_read_each(reads: list[Tensor]) -> None:
    """Another one may take the memory of one that is gone."""
    read = InputReader()
    for value in (0.0, 1.0, 2.0):
        found = read.by_position(torch.full((1, 1, 4, 5), value))
        assert found.sums.tolist() == [[5 * value] * 4]
    assert len(reads) == 3


def test_the_whole_by_heads_is_not_read_again(reads: list[Tensor]) -> None:
    read, x = InputReader(), torch.randint(0, 3, (2, 3, 5, 8)).float()
    read.by_position(x)
    heads = x.unflatten(-1, (2, 4)).transpose(2, 3)
    found = read.total(heads)
    assert len(reads) == 1
    assert found.sums.tolist() == [[step.sum().item()] for step in x]
    assert found.kinds.tolist() == [int(step.max() > 1) for step in x]
    x[0, 0, 0, 0] += 1
    assert read.total(heads).sums.tolist() == [[step.sum().item()] for step in x]
    assert len(reads) == 2


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
def test_what_is_not_the_whole_is_read(part: Callable[[Tensor], Tensor]) -> None:
    read, x = InputReader(), torch.arange(3.0 * 3 * 5 * 8).view(3, 3, 5, 8).clone()
    read.by_position(x)
    assert read.total(part(x)).sums.tolist() == [[step.sum().item()] for step in part(x)]


class Named(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def test_q_k_and_v_share_what_they_read(reads: list[Tensor]) -> None:
    """Their input is read once. What attention and the projection read was counted by the neurons that fired it."""
    model = Named(Attention(8, Block(num_heads=2), scale=0.125, qkv_bias=False)).eval()
    x, counter = torch.randint(0, 2, (2, 3, 2, 2, 8)).float(), Counter()
    with torch.no_grad(), counter.watch(model, images=3, time_steps=2):
        model(x)
    assert len(reads) == 1 + 4 * (kernel() is None)
    q, k, v, *_ = counter.operations().counts
    assert q.acs == k.acs == v.acs == tuple(8 * step.sum().item() / 3 for step in x)
