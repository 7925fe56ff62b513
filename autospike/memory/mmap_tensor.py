"""Tensors that live long, apart from those that come and go.

malloc puts what it is asked for wherever there is room. A little thing that stays splits the space that a large one leaves and will
want again; and behind a tensor of any size stands one, for torch describes it in malloc's memory, too.
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
    """A copy of a tensor, on the CPU in pages of its own, which go back to the system as soon as nobody holds it."""

    held: Any  # the pages; what is on a GPU, or empty, is held as it is
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> MmapTensor:
        if x.device.type != "cpu" or not x.numel():
            return cls(held=x.clone(), dtype=x.dtype, shape=x.shape)
        pages = mmap.mmap(-1, x.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        copy = cls(held=pages, dtype=x.dtype, shape=x.shape)
        copy.tensor().copy_(x)
        return copy

    def tensor(self) -> Tensor:
        """The copy itself, as torch sees it."""
        if isinstance(self.held, Tensor):
            return self.held
        return torch.frombuffer(self.held, dtype=self.dtype, count=self.shape.numel()).view(self.shape)

    def array(self) -> NDArray[Any]:
        """As numpy sees it; from a GPU it is copied."""
        if isinstance(self.held, Tensor):
            return self.held.cpu().numpy()
        return np.frombuffer(self.held, dtype=str(self.dtype).removeprefix("torch.")).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Of memory: whole pages."""
        if isinstance(self.held, Tensor):
            return self.held.nbytes
        return -(-len(self.held) // mmap.PAGESIZE) * mmap.PAGESIZE
