"""CUDA tensors on a machine without a GPU. They have shapes, types and devices, but no values.

An operation whose tensors are on different devices raises, as on a GPU. Code that reads a value (`item`, `tolist`, `torch.equal`,
`numpy`) reads 1 or True. Backward passes do not run on such tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from autospike import supernet
from autospike.counting import fan_out

CUDA = torch.device("cuda", 0)
# Caches of functions whose results have tensors. They are fake in the block, and real outside of it.
CACHED = [value for module in (supernet, fan_out) for value in vars(module).values() if hasattr(value, "cache_clear")]
M = TypeVar("M", bound=nn.Module)


class FakeDevices(FakeTensorMode):
    """A mode in which every new tensor is a fake one, and a value that is read is 1."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return super().dispatch(func, types, args, kwargs)
        except DataDependentOutputException:
            return 1


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Allow fake CUDA tensors inside the block."""
    stand_ins: dict[str, Any] = {"numpy": _ones, "untyped_storage": _storage, "data_ptr": lambda x: _storage(x).data_ptr()}
    address = patch.object(torch.UntypedStorage, "data_ptr", lambda storage: storage._cdata)
    for function in CACHED:
        function.cache_clear()
    try:
        with FakeDevices(), patch.multiple(FakeTensor, **stand_ins), address:
            yield
    finally:
        for function in CACHED:
            function.cache_clear()


def on_cuda(module: M) -> M:
    """Replace the parameters and buffers of a module by fake ones on CUDA. To be called in `fake_cuda`."""
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            inner.register_parameter(name, nn.Parameter(torch.empty(parameter.shape, device=CUDA)))
        for name, buffer in inner.named_buffers(recurse=False):
            inner.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA))
    return module


def _ones(tensor: Tensor, *, force: bool = False) -> Any:
    """Stand in for `Tensor.numpy`, which works on the CPU only."""
    assert force or tensor.device.type == "cpu"
    return np.ones(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    """Stand in for `Tensor.untyped_storage`, which asks the running modes for the device of the tensor."""
    with _disable_current_modes():
        return Tensor.untyped_storage(tensor)
