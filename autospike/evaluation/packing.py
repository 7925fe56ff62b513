"""Streams in few bits: sums of spikes are small whole numbers."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from autospike.kernels.build import library
from autospike.memory.mmap_tensor import MmapTensor

SOURCE = "packing"


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A tensor, to the bit; of float32, whole numbers below 2, 4, 16 or 256 in as many bits as they need."""

    data: MmapTensor
    bits: int
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> Packed:
        values, functions = x.contiguous().view(-1), _functions(x)
        all_bits = functions.bits_set(values) if x.dtype == torch.float32 else -1
        if all_bits < 0:
            return cls(data=MmapTensor.of(x), bits=32, shape=x.shape)
        bits = next(bits for bits in (1, 2, 4, 8) if all_bits < 1 << bits)
        packed = torch.empty(math.ceil(len(values) * bits / 8), dtype=torch.uint8, device=x.device)
        functions.pack(values, bits, packed)
        return cls(data=MmapTensor.of(packed), bits=bits, shape=x.shape)

    def unpacked(self) -> Tensor:
        data = self.data.tensor()
        if self.bits == 32:
            return data
        values = torch.empty(math.prod(self.shape), device=data.device)
        _functions(values).unpack(data, self.bits, values)
        return values.view(self.shape)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


class Functions(Protocol):
    """What `packing.c` does; values are flat and of float32."""

    def bits_set(self, values: Tensor) -> int: ...

    def pack(self, values: Tensor, bits: int, packed: Tensor) -> None: ...

    def unpack(self, packed: Tensor, bits: int, values: Tensor) -> None: ...


def _functions(x: Tensor) -> Functions:
    compiled = _compiled() if x.device.type == "cpu" else None
    return compiled or Composed()


class Composed:
    """As tensor operations: on a GPU, or where there is no compiler."""

    def bits_set(self, values: Tensor) -> int:
        small = values.to(torch.uint8)
        if not torch.equal(small.float().view(torch.int32), values.view(torch.int32)):  # to the bit: a zero may be negative
            return -1
        return int(small.max())  # of as many bits as all of them together

    def pack(self, values: Tensor, bits: int, packed: Tensor) -> None:
        planes = torch.zeros(8 // bits, len(packed), dtype=torch.uint8, device=values.device)
        planes.view(-1)[: len(values)] = values.to(torch.uint8)
        for i, plane in enumerate(planes[1:], start=1):
            planes[0] |= plane << (bits * i)
        packed.copy_(planes[0])

    def unpack(self, packed: Tensor, bits: int, values: Tensor) -> None:
        for i, plane in enumerate(values.split(len(packed))):
            plane.copy_(((packed >> (bits * i)) & ((1 << bits) - 1))[: len(plane)])


class Compiled:
    """The functions of `packing.c`, on the CPU."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self.functions: Any = functions
        functions.bits_set.argtypes, functions.bits_set.restype = (pointer, count), count
        functions.pack.argtypes, functions.pack.restype = (pointer, count, count, pointer, count), None
        functions.unpack.argtypes, functions.unpack.restype = (pointer, count, count, pointer, count), None

    def bits_set(self, values: Tensor) -> int:
        found: int = self.functions.bits_set(values.data_ptr(), len(values))
        return found

    def pack(self, values: Tensor, bits: int, packed: Tensor) -> None:
        self.functions.pack(values.data_ptr(), len(values), bits, packed.data_ptr(), len(packed))

    def unpack(self, packed: Tensor, bits: int, values: Tensor) -> None:
        self.functions.unpack(packed.data_ptr(), len(packed), bits, values.data_ptr(), len(values))


@cache
def _compiled() -> Compiled | None:
    functions = library(SOURCE)
    return None if functions is None else Compiled(functions)
