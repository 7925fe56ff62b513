"""Memory-mapped tensors."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from populations import make_evaluator, sample
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from autospike.evaluation.trie_evaluator import CalibratedStatistics, NodeResult
from autospike.memory.mmap_tensor import MmapTensor
from autospike.process import prepare_process


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4, 5), (2, 0), (0,)])
def test_a_copy_is_equal(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.arange(60).flip(0)[: torch.Size(shape).numel()].to(dtype).view(shape)
    copy = MmapTensor.of(x)
    assert copy.tensor().dtype == dtype
    assert torch.equal(copy.tensor(), x)
    assert torch.equal(torch.tensor(copy.array()), x)


def test_a_copy_is_independent_of_its_source() -> None:
    x = torch.ones(3)
    copy = MmapTensor.of(x)
    x += 1
    assert copy.tensor().tolist() == [1, 1, 1]


def test_views_are_copied_with_their_shape() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert MmapTensor.of(x.T).tensor().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert MmapTensor.of(x[:1].expand(2, 3)).array().tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(("nbytes", "pages"), [(0, 0), (1, 1), (mmap.PAGESIZE, 1), (mmap.PAGESIZE + 1, 2)])
def test_memory_is_rounded_up_to_whole_pages(nbytes: int, pages: int) -> None:
    assert MmapTensor.of(torch.zeros(nbytes, dtype=torch.uint8)).nbytes == pages * mmap.PAGESIZE


def test_pages_are_freed_with_the_last_reference() -> None:
    copy = MmapTensor.of(torch.ones(3))
    pages, tensor, array = weakref.ref(copy.storage), copy.tensor(), copy.array()
    del copy
    assert tensor.tolist() == array.tolist() == [1, 1, 1]
    del tensor
    assert pages() is not None
    del array
    assert pages() is None


class MallInfo2(ctypes.Structure):
    """The struct mallinfo2 of glibc."""

    _fields_ = (("before", ctypes.c_size_t * 7), ("used", ctypes.c_size_t), ("after", ctypes.c_size_t * 2))


def bytes_used_by_malloc() -> int:
    """Return the bytes in use in the heap of malloc."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("only glibc tells")
    mallinfo.restype = MallInfo2
    return int(mallinfo().used)


def test_mapped_tensors_use_no_memory_of_malloc() -> None:
    """500 tensors of 4 KB would need 2 MB of malloc; torch needs about 300 bytes for the metadata of each."""
    x = torch.ones(1000)
    held: list[MmapTensor | Tensor | None] = [MmapTensor.of(x), *[None] * 500]
    before = bytes_used_by_malloc()
    for i in range(500):
        held[i] = MmapTensor.of(x)
    assert bytes_used_by_malloc() - before < 500 * 50
    for i in range(500):
        held[i] = x.clone()
    assert bytes_used_by_malloc() - before > 500 * 4200


def test_no_tensor_of_a_pass_stays_allocated() -> None:
    """Neither in the cache nor in the results; buffers are overwritten instead of allocated again."""
    evaluator = make_evaluator("sew")
    population = tuple(sample(evaluator.supernet.space, 3))
    statistics, calibrated = with_buffers(lambda: evaluator.calibrate(population, (0, 10)))
    cached = list(evaluator.cache.values())
    assert cached
    assert all(not isinstance(getattr(value, "data", value), Tensor) for value in cached)
    assert {type(owner(array)) for array in statistics.values()} == {mmap.mmap}
    found, scored = with_buffers(lambda: evaluator.score(population, CalibratedStatistics.over([statistics]), (0, 9)))
    assert calibrated
    assert calibrated <= scored
    assert all(isinstance(result, NodeResult) for result in found.values())


def owner(array: Any) -> Any:
    """Return the object that owns the memory of an array."""
    while not isinstance(array, mmap.mmap | Tensor | None):
        array = array.obj if isinstance(array, memoryview) else array.base
    return array


def with_buffers(work: Callable[[], Any]) -> tuple[Any, set[int]]:
    """Return the result of a function, and the addresses of the buffers of all modules that it calls."""
    addresses: set[int] = set()
    handle = register_module_forward_hook(lambda module, _args, _out: addresses.update(b.data_ptr() for b in module.buffers()))
    try:
        return work(), addresses
    finally:
        handle.remove()


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_glibc_tunables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for user_tunables, left in (
        ("", ""),
        ("glibc.malloc.mmap_max=1", "glibc.malloc.mmap_max=1"),
        (None, "glibc.malloc.tcache_count=0"),
    ):
        monkeypatch.setenv("GLIBC_TUNABLES", user_tunables or "")
        if user_tunables is None:
            monkeypatch.delenv("GLIBC_TUNABLES")
        prepare_process()
        assert os.environ["GLIBC_TUNABLES"] == left
