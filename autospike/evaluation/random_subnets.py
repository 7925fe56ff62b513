"""Random subnets of the energy of a given one: what the same training gives without a search."""

from __future__ import annotations

import math
from dataclasses import replace

from autospike.evaluation.setup import population_evaluator, trie_evaluator
from autospike.execution.executor import Serial
from autospike.randomness import keyed
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet
from autospike.training.setup import Setup

# Number of subnets among which the closest ones are taken, each measured at every T. Our choice.
DRAWS = 100


def random_subnets(setup: Setup, supernet: Supernet, selected: Architecture, count: int) -> list[Architecture]:
    """Draw subnets, and return those whose energy is closest to that of a selected one.

    Each draw is measured at every T of the space. T is drawn independently of the other genes, so these are random subnets as well.

    Args:
        setup: Configuration, data and device; its seed is the key of the draws.
        supernet: The trained supernet, whose inherited weights decide the energies.
        selected: The selected subnet.
        count: Number of subnets, of different architectures.

    Returns:
        The subnets, the closest one first. The ratio of energies decides.
    """
    space, convention = setup.experiment.searched_space, setup.experiment.search.energy_convention
    rng = keyed(setup.experiment.seed, "random subnets")
    draws = dict.fromkeys(space.sample(rng) for _ in range(DRAWS))
    evaluator = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet))).without_racing()
    measured = {found.architecture: found.energy(convention).energy_mj for found in evaluator([selected, *draws])}
    target = measured.pop(selected)
    shapes = {_at(architecture, 1) for architecture in draws}
    drawn = [architecture for architecture in measured if _at(architecture, 1) in shapes]
    return sorted(drawn, key=lambda architecture: abs(math.log(measured[architecture] / target)))[:count]


def _at(architecture: Architecture, time_steps: int) -> Architecture:
    return replace(architecture, time_steps=time_steps)
