"""What is kept in memory, and streams in few bits."""

from __future__ import annotations

import math
import mmap

import pytest
import torch
from builders import few
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autospike.evaluation import packing
from autospike.evaluation.packing import Composed, Packed
from autospike.memory.cache import MB, ByteBudgetCache

# What happens to a store: "turn", a key that is asked for, or a key that is kept with a size.
events = st.lists(st.just("turn") | st.integers(0, 9) | st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60)


def holds(kept: ByteBudgetCache, *keys: str) -> list[bool]:
    """Which of the keys there are, without using them."""
    return [(key,) in kept._held for key in keys]


@few
@given(budget=st.integers(0, 100), happened=events)
def test_the_budget_is_never_exceeded_and_what_a_turn_used_stays(budget: int, happened: list) -> None:
    """`model`: everything that was kept or found in this turn, and has to be there."""
    kept, model = ByteBudgetCache(budget), {}
    for event in happened:
        if event == "turn":
            kept.turn()
            model.clear()
        elif isinstance(event, int):
            found = kept.get((event,))
            assert event not in model or found == model[event]
            if found is not None:
                model[event] = found
        else:
            key, nbytes = event
            kept.keep((key,), (key, nbytes), nbytes)
            model.pop(key, None)
            if kept.get((key,)) is not None:
                model[key] = (key, nbytes)
        assert kept.used_bytes == sum(nbytes for _, nbytes, _ in kept._held.values()) <= budget
        assert all((key,) in kept._held for key in model)


def test_what_was_not_used_for_longest_makes_room() -> None:
    kept = ByteBudgetCache(30)
    for name in "abc":
        kept.keep((name,), name, 10)
    kept.turn()
    assert kept.get(("a",)) == "a"
    kept.keep(("d",), "d", 10)
    assert holds(kept, *"abcd") == [True, False, True, True]
    kept.turn()
    kept.keep(("e",), "e", 20)
    assert holds(kept, *"abcde") == [False, False, False, True, True]


def test_what_the_turn_has_used_makes_no_room() -> None:
    kept = ByteBudgetCache(20)
    kept.keep(("a",), "a", 10)
    kept.turn()
    kept.get(("a",))
    kept.keep(("b",), "b", 15)
    assert kept.get(("a",)) == "a"
    assert kept.get(("b",)) is None
    assert kept.used_bytes == 10


def test_a_key_is_replaced() -> None:
    kept = ByteBudgetCache(10)
    kept.keep(("a",), "old", 8)
    kept.keep(("a",), "new", 6)
    assert (kept.get(("a",)), kept.used_bytes) == ("new", 6)


def test_a_value_that_does_not_fit_leaves_nothing_stale_under_its_key() -> None:
    kept = ByteBudgetCache(10)
    kept.keep(("a",), "old", 8)
    kept.keep(("a",), "new", 11)
    assert (kept.get(("a",)), kept.used_bytes) == (None, 0)


def test_what_never_fits_throws_nothing_away() -> None:
    kept = ByteBudgetCache(10)
    kept.keep(("a",), "a", 8)
    kept.turn()
    kept.keep(("b",), "b", 11)
    assert kept.get(("a",)) == "a"


def test_what_was_never_kept_is_none() -> None:
    assert ByteBudgetCache().get(("a", 1)) is None
    assert ByteBudgetCache().budget_bytes == 1024 * MB


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
    )


def nbytes_of(packed: Packed) -> int:
    """Without what its pages have to spare."""
    return packed.data.tensor().nbytes


@pytest.mark.parametrize(("highest", "bits"), [(1, 1), (3, 2), (15, 4), (255, 8)])
@given(data=st.data())
@few
def test_whole_numbers_come_back_to_the_bit(highest: int, bits: int, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    count = math.prod(shape)
    values = data.draw(st.lists(st.integers(0, highest), min_size=count, max_size=count))
    values[data.draw(st.integers(0, count - 1))] = highest
    x = torch.tensor(values, dtype=torch.float32).view(shape)
    packed = Packed.of(x)
    assert (packed.bits, nbytes_of(packed)) == (bits, math.ceil(count * bits / 8))
    assert same_bits(packed.unpacked(), x)


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=40))
@few
def test_any_numbers_come_back_to_the_bit(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert same_bits(Packed.of(x).unpacked(), x)


@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=300))
@few
def test_both_ways_pack_alike(values: list[int]) -> None:
    """What runs without a compiler, and what runs with one."""
    x, bits = torch.tensor(values, dtype=torch.float32), max(values).bit_length()
    compiled, composed = packing._functions(x), Composed()
    assert compiled.bits_set(x).bit_length() == composed.bits_set(x).bit_length() == bits
    for wide in (wide for wide in (1, 2, 4, 8) if bits <= wide):
        one, other = (torch.full((math.ceil(len(x) * wide / 8),), 255, dtype=torch.uint8) for _ in range(2))
        compiled.pack(x, wide, one)
        composed.pack(x, wide, other)
        assert torch.equal(one, other)
        for way in (compiled, composed):
            back = torch.empty_like(x)
            way.unpack(one, wide, back)
            assert same_bits(back, x)


@pytest.mark.parametrize("odd", [-0.0, math.nan, math.inf, -math.inf, -1.0, 0.5, 256.0, 1e-45, 3e9, 2.0**32])
def test_one_odd_number_makes_it_real(odd: float) -> None:
    x = torch.tensor([0.0, 1.0, odd, 1.0, 0.0])
    packed = Packed.of(x)
    assert (packed.bits, nbytes_of(packed)) == (32, 20)
    assert same_bits(packed.unpacked(), x)
    assert Composed().bits_set(x) == packing._functions(x).bits_set(x) == -1


@pytest.mark.parametrize(
    ("highest", "count", "nbytes"),
    [(0, 8, 1), (1, 8, 1), (1, 9, 2), (2, 4, 1), (3, 5, 2), (4, 2, 1), (15, 3, 2), (16, 3, 3), (255, 7, 7), (256, 7, 28)],
)
def test_sizes_in_bytes(highest: int, count: int, nbytes: int) -> None:
    packed = Packed.of(torch.full((count,), float(highest)))
    assert (nbytes_of(packed), packed.nbytes) == (nbytes, mmap.PAGESIZE)


def test_a_view_comes_back_in_its_shape() -> None:
    """Streams may be seen at every step, or transposed."""
    x = torch.arange(6.0).view(1, 2, 3)
    for view in (x.expand(4, 2, 3), x.transpose(1, 2), (x / 7).expand(4, 2, 3)):
        assert same_bits(Packed.of(view).unpacked(), view)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_of_another_type_is_held_as_it_is(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0, 3.0], dtype=dtype)
    packed = Packed.of(x)
    assert packed.bits == 32
    assert torch.equal(packed.unpacked(), x)
    assert packed.unpacked().dtype == dtype
