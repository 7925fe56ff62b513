"""`make bench`, or `make bench ONLY=name`: a table, and `bench.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from energy import energy_overhead
from generation import generation
from gpu import gpu
from kernels import kernels
from measuring import Result
from rich.console import Console
from rich.table import Table
from scaling import cost_per_candidate, evaluation_memory, two_workers
from sparse import sparse
from steps import steps

from autospike import files
from autospike.process import prepare_process

# By the names of what they find.
BENCHMARKS: dict[tuple[str, ...], Callable[[], list[Result]]] = {
    ("lif_forward", "lif_forward_backward", "bn_lif_eval", "bn_lif_train"): kernels,
    ("sparse_forward", "sparse_forward_backward"): sparse,
    ("step_train_128", "step_eval_128", "step_train_384", "step_eval_384", "step_of_peak"): steps,
    ("gpu_lif_forward_backward", "gpu_step_cifar", "gpu_step_imagenet"): gpu,
    ("energy_overhead",): energy_overhead,
    ("generation_vs_own", "generation_vs_spikingjelly", "measured_vs_own", "measured_vs_spikingjelly"): generation,
    ("two_workers",): two_workers,
    ("cost_per_candidate",): cost_per_candidate,
    ("evaluation_memory",): evaluation_memory,
}


def main(only: str) -> None:
    names = [name for group in BENCHMARKS for name in group]
    if only and only not in names:
        sys.exit(f"error: no benchmark {only!r}; choose from {', '.join(names)}")
    prepare_process()
    results = [result for group, run in BENCHMARKS.items() if not only or only in group for result in run()]
    drawn = Table("name", "value", "goal", "what", show_lines=True)
    for r in results:
        threads = "1 thread" if r.threads == 1 else f"{r.threads} threads"
        drawn.add_row(r.name, f"{r.value:.3f}", r.goal, f"{r.unit}, against {r.peer}, {threads}. {r.note}")
    Console().print(drawn)
    files.write_json(Path("bench.json"), [asdict(result) for result in results])


if __name__ == "__main__":  # workers import this module as well
    main(sys.argv[1] if len(sys.argv) > 1 else "")
