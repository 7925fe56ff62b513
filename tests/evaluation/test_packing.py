"""Packed residual streams."""

from __future__ import annotations

import math
import mmap

import pytest
import torch
from builders import few_examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autospike.evaluation.packing import Packed


def bit_identical(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def nbytes_of(packed: Packed) -> int:
    """Return the bytes of the values, without padding to a page."""
    return packed.data.tensor().nbytes


@pytest.mark.parametrize(("highest", "bits"), [(1, 1), (3, 2), (15, 4), (255, 8)])
@given(data=st.data())
@few_examples
def test_integers_are_restored_exactly(highest: int, bits: int, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    count = math.prod(shape)
    values = data.draw(st.lists(st.integers(0, highest), min_size=count, max_size=count))
    values[data.draw(st.integers(0, count - 1))] = highest
    x = torch.tensor(values, dtype=torch.float32).view(shape)
    packed = Packed.of(x)
    assert (packed.bits, nbytes_of(packed)) == (bits, math.ceil(count * bits / 8))
    assert bit_identical(packed.unpacked(), x)


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=40))
@few_examples
def test_any_float32_values_are_restored_exactly(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert bit_identical(Packed.of(x).unpacked(), x)


@pytest.mark.parametrize("other", [-0.0, math.nan, math.inf, -math.inf, -1.0, 0.5, 256.0, 1e-45, 3e9, 2.0**32])
def test_one_value_that_cannot_be_packed_keeps_the_tensor_unpacked(other: float) -> None:
    x = torch.tensor([0.0, 1.0, other, 1.0, 0.0])
    packed = Packed.of(x)
    assert (packed.bits, nbytes_of(packed)) == (None, 20)
    assert bit_identical(packed.unpacked(), x)


@pytest.mark.parametrize(
    ("highest", "count", "nbytes"),
    [(0, 8, 1), (1, 8, 1), (1, 9, 2), (2, 4, 1), (3, 5, 2), (4, 2, 1), (15, 3, 2), (16, 3, 3), (255, 7, 7), (256, 7, 28)],
)
def test_sizes_in_bytes(highest: int, count: int, nbytes: int) -> None:
    packed = Packed.of(torch.full((count,), float(highest)))
    assert (nbytes_of(packed), packed.nbytes) == (nbytes, mmap.PAGESIZE)


def test_a_view_is_restored_in_its_shape() -> None:
    x = torch.arange(6.0).view(1, 2, 3)
    for view in (x.expand(4, 2, 3), x.transpose(1, 2), (x / 7).expand(4, 2, 3)):
        assert bit_identical(Packed.of(view).unpacked(), view)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_not_packed(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0, 3.0], dtype=dtype)
    packed = Packed.of(x)
    assert packed.bits is None
    assert torch.equal(packed.unpacked(), x)
    assert packed.unpacked().dtype == dtype
