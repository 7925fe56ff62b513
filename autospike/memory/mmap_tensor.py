"""Tensors in memory-mapped pages of their own, for values that outlive many allocations.

A small block that stays allocated in malloc's heap splits the free space that a large block leaves, so that the next large block
does not fit there. Such a block also exists behind each long-lived tensor, whatever its size: torch allocates its metadata in
malloc's heap.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MmapTensor:
    """A copy of a tensor. On the CPU it has its own pages, which are unmapped when the last reference to them is dropped.

    Attributes:
        storage: The pages; a tensor if the copy is on a GPU or empty.
        dtype: As of the original.
        shape: As of the original.
    """

    storage: Any
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> MmapTensor:
        """Copy a tensor.

        Args:
            x: Any tensor.

        Returns:
            The copy, on the same device.
        """
        if x.device.type != "cpu" or not x.numel():
            return cls(storage=x.clone(), dtype=x.dtype, shape=x.shape)
        pages = mmap.mmap(-1, x.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        copy = cls(storage=pages, dtype=x.dtype, shape=x.shape)
        copy.tensor().copy_(x)
        return copy

    def tensor(self) -> Tensor:
        """Return the copy as a tensor that shares its memory."""
        if isinstance(self.storage, Tensor):
            return self.storage
        return torch.frombuffer(self.storage, dtype=self.dtype, count=self.shape.numel()).view(self.shape)

    def array(self) -> NDArray[Any]:
        """Return the copy as a numpy array that shares its memory; from a GPU it is copied."""
        if isinstance(self.storage, Tensor):
            return self.storage.cpu().numpy()
        return np.frombuffer(self.storage, dtype=str(self.dtype).removeprefix("torch.")).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Allocated memory in bytes, a multiple of the page size on the CPU."""
        if isinstance(self.storage, Tensor):
            return self.storage.nbytes
        return -(-len(self.storage) // mmap.PAGESIZE) * mmap.PAGESIZE
