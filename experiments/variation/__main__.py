"""`python experiments/variation RUN [SEEDS]`: compare the ways of variation of NSGA-II by front and cost on a run's supernet.

Train RUN first: `autospike train experiments/variation/spikformer.yaml --run RUN`. Each seed searches once in each way; a
candidate that another search has measured is not measured again. Writes RUN/variation.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from rich.console import Console

from autospike import files
from autospike.config import SearchConfig
from autospike.evaluation.population import PopulationEvaluator
from autospike.evaluation.setup import open_for_measurement, population_evaluator, trie_evaluator
from autospike.evaluation.trie import Trie
from autospike.execution.executor import Serial
from autospike.measurement import Measurement
from autospike.pareto import hypervolume
from autospike.process import prepare_process
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.evolution import Search
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.setup import load_trained_supernet

WAYS = {
    "uniform": {"crossover": "uniform"},
    "one-point": {},
    "one-point, late": {"late_point": 3.0},
}
POPULATION, GENERATIONS = 24, 10


@dataclass(kw_only=True)
class Shared:
    """Measures candidates of several searches, each once; counts the blocks of one search's candidates, and those that run.

    Attributes:
        evaluator: Measures candidates that no search has proposed before.
        measured: All measurements.
        energies: Accuracy and energy in mJ of the current search's candidates.
        known: Keys of the current search's blocks.
        blocks: Number of blocks of its proposed candidates.
        run: Number of them that differ.
    """

    evaluator: PopulationEvaluator
    measured: dict[Architecture, Measurement] = field(default_factory=dict)
    energies: list[tuple[float, float]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    blocks: int = 0
    run: int = 0

    def begin(self) -> None:
        """Start the counts of another search."""
        self.energies, self.known, self.blocks, self.run = [], set(), 0, 0

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        """Return the measurements, in order."""
        wanted = list(architectures)
        proposed = wanted[:POPULATION]  # the rest are by-product candidates
        nodes = {key for key, node in Trie(proposed).nodes.items() if node.name.endswith(".channel")}
        self.blocks += sum(architecture.depth for architecture in proposed)
        self.run += len(nodes - self.known)
        self.known |= nodes
        missing = [architecture for architecture in wanted if architecture not in self.measured]
        self.measured |= dict(zip(missing, self.evaluator(missing), strict=True))
        found = [self.measured[architecture] for architecture in wanted]
        self.energies += [(m.accuracy, m.energy(self.evaluator.convention).energy_mj) for m in found]
        return iter(found)


def run_search(shared: Shared, space: SearchSpace, settings: dict[str, float | str], seed: int) -> dict[str, float]:
    """Run one search; return the hypervolume of its measurements, and how many blocks its candidates have and ran."""
    config = SearchConfig.model_validate({"population": POPULATION, "generations": GENERATIONS, **settings})
    shared.begin()
    with TemporaryDirectory() as folder:
        Search(
            space=space,
            anchors=(),
            evaluate=shared,
            archive=Archive(Path(folder) / "archive.sqlite", "variation", shared.evaluator.convention),
            config=config,
            seed=seed,
        ).run()
    reference = shared.measured[space.largest()].energy(shared.evaluator.convention).energy_mj
    volume = hypervolume(shared.energies, energy_reference=reference)
    return {"hypervolume": volume, "blocks": shared.blocks, "run": shared.run, "measured": len(shared.energies)}


def main(folder: Path, seeds: int) -> None:
    """Search in every way with every seed, and write `variation.csv`."""
    prepare_process()
    run = RunDirectory.resume(folder)
    setup, space = open_for_measurement(run), run.experiment.search_space
    evaluator = trie_evaluator(setup, load_trained_supernet(setup, space, run.supernet))
    shared = Shared(evaluator=population_evaluator(setup, Serial(state=evaluator)))
    rows = []
    for seed in range(seeds):
        for way, settings in WAYS.items():
            rows.append({"way": way, "seed": seed, **run_search(shared, space, settings, seed)})
            Console().print(rows[-1])
    table = pd.DataFrame(rows)
    files.write_text(folder / "variation.csv", table.to_csv(index=False))
    Console().print(table.groupby("way", sort=False).agg({"hypervolume": ["mean", "sem"], "run": "mean", "blocks": "mean"}))


main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6)
