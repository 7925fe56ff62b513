"""Small whole numbers in 1, 2, 4 or 8 bits each: `packing.c` has the layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autospike.kernels.operator import INT64, POINTER, Library, Operator

WIDTHS = (1, 2, 4, 8)  # bits of a packed value
LIBRARY = Library(
    "packing",
    {
        "bits_set": (POINTER, INT64),
        "pack": (POINTER, INT64, INT64, POINTER, INT64),
        "unpack": (POINTER, INT64, INT64, POINTER, INT64),
    },
    returns={"bits_set": INT64, "pack": None, "unpack": None},
)


def bits_needed(x: Tensor) -> int | None:
    """Return how many bits the values of a tensor need.

    Args:
        x: Any tensor.

    Returns:
        The smallest of `WIDTHS` that holds every value; None if x is not of float32, or if a value is not a whole number from 0 to
        255, or is a negative zero.
    """
    if x.dtype != torch.float32:
        return None
    found = int(_bits_set(x.contiguous()) if LIBRARY.supports(x) else _bits_set_composite(x))
    return None if found < 0 else next(bits for bits in WIDTHS if found < 1 << bits)


def pack(x: Tensor, bits: int) -> Tensor:
    """Pack values of few bits.

    Args:
        x: Values that `bits_needed` allows.
        bits: Bits of a packed value: 1, 2, 4 or 8.

    Returns:
        `[ceil(numel * bits / 8)]` uint8.
    """
    return _pack(x.contiguous(), bits) if LIBRARY.supports(x) else _pack_composite(x, bits)


def unpack(packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    """Return the float32 values `shape` of a packed tensor.

    Args:
        packed: As `pack` returns it.
        bits: Bits of a packed value.
        shape: Shape of the result.
    """
    on_cpu = packed.device.type == "cpu" and LIBRARY.supports()
    return (_unpack(packed, bits, shape.numel()) if on_cpu else _unpack_composite(packed, bits, shape.numel())).view(shape)


def _bits_set_composite(x: Tensor) -> Tensor:
    small = x.to(torch.uint8)
    same = torch.equal(small.float().view(torch.int32), x.contiguous().view(torch.int32))  # bit by bit: a zero may be negative
    return small.max() if same and x.numel() else torch.tensor(0 if same else -1)  # the maximum needs as many bits as all values


def _pack_composite(x: Tensor, bits: int) -> Tensor:
    packed = _pack_fake(x, bits)
    planes = torch.zeros(8 // bits, len(packed), dtype=torch.uint8, device=x.device)
    planes.view(-1)[: x.numel()] = x.reshape(-1).to(torch.uint8)
    for i, plane in enumerate(planes):
        packed = plane if i == 0 else packed | plane << (bits * i)
    return packed


def _unpack_composite(packed: Tensor, bits: int, numel: int) -> Tensor:
    planes = [(packed >> (bits * i)) & ((1 << bits) - 1) for i in range(8 // bits)]
    return torch.cat(planes)[:numel].float()


def _bits_set_cpu(x: Tensor) -> Tensor:
    x = x.contiguous()
    return torch.tensor(LIBRARY.functions.bits_set(x.data_ptr(), x.numel()))


def _bits_set_fake(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.int64)


_bits_set = Operator("bits_set(Tensor x) -> Tensor", _bits_set_cpu, _bits_set_fake)


def _pack_cpu(x: Tensor, bits: int) -> Tensor:
    x, packed = x.contiguous(), _pack_fake(x, bits)
    LIBRARY.functions.pack(x.data_ptr(), x.numel(), bits, packed.data_ptr(), len(packed))
    return packed


def _pack_fake(x: Tensor, bits: int) -> Tensor:
    return x.new_empty(math.ceil(x.numel() * bits / 8), dtype=torch.uint8)


_pack = Operator("pack(Tensor x, int bits) -> Tensor", _pack_cpu, _pack_fake)


def _unpack_cpu(packed: Tensor, bits: int, numel: int) -> Tensor:
    packed, x = packed.contiguous(), _unpack_fake(packed, bits, numel)
    LIBRARY.functions.unpack(packed.data_ptr(), len(packed), bits, x.data_ptr(), numel)
    return x


def _unpack_fake(packed: Tensor, _bits: int, numel: int) -> Tensor:
    return packed.new_empty(numel, dtype=torch.float32)


_unpack = Operator("unpack(Tensor packed, int bits, int numel) -> Tensor", _unpack_cpu, _unpack_fake)
