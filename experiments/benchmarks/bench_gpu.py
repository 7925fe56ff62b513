"""`make bench-gpu`: checks of every family on the GPU against the CPU, and figures, in under 9 minutes; writes `bench-gpu.json`.

Exit code 0: all checks passed; 1: a check failed or did not run; 2: there is no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget import Budget
from rich.console import Console

from autospike import files
from autospike.process import prepare_process

if TYPE_CHECKING:
    from gpu_checks import Check
    from measuring import Result

SECONDS = 8 * 60  # of 9 minutes; the rest is for importing, and for a part that takes longer than expected
LONGEST = 60.0  # seconds that one part may need; no part begins later than that before the end


def main() -> None:
    """Run on the current CUDA device."""
    budget = Budget(SECONDS)
    import torch

    if not torch.cuda.is_available():
        print("error: bench-gpu: no CUDA device on this machine; nothing was checked", file=sys.stderr)
        sys.exit(2)
    from gpu import figures
    from gpu_checks import checks
    from machine import machine

    device = torch.device("cuda")
    torch.backends.cudnn.allow_tf32 = False  # as in a run
    torch.backends.cudnn.deterministic = True  # a resumed training is then bit-identical
    described = {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, **machine()}
    written = run(checks(device), figures(device), budget, Console())
    files.write_json(Path("bench-gpu.json"), {"machine": described, **written})
    sys.exit(0 if written["passed"] else 1)


def run(checks: Iterator[Check], figures: Sequence[Callable[[], list[Result]]], budget: Budget, console: Console) -> dict[str, Any]:
    """Run checks, then figures, as long as the budget allows, and print each result.

    Args:
        checks: The checks, which run when they are iterated over.
        figures: The measurements.
        budget: The time for all of them.
        console: Receives one line for each result.

    Returns:
        The results as plain values: `checks`, `results`, `skipped` (number of parts for which there was no time), `errors` of
        figures, `passed`, and `seconds`.
    """
    done, results, errors, skipped = [], [], [], 0
    while budget.allows(LONGEST):
        check = next(checks, None)
        if check is None:
            break
        done.append(asdict(check))
        outcome = "passed" if check.passed else "FAILED"
        value = "" if check.value is None else f"{check.value:.3g} (at most {check.bound:g}), "
        console.print(f"{outcome}  {check.name}: {value}{check.note}, {check.seconds:.1f} s", highlight=False)
    else:
        skipped += 1
    for figure in figures:
        if not budget.allows(LONGEST):
            skipped += 1
            continue
        try:
            found = figure()
        except Exception as error:  # whatever it is, the other figures are measured as well
            errors.append(f"{type(error).__name__}: {error}")
            console.print(f"FAILED  {errors[-1]}", highlight=False)
            continue
        for result in found:
            results.append(asdict(result))
            console.print(f"{result.name}: {result.value:.3f} {result.unit}. {result.note}", highlight=False)
    passed = bool(done) and all(check["passed"] for check in done) and not errors and not skipped
    return {
        "checks": done,
        "results": results,
        "errors": errors,
        "skipped": skipped,
        "passed": passed,
        "seconds": round(budget.spent(), 1),
    }


if __name__ == "__main__":
    prepare_process()
    main()
