"""`python experiments/training_quality/second_phase.py [SEEDS]`: does a second training near the front help?

Two ways start from the trained reference network, in the setting `digits` of `time_to_quality.py`. One trains the supernet for 12
epochs and searches. The other trains for 6 epochs, searches, trains for 6 epochs on mutations of the front that it has found, and
searches again. Prints CPU seconds without the reference network, the hypervolume of the front and its greatest accuracy, on the
search split, and the difference of the ways over the seeds.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from time_to_quality import SETTINGS, trained  # noqa: E402

from autospike.config import Experiment, SearchConfig  # noqa: E402
from autospike.evaluation.setup import population_evaluator, trie_evaluator  # noqa: E402
from autospike.execution.executor import Serial  # noqa: E402
from autospike.measurement import Evaluation  # noqa: E402
from autospike.pareto import hypervolume_in_box  # noqa: E402
from autospike.process import prepare_process  # noqa: E402
from autospike.searching.archive import Archive  # noqa: E402
from autospike.searching.archive_file import IN_MEMORY  # noqa: E402
from autospike.searching.evolution import Search  # noqa: E402
from autospike.searching.selection import front  # noqa: E402
from autospike.searching.variation import mutate  # noqa: E402
from autospike.space.architecture import Architecture  # noqa: E402
from autospike.space.search_space import SearchSpace  # noqa: E402
from autospike.supernet import Supernet  # noqa: E402
from autospike.training.setup import Setup, open_experiment  # noqa: E402

EPOCHS, LEARNING_RATE = 12, 8e-3
SEARCH = SearchConfig(algorithm="nsga2", population=24, generations=6)


def searched(setup: Setup, supernet: Supernet) -> list[Evaluation]:
    """Search, and return all measured candidates."""
    archive = Archive(IN_MEMORY, "second phase")
    space = setup.experiment.search_space
    evaluate = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))
    anchors = (space.largest(), space.smallest())
    Search(space=space, anchors=anchors, evaluate=evaluate, archive=archive, config=SEARCH, seed=setup.experiment.seed).run()
    found = archive.all()
    archive.close()
    return found


def near(parents: Sequence[Architecture], space: SearchSpace, rng: random.Random, _progress: float) -> tuple[Architecture, ...]:
    """Sample a mutation of one of the parents."""
    return (mutate(space, rng.choice(parents), rng, SEARCH),)


def figures(setup: Setup, found: Sequence[Evaluation]) -> tuple[float, float]:
    """Hypervolume of the front, as a share of the box up to the energy of the largest subnet, and greatest accuracy."""
    best, largest = front(found), setup.experiment.search_space.largest()
    (most_mj,) = [e.energy.energy_mj for e in found if e.measurement.architecture == largest]
    points = [(e.measurement.accuracy, e.energy.energy_mj) for e in best]
    return hypervolume_in_box(points, best=(1.0, 0.0), worst=(0.0, most_mj)), max(accuracy for accuracy, _ in points)


def compared(setup: Setup) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """CPU seconds, hypervolume and greatest accuracy of the longer training, and of the two trainings."""
    space, setting = setup.experiment.search_space, SETTINGS["digits"]
    changes = {"learning_rate": LEARNING_RATE}
    reference, _ = trained(setup, SearchSpace.of(space.largest()), {**changes, "epochs": setting.reference_epochs})
    started = time.process_time()
    supernet, _ = trained(setup, space, {**changes, "epochs": EPOCHS}, reference)
    one = figures(setup, searched(setup, supernet))
    between = time.process_time()
    supernet, _ = trained(setup, space, {**changes, "epochs": EPOCHS // 2}, reference)
    parents = [e.measurement.architecture for e in front(searched(setup, supernet))]
    supernet, _ = trained(setup, space, {**changes, "epochs": EPOCHS // 2}, supernet, lambda *args: near(parents, *args))
    two = figures(setup, searched(setup, supernet))
    return (between - started, *one), (time.process_time() - between, *two)


def main(seeds: int) -> None:
    """Compare the ways for each seed, and print the mean difference with its standard error."""
    setting = SETTINGS["digits"]
    opened = open_experiment(Experiment.load(HERE.parent / setting.experiment, setting.overrides))
    differences = []
    for seed in range(seeds):
        one, two = compared(replace(opened, experiment=opened.experiment.model_copy(update={"seed": seed})))
        for name, (seconds, volume, accuracy) in (("one training", one), ("two trainings", two)):
            print(
                f"seed {seed}, {name}: {seconds:.1f} CPU s, hypervolume {volume:.4f}, greatest accuracy {accuracy:.4f}", flush=True
            )
        differences.append([after - before for before, after in zip(one, two, strict=True)])
    for name, values in zip(("CPU s", "hypervolume", "greatest accuracy"), zip(*differences, strict=True), strict=True):
        print(f"two trainings - one, {name}: {mean(values):+.4f} ± {stdev(values) / math.sqrt(seeds):.4f}")


if __name__ == "__main__":
    prepare_process()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
