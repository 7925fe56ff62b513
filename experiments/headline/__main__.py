"""`python experiments/headline EXPERIMENT SEEDS [FOLDER]`: run an experiment with several seeds, and aggregate the comparisons.

The runs are FOLDER/seed-0, FOLDER/seed-1, ... (default: runs/headline/EXPERIMENT); they are resumed if they exist. Prints a table
with means and 95 % intervals over the seeds, and writes it to FOLDER/headline.csv.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd
from aggregate import over_seeds


def main(experiment: Path, seeds: int, folder: Path) -> None:
    """Run all seeds and print the table."""
    tables = []
    for seed in range(seeds):
        run = folder / f"seed-{seed}"
        command = [sys.executable, "-m", "autospike", "run", str(experiment), "--run", str(run), "--set", f"seed={seed}"]
        subprocess.run(command, check=True)
        tables.append(pd.read_csv(run / "report" / "comparison.csv"))
    found = over_seeds(tables)
    found.to_csv(folder / "headline.csv", index=False)
    print(f"{experiment}, {seeds} seeds: mean and 95 % interval over the seeds")
    for row in found.to_dict("records"):
        accuracy = f"{row['accuracy']:.4f} ({row['accuracy_low']:.4f} to {row['accuracy_high']:.4f})"
        energy = f"{row['energy_uj']:.3g} uJ ({row['energy_uj_low']:.3g} to {row['energy_uj_high']:.3g})"
        ratio = f"{row['front_ratio']:.2f} ({row['front_ratio_low']:.2f} to {row['front_ratio_high']:.2f})"
        equal = f"; front at equal accuracy {ratio} of it, reached by {row['reached']} of {row['seeds']}" if row["reached"] else ""
        print(f"  {row['network']}: {accuracy}, {energy}{equal}")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    main(path, int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else Path("runs") / "headline" / path.stem)
