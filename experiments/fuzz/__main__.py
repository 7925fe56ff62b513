"""`make fuzz`: mutated inputs through the real command line. `make fuzz KIND=spaces SECONDS=600 SEED=7`.

One input is repeated by the line that is printed for it: `python experiments/fuzz --kind spaces --seed 7 --only 123`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has no threads of its parent

from kind import Command, Make
from runner import import_modules, make_input, run_command, violation
from valid import make_valid

from autospike.process import prepare_process

MEMORY = Path("/dev/shm")  # inputs are written and removed by the thousand


def kinds() -> dict[str, Make]:
    """Return the kinds of inputs by name."""
    from file_inputs import checkpoint, image_folder, run_folder
    from written_inputs import architecture, experiment, space

    return {
        "experiments": experiment,
        "spaces": space,
        "architectures": architecture,
        "images": image_folder,
        "checkpoints": checkpoint,
        "runs": run_folder,
    }


def main() -> None:
    """Fuzz until the time or the number of inputs is reached.

    Raises:
        SystemExit: With code 1 if an input broke the law.
    """
    options = _options()
    prepare_process()
    _preload()
    failed = 0
    in_memory = MEMORY if MEMORY.is_dir() and not options.keep else None
    with tempfile.TemporaryDirectory(prefix="autospike-fuzz-", dir=in_memory) as name:
        work = Path(name)
        base = work / "valid"
        base.mkdir()
        make_valid(base, partial(_run_valid, base))
        chosen = {kind: make for kind, make in kinds().items() if options.kind in ("", kind)}
        for kind, make in chosen.items():
            failed += _fuzz(kind, make, options, base, work, seconds=options.seconds / len(chosen))
        if options.keep:
            shutil.copytree(work, options.keep, symlinks=True, dirs_exist_ok=True)
    sys.exit(1 if failed else 0)


def _run_valid(base: Path, *arguments: str) -> str:
    """Run a valid command, and load what it imported, so that no later command has to."""
    modules = base.with_suffix(".modules")
    outcome = run_command(Command(arguments=arguments), base, modules=modules)
    import_modules(modules)
    return f"exit code {outcome.code}: {outcome.errors}" if outcome.code else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the command line.")
    parser.add_argument("--kind", default="", choices=["", *kinds()], help="only this kind")
    parser.add_argument("--seconds", type=float, default=600, help="time for all kinds together")
    parser.add_argument("--count", type=int, default=10_000, help="largest number of inputs of a kind")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="run this input alone, and print what it writes")
    parser.add_argument("--keep", type=Path, help="copy the folders of the inputs here")
    return parser.parse_args()


def _preload() -> None:
    """Import what commands import, so that a fork does not."""
    import torch

    from autospike import cli
    from autospike.commands import describe, energy, export, import_checkpoint, plot, retrain, search, train

    del cli, describe, energy, export, import_checkpoint, plot, retrain, search, train
    torch.set_num_threads(1)


def _fuzz(kind: str, make: Make, options: argparse.Namespace, base: Path, work: Path, *, seconds: float) -> int:
    """Run inputs of one kind, print those that break the law, and return their number."""
    started, codes, failed, slowest = time.monotonic(), Counter[int](), 0, (0.0, -1)
    indices = range(options.first, options.count) if options.only is None else [options.only]
    for index in indices:
        if time.monotonic() - started > seconds:
            break
        folder = work / kind / (str(index) if options.keep else "input")
        command = make_input(kind, make, seed=options.seed, index=index, base=base, folder=folder)
        outcome = run_command(command, folder)
        codes[outcome.code] += 1
        slowest = max(slowest, (outcome.seconds, index))
        if codes.total() % 500 == 0:
            print(f"{kind}: seed {options.seed}: {codes.total()} inputs after {time.monotonic() - started:.0f} s", flush=True)
        broken = violation(command, outcome)
        if broken:
            failed += 1
            print(f"python experiments/fuzz --kind {kind} --seed {options.seed} --only {index}: {broken}")
            print(f"    autospike {' '.join(command.arguments):.200}")
            print(f"    {(outcome.errors.strip().splitlines() or [''])[-1]:.300}", flush=True)
        if options.only is not None:
            print(f"autospike {' '.join(command.arguments)}\nexit code {outcome.code}\n{outcome.errors}")
            print(folder.with_suffix(".output").read_text())
    summary = ", ".join(f"{count} x exit {code}" for code, count in sorted(codes.items()))
    print(f"{kind}: seed {options.seed}: {codes.total()} inputs ({summary}), {failed} broke the law; ", end="")
    print(f"slowest {slowest[0]:.1f} s (input {slowest[1]})", flush=True)
    return failed


if __name__ == "__main__":
    main()
