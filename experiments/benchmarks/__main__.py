"""`make bench`, or `make bench ONLY=name`: a table, and `bench.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from energy import energy_overhead
from measuring import Result
from rich.console import Console
from rich.table import Table

from autospike import files

BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"energy_overhead": energy_overhead}


def main(only: str) -> None:
    if only and only not in BENCHMARKS:
        sys.exit(f"error: no benchmark {only!r}; choose from {', '.join(BENCHMARKS)}")
    results = [result for name, run in BENCHMARKS.items() if only in ("", name) for result in run()]
    drawn = Table("name", "value", "goal", "what", show_lines=True)
    for r in results:
        threads = "1 thread" if r.threads == 1 else f"{r.threads} threads"
        drawn.add_row(r.name, f"{r.value:.3f}", r.goal, f"{r.unit}, against {r.peer}, {threads}. {r.note}")
    Console().print(drawn)
    files.write_json(Path("bench.json"), [asdict(result) for result in results])


main(sys.argv[1] if len(sys.argv) > 1 else "")
