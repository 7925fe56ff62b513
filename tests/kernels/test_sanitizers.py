"""Kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SANITIZERS = "-g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
TESTS = Path(__file__).parent
# Tests that run every C function, with odd sizes.
CORE = (
    "test_operators.py::test_eager_calls_and_the_dispatcher_compute_the_same",
    "test_operators.py::test_operators_read_strided_tensors",
    "test_operators.py::test_memory_that_cannot_be_allocated_is_an_error",
    "test_instruction_sets.py",
    "test_packing_operator.py",
    "test_linear_lif.py",
    "test_attention_operator.py",
    "test_max_pool.py",
    "test_sparse_conv.py::test_sums_of_integers_are_exact",
    "test_sparse_conv.py::test_no_memory_outside_the_output_is_written",
)


def runtime_libraries() -> list[str]:
    """Return the runtimes of AddressSanitizer and of C++, which must be loaded before other libraries."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        return []
    names = ("libasan.so", "libstdc++.so")
    asked = [subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True) for name in names]
    paths = [done.stdout.strip() for done in asked]
    return paths if all(Path(path).is_absolute() for path in paths) else []


@pytest.mark.slow
def test_kernels_access_no_foreign_memory_and_have_defined_behaviour(tmp_path: Path) -> None:
    """The selected tests run once for every instruction set."""
    runtime = runtime_libraries()
    if not runtime:
        pytest.skip("gcc has no AddressSanitizer here")
    environment = {
        "CC": f"gcc {SANITIZERS}",
        "XDG_CACHE_HOME": str(tmp_path),
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python keeps memory until it exits
        "OMP_NUM_THREADS": "2",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *CORE]
    done = subprocess.run(command, cwd=TESTS, env=os.environ | environment, capture_output=True, text=True, timeout=3600)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert list(tmp_path.glob("autospike/lif-*.so"))
    assert "ERROR: AddressSanitizer" not in output
    assert "runtime error" not in output
