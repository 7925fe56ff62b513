"""Packing of small whole numbers, with kernels and with tensor operations."""

from __future__ import annotations

import math

import pytest
import torch
from builders import few_examples
from hypothesis import given
from hypothesis import strategies as st

from autospike.kernels.build import usable_instruction_sets, use_kernels
from autospike.kernels.packing import WIDTHS, bits_needed, pack, unpack

IMPLEMENTATIONS = [*usable_instruction_sets(), "off"]


@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=300))
@few_examples
def test_all_implementations_pack_alike(values: list[int]) -> None:
    """Byte i holds values i, len + i, 2 len + i, ..., the first one in its lowest bits."""
    x, bits = torch.tensor(values, dtype=torch.float32), max(1, max(values).bit_length())
    for width in (width for width in WIDTHS if bits <= width):
        length = math.ceil(len(values) * width / 8)
        expected = [sum(value << (i * width) for i, value in enumerate(values[byte::length])) for byte in range(length)]
        for name in IMPLEMENTATIONS:
            with use_kernels(name):
                assert bits_needed(x) == next(width for width in WIDTHS if bits <= width)
                packed = pack(x, width)
                assert (packed.dtype, packed.tolist()) == (torch.uint8, expected)
                assert torch.equal(unpack(packed, width, x.shape), x)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("other", [-0.0, math.nan, math.inf, -math.inf, -1.0, 0.5, 256.0, 1e-45, 3e9, 2.0**32])
def test_other_numbers_cannot_be_packed(other: float, name: str) -> None:
    with use_kernels(name):
        assert bits_needed(torch.tensor([0.0, 1.0, other, 1.0, 0.0])) is None


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_other_types_cannot_be_packed_and_an_empty_tensor_needs_one_bit(name: str) -> None:
    with use_kernels(name):
        assert bits_needed(torch.ones(3, dtype=torch.float64)) is None
        assert bits_needed(torch.zeros(0)) == 1
        assert unpack(pack(torch.zeros(2, 0), 1), 1, torch.Size((2, 0))).shape == (2, 0)


def test_a_view_is_packed_in_its_order() -> None:
    x = torch.arange(6.0).view(2, 3).t()
    for name in IMPLEMENTATIONS:
        with use_kernels(name):
            assert torch.equal(unpack(pack(x, 4), 4, x.shape), x)
