"""The C sources: line lengths, and code that no instruction set of `AUTOSPIKE_ISA` compiles."""

from __future__ import annotations

import ctypes

import pytest
import torch

from autospike.kernels.attention import ShapeStruct
from autospike.kernels.build import COMMON, FLAGS, NEEDS, SOURCES, compiled, library, processor_features

LONGEST_LINE = 132  # as in Python (pyproject.toml)


def test_lines_are_as_short_as_in_python() -> None:
    for source in (*SOURCES.glob("*.c"), *SOURCES.glob("*.h")):
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= LONGEST_LINE, f"{source.name}:{number} has {len(line)} columns"


@pytest.mark.skipif(library("lif") is None, reason="no C compiler here")
@pytest.mark.skipif(not processor_features() >= NEEDS["avx512"], reason="the processor has no AVX-512")
@pytest.mark.parametrize("tokens", [31 * 32, 31 * 32 + 1, 70])
def test_attention_with_avx512_but_without_vpopcntdq(tokens: int) -> None:
    """As on Intel Skylake. Popcounts of bytes are added up for 31 words of 32 tokens at most: 32 would overflow."""
    path = compiled(SOURCES / "attention.c", (*COMMON, *FLAGS["avx512"], "-mno-avx512vpopcntdq"))
    attention = ctypes.CDLL(str(path)).attention
    attention.argtypes = (*(ctypes.c_void_p,) * 3, ctypes.POINTER(ShapeStruct), ctypes.c_void_p)
    q, k, v = torch.ones(1, tokens, 34), torch.ones(1, tokens, 34), torch.ones(1, tokens, 34)
    k[0, ::3, :20] = 0
    v[0, ::2, 10:] = 0
    out = torch.empty_like(q)
    assert attention(*(x.data_ptr() for x in (q, k, v)), ShapeStruct(1, tokens, 34, 1, 1, 0.125), out.data_ptr())
    assert torch.equal(out, q @ (k.mT @ v) * 0.125)
