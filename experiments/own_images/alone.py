"""`python experiments/own_images/alone.py IMAGES EPOCHS [SECTION.FIELD=VALUE ...]`: train the largest network of a space alone.

The experiment is `experiments/folder.yaml` on the folder IMAGES. Prints the accuracy on the search split with its 95 % interval,
the energy of an image, the number of parameters, and the CPU seconds of the training.
"""

from __future__ import annotations

import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1]
sys.path.insert(0, str(EXPERIMENTS / "training_quality"))

from time_to_quality import trained  # noqa: E402

from autospike.config import Experiment  # noqa: E402
from autospike.energy.conventions import UJ_PER_MJ  # noqa: E402
from autospike.evaluation.setup import population_evaluator, trie_evaluator  # noqa: E402
from autospike.execution.executor import Serial  # noqa: E402
from autospike.process import prepare_process  # noqa: E402
from autospike.space.search_space import SearchSpace  # noqa: E402
from autospike.statistics import wilson_interval  # noqa: E402
from autospike.training.setup import open_experiment  # noqa: E402


def main(images: str, epochs: int, overrides: list[str]) -> None:
    """Train, measure and print."""
    chosen = [f"data.root={Path(images).resolve()}", f"training.epochs={epochs}", *overrides]
    setup = open_experiment(Experiment.load(EXPERIMENTS / "folder.yaml", chosen))
    architecture = setup.experiment.search_space.largest()
    supernet, seconds = trained(setup, SearchSpace.of(architecture), {})
    (measured,) = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))([architecture])
    low, high = wilson_interval(round(measured.accuracy * measured.images), measured.images)
    energy_uj = measured.energy(setup.experiment.search.energy_convention).energy_mj * UJ_PER_MJ
    print(
        f"{images}, {epochs} epochs, {' '.join(overrides)}: {measured.accuracy:.3f} ({low:.3f} to {high:.3f}), {energy_uj:.2f} uJ, "
        f"{measured.params:,} parameters, {seconds:.0f} CPU s"
    )


if __name__ == "__main__":
    prepare_process()
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
