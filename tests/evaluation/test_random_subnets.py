"""Random subnets of the energy of a selected one."""

from __future__ import annotations

import math
from pathlib import Path

from autospike.config import Experiment
from autospike.energy.conventions import DEFAULT
from autospike.evaluation.random_subnets import random_subnets
from autospike.evaluation.setup import population_evaluator, trie_evaluator
from autospike.execution.executor import Serial
from autospike.training.setup import build_supernet, open_experiment


def test_the_closest_in_energy_are_returned(tiny_experiment: Path) -> None:
    """They are members of the space, others than the selected one, and sorted by the ratio of energies."""
    setup = open_experiment(Experiment.load(tiny_experiment, ["data.search_share=0.02"]))
    space = setup.experiment.search_space
    supernet, selected = build_supernet(setup, space), space.smallest()
    everyone = random_subnets(setup, supernet, selected, 10**6)
    assert random_subnets(setup, supernet, selected, 3) == everyone[:3]
    assert selected not in everyone
    assert len(set(everyone)) == len(everyone) > 20
    assert all(space.contains(architecture) for architecture in everyone)
    evaluator = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))
    energies = {found.architecture: found.energy(DEFAULT).energy_mj for found in evaluator([selected, *everyone])}
    distances = [abs(math.log(energies[architecture] / energies[selected])) for architecture in everyone]
    assert distances == sorted(distances)
    assert distances[0] < distances[-1]
