"""Streams in few bits: sums of spikes are small whole numbers."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A tensor of float32, to the bit; whole numbers below 2, 4, 16 or 256 in as many bits as they need."""

    data: Tensor
    bits: int
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> Packed:
        small = x.to(torch.uint8)
        if not torch.equal(small.to(x.dtype), x) or torch.signbit(x).any():
            return cls(data=apart(x), bits=32, shape=x.shape)
        bits = next(bits for bits in (1, 2, 4, 8) if int(small.max()) < 1 << bits)
        planes = torch.zeros(8 // bits, math.ceil(x.numel() * bits / 8), dtype=torch.uint8, device=x.device)
        planes.view(-1)[: x.numel()] = small.flatten()
        data = apart(planes[0])
        for i, plane in enumerate(planes[1:], start=1):
            data |= plane << (bits * i)
        return cls(data=data, bits=bits, shape=x.shape)

    def unpacked(self) -> Tensor:
        if self.bits == 32:
            return self.data
        planes = torch.empty(8 // self.bits, len(self.data), dtype=torch.float32, device=self.data.device)
        for i, plane in enumerate(planes):
            plane.copy_((self.data >> (self.bits * i)) & ((1 << self.bits) - 1))
        return planes.view(-1)[: math.prod(self.shape)].view(self.shape)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


def apart(x: Tensor) -> Tensor:
    """A copy, on the CPU in pages of its own: what lives long may not stand in the way of the large blocks that come and go with
    every layer."""
    if x.device.type != "cpu" or not x.numel():
        return x.clone()
    copy = torch.frombuffer(mmap.mmap(-1, x.nbytes), dtype=x.dtype, count=x.numel()).view(x.shape)
    return copy.copy_(x)
