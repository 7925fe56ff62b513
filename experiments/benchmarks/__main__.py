"""`make bench`, or `make bench ONLY=name`: prints the machine and a table of results, and writes both to `bench.json`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from autospike import files
from autospike.process import prepare_process

if TYPE_CHECKING:
    from measuring import Result


# Only run if it is asked for, because it trains 45 supernets.
TIME_TO_QUALITY = ("time_to_quality", "time_to_quality_mean", "time_to_quality_worst", "time_to_quality_largest")


def benchmarks() -> dict[tuple[str, ...], Callable[[], list[Result]]]:
    """Every benchmark by the names of its results. Imports torch, which reads its settings from the environment at that time."""
    from archive import archive
    from energy import energy_overhead
    from event_input import event_reader, input_pipeline
    from generation import generation
    from gpu import gpu
    from kernels import kernels
    from scaling import cost_per_candidate, evaluation_memory, two_workers
    from sparse import sparse
    from steps import steps
    from training_time import time_to_quality

    return {
        ("lif_forward", "lif_forward_backward", "bn_lif_eval", "bn_lif_train", "lif_integers_forward_backward"): kernels,
        ("sparse_forward", "sparse_forward_backward"): sparse,
        ("step_train_128", "step_eval_128", "step_train_384", "step_eval_384", "step_of_peak"): steps,
        (
            *("gpu_step_cifar", "gpu_step_cifar_memory", "gpu_evaluation", "gpu_evaluation_memory"),
            *("gpu_lif_forward_backward", "gpu_step_imagenet", "gpu_step_imagenet_memory"),
        ): gpu,
        ("energy_overhead",): energy_overhead,
        ("generation_vs_own", "generation_vs_spikingjelly", "measured_vs_own", "measured_vs_spikingjelly"): generation,
        ("two_workers",): two_workers,
        ("cost_per_candidate",): cost_per_candidate,
        ("evaluation_memory",): evaluation_memory,
        ("archive_plot", "archive_resume"): archive,
        TIME_TO_QUALITY: time_to_quality,
        ("event_reader",): event_reader,
        (
            *("input_images", "input_metadata", "input_parquet", "input_tars", "input_recordings", "input_cached_frames"),
            *("input_ade20k", "input_coco"),
            *("input_digits", "input_glyphs", "input_motion", "input_scenes", "input_scene_objects"),
        ): input_pipeline,
    }


def _chosen(group: tuple[str, ...], only: str) -> bool:
    return only in group if only else group != TIME_TO_QUALITY


def main(only: str) -> None:
    """Run all benchmarks, or the group that gives the result `only`.

    Raises:
        SystemExit: No benchmark gives that result.
    """
    prepare_process()
    from machine import machine

    available, console = benchmarks(), Console()
    names = [name for group in available for name in group]
    if only and only not in names:
        sys.exit(f"error: no benchmark {only!r}; choose from {', '.join(names)}")
    described = machine()
    for name, value in described.items():
        console.print(f"{name}: {value}", highlight=False)
    if os.environ.get("AUTOSPIKE_ISA") == "avx2":
        console.print(
            "AUTOSPIKE_ISA=avx2: torch, oneDNN and MKL are limited to AVX2 as well, so the peers run as on such a processor"
        )
    results = [result for group, run in available.items() if _chosen(group, only) for result in run()]
    table = Table("name", "value", "goal", "what", show_lines=True)
    for r in results:
        threads = "1 thread" if r.threads == 1 else f"{r.threads} threads"
        table.add_row(r.name, f"{r.value:.3f}", r.goal, f"{r.unit}, against {r.peer}, {threads}. {r.note}")
    console.print(table)
    files.write_json(Path("bench.json"), {"machine": described, "results": [asdict(result) for result in results]})


if __name__ == "__main__":  # worker processes import this module as well
    main(sys.argv[1] if len(sys.argv) > 1 else "")
