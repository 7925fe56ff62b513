"""Streams in few bits: sums of spikes are small whole numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autospike.data.apart import Apart


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A tensor of float32, to the bit; whole numbers below 2, 4, 16 or 256 in as many bits as they need."""

    data: Apart
    bits: int
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> Packed:
        small = x.to(torch.uint8)
        if not torch.equal(small.float().view(torch.int32), x.view(torch.int32)):  # to the bit: there is a zero that is negative
            return cls(data=Apart.of(x), bits=32, shape=x.shape)
        bits = next(bits for bits in (1, 2, 4, 8) if int(small.max()) < 1 << bits)
        planes = torch.zeros(8 // bits, math.ceil(x.numel() * bits / 8), dtype=torch.uint8, device=x.device)
        planes.view(-1)[: x.numel()] = small.flatten()
        for i, plane in enumerate(planes[1:], start=1):
            planes[0] |= plane << (bits * i)
        return cls(data=Apart.of(planes[0]), bits=bits, shape=x.shape)

    def unpacked(self) -> Tensor:
        data = self.data.tensor()
        if self.bits == 32:
            return data
        planes = torch.empty(8 // self.bits, len(data), dtype=torch.float32, device=data.device)
        for i, plane in enumerate(planes):
            plane.copy_((data >> (self.bits * i)) & ((1 << self.bits) - 1))
        return planes.view(-1)[: math.prod(self.shape)].view(self.shape)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes
