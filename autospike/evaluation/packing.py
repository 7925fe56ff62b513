"""Tensors in few bits: a residual stream of spikes holds small whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autospike.kernels.packing import bits_needed, pack, unpack
from autospike.memory.mmap_tensor import MmapTensor


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A tensor, stored without loss. Float32 tensors of whole numbers from 0 to 255 take 1, 2, 4 or 8 bits a value.

    Attributes:
        data: the packed values, or the tensor itself.
        bits: bits of a value; None if the tensor is not packed.
        shape: shape of the tensor.
    """

    data: MmapTensor
    bits: int | None
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> Packed:
        """Pack a tensor.

        Args:
            x: The tensor.

        Returns:
            The packed tensor, or the tensor itself if it cannot be packed.
        """
        bits = bits_needed(x)
        return cls(data=MmapTensor.of(x if bits is None else pack(x, bits)), bits=bits, shape=x.shape)

    def unpacked(self) -> Tensor:
        """Return the tensor, with the values that were packed."""
        data = self.data.tensor()
        return data if self.bits is None else unpack(data, self.bits, self.shape)

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return self.data.nbytes
