"""Hard limits of a search: which candidates are feasible, and by how much the others exceed the limits.

Static limits (parameters, T, dense MACs, memory, fan-in) follow from an architecture by arithmetic, so candidates beyond them are
not measured. Measured limits (energy, accuracy) enter the selection by constrained domination (Deb et al., "A fast and elitist
multiobjective genetic algorithm: NSGA-II", IEEE TEVC 6(2), 2002): a feasible candidate dominates an infeasible one, and of two
infeasible ones the one with the smaller violation dominates.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autospike.config import ConstraintsConfig, SearchConfig
from autospike.energy.conventions import UJ_PER_MJ
from autospike.errors import UserError
from autospike.measurement import Evaluation
from autospike.searching.variation import crossover
from autospike.space.architecture import Architecture
from autospike.space.costs import Costs, costs, minimise
from autospike.space.input_shape import InputShape
from autospike.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class StaticLimit:
    """A limit on a cost that follows from an architecture.

    Attributes:
        label: Name of the cost in messages.
        value: The cost.
        ordered: The cost for `minimise`: of a largest value, those of all layers in descending order.
    """

    label: str
    value: Callable[[Costs], float]
    ordered: Callable[[Costs], Any]


STATIC_LIMITS: dict[str, StaticLimit] = {
    "max_params": StaticLimit(label="parameters", value=lambda c: c.params, ordered=lambda c: c.params),
    "max_time_steps": StaticLimit(label="time steps", value=lambda c: c.time_steps, ordered=lambda c: c.time_steps),
    "max_macs": StaticLimit(label="dense MACs per time step", value=lambda c: c.macs, ordered=lambda c: c.macs),
    "max_weights_kb": StaticLimit(label="kB of weights", value=lambda c: c.weights_kb, ordered=lambda c: c.weights_kb),
    "max_activations_kb": StaticLimit(label="kB of activations", value=lambda c: c.activations_kb, ordered=lambda c: c.layers_kb),
    "max_fan_in": StaticLimit(label="synapses of a neuron", value=lambda c: c.fan_in, ordered=lambda c: c.fan_ins),
}
"""Limits on costs, by the field of `search.constraints`."""

# Limits on costs that do not include the decoder of a dense task.
WITHOUT_DECODER = ("max_macs", "max_activations_kb", "max_fan_in")

# Crossovers with a feasible architecture before an infeasible candidate is given up. Each halves its distance on average.
REPAIRS = 8


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The limits of a search.

    Attributes:
        config: The limits.
        shape: Input and output size of the networks; None if it is unknown, which static limits do not allow.
        fused: Whether the energy convention merges consecutive linear layers, for dense MACs.
    """

    config: ConstraintsConfig = ConstraintsConfig()
    shape: InputShape | None = None
    fused: bool = True

    @classmethod
    def of(cls, config: SearchConfig, shape: InputShape | None) -> Constraints:
        """Return the limits of a search.

        Args:
            config: The settings of the search.
            shape: Input and output size of the networks.
        """
        return cls(config=config.constraints, shape=shape, fused=config.energy_convention.fused)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by field."""
        return {name: value for name, value in self.config if value is not None}

    @property
    def static(self) -> dict[str, float]:
        """The static limits that are set, by field."""
        return {name: value for name, value in self.limits.items() if name in STATIC_LIMITS}

    def costs(self, architecture: Architecture) -> Costs:
        """Return the costs of an architecture.

        Args:
            architecture: The architecture.

        Raises:
            UserError: The input size is unknown, or a limited cost is not known for a network with a decoder.
        """
        if self.shape is None:
            raise UserError(f"search.constraints.{next(iter(self.static))}: the run has no input size; run: autospike search RUN")
        unknown = [name for name in WITHOUT_DECODER if name in self.static] if architecture.decoder is not None else []
        if unknown:
            raise UserError(
                f"search.constraints.{unknown[0]}: not known before measuring for networks with a decoder; leave it out"
            )
        return costs(architecture, self.shape, fused=self.fused)

    def static_violation(self, architecture: Architecture) -> float:
        """Return by how much an architecture exceeds the static limits: the sum of the excesses, relative to the limits.

        Args:
            architecture: The architecture.
        """
        if not self.static:
            return 0.0
        found = self.costs(architecture)
        return sum(max(0.0, STATIC_LIMITS[name].value(found) / limit - 1) for name, limit in self.static.items())

    def measured_violation(self, accuracy: float, energy_mj: float) -> float:
        """Return by how much a measurement violates the measured limits: the sum of the differences, relative to the limits.

        Args:
            accuracy: Accuracy on the search split.
            energy_mj: Energy per image in mJ.
        """
        most, least = self.config.max_energy_uj, self.config.min_accuracy
        excess = max(0.0, energy_mj * UJ_PER_MJ / most - 1) if most is not None else 0.0
        return excess + (max(0.0, 1 - accuracy / least) if least else 0.0)

    def violation(self, evaluation: Evaluation) -> float:
        """Return by how much a candidate violates all limits; 0 if it is feasible.

        Args:
            evaluation: The measured candidate.
        """
        m = evaluation.measurement
        return self.static_violation(m.architecture) + self.measured_violation(m.accuracy, evaluation.energy.energy_mj)

    def check_reachable(self, space: SearchSpace) -> Architecture:
        """Check that some architecture of a space is within the static limits.

        Args:
            space: The search space.

        Returns:
            An architecture within them.

        Raises:
            UserError: There is none. The message has the smallest value of a limit that nothing reaches, and the architecture that
                has it.
        """
        for name, limit in self.static.items():
            kind = STATIC_LIMITS[name]
            best = self._smallest(space, kind)
            least = kind.value(self.costs(best))
            if least > limit:
                raise UserError(
                    f"search.constraints.{name}: no architecture of the space has at most {limit:,g} {kind.label}; the "
                    f"smallest has {least:,g}: {summary(space, best)}"
                )
        best = minimise(space, self.static_violation)
        if self.static_violation(best) > 0:
            raise UserError(
                f"search.constraints: each limit can be reached, but no architecture was found within all of them; the nearest is "
                f"{summary(space, best)}; loosen {' or '.join(self._exceeded(best))}"
            )
        return best

    def _smallest(self, space: SearchSpace, kind: StaticLimit) -> Architecture:
        return minimise(space, lambda architecture: kind.ordered(self.costs(architecture)))

    def _exceeded(self, architecture: Architecture) -> list[str]:
        found = self.costs(architecture)
        return [name for name, limit in self.static.items() if STATIC_LIMITS[name].value(found) > limit]

    def repaired(
        self, space: SearchSpace, candidate: Architecture, feasible: Architecture, rng: random.Random
    ) -> Architecture | None:
        """Return a candidate that is within the static limits.

        Args:
            space: The search space.
            candidate: A member of the space.
            feasible: An architecture within the limits.
            rng: Random generator; it is not used if the candidate is within the limits.

        Returns:
            The candidate if it is within the limits; otherwise its child with `feasible` by uniform crossover, of that child again,
            and so on. None if none of them is within the limits.
        """
        for _ in range(REPAIRS):
            if self.static_violation(candidate) == 0:
                return candidate
            candidate = crossover(space, candidate, feasible, rng)
        return candidate if self.static_violation(candidate) == 0 else None


def summary(space: SearchSpace, architecture: Architecture) -> str:
    """Return an architecture in a few words: its id, and the value of each gene, of equal ones only once.

    Args:
        space: The search space of the architecture.
        architecture: The architecture.
    """
    values: dict[str, list[str]] = {}
    for found in space.genes(architecture):
        if found.gene.size > 1 and found.value is not None:
            text = found.value if isinstance(found.value, str) else f"{found.value:g}"
            seen = values.setdefault(str(found.path[-1]), [])
            if text not in seen:
                seen.append(text)
    genes = ", ".join(f"{name} {'/'.join(seen)}" for name, seen in values.items())
    return f"{architecture.id} ({genes})"
