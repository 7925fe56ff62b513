"""How much of the true Pareto front do the search algorithms find, and how fast?

    python experiments/enumeration RUN [--set space.GENE=[...]] [--seeds 20] [--population 24]

Every architecture of a small (narrowed) space is measured once (`measure`). The algorithms then search the table of results with
many seeds (`study`), which needs no forward pass.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from measure import enumerated
from study import GOAL, SHARES, compare, true_front

from autospike import files
from autospike.console import table
from autospike.run_directory import RunDirectory


def main() -> None:
    """Enumerate the space, search the table, and print the shares of the true hypervolume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--population", type=int, action="append", help="candidates of a generation; may be repeated")
    parser.add_argument("--box", choices=("whole", "front"), action="append", help="box of the hypervolume, both by default")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--measure-only", action="store_true")
    options = parser.parse_args()
    run = RunDirectory.resume(options.run, options.overrides)
    space, measured = enumerated(run, options.run / "enumeration.sqlite")
    if options.measure_only:
        return
    config = run.experiment.search
    front = true_front(measured, config)
    print(f"{len(measured):,} architectures, {len(front)} on the true front")
    populations = options.population or [config.population]
    boxes = options.box or ["whole", "front"]
    found = compare(space, measured, config, seeds=options.seeds, populations=populations, boxes=boxes)
    columns = ["", *(f"at {share:.0%}" for share in SHARES), *(f"p at {share:.0%}" for share in (GOAL, SHARES[-1]))]
    for box in boxes:
        rows = [
            [
                f"{r.algorithm}, population {r.population}",
                *(f"{r.mean(s):.4f} ± {r.error(s):.4f}" for s in SHARES),
                *(f"{r.p_values[s]:.2g}" for s in (GOAL, SHARES[-1])),
            ]
            for r in found
            if r.box == box
        ]
        table(
            f"{options.run}: share of the true hypervolume, box `{box}`",
            columns,
            rows,
            f"By the share of the {len(measured):,} architectures that was measured, by-products included. Mean ± standard error "
            f"over {options.seeds} seeds; p against random search by a one-sided Mann-Whitney U test.",
        )
    if options.out:
        files.write_json(options.out, [r.to_json() for r in found])


if __name__ == "__main__":
    main()
