"""The front of a search on another split than the one on which its subnets were selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autospike.data.batches import FixedBatches
from autospike.evaluation.setup import population_evaluator, trie_evaluator
from autospike.execution.executor import Serial
from autospike.report.record import record_point
from autospike.report.tables import candidates_of, front
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.selection import with_fitness
from autospike.space.architecture import Architecture
from autospike.training.setup import Setup, load_trained_supernet

# Subnets of the front that are measured on the test split; evenly spaced along the front if it has more. Our choice.
FRONT_POINTS = 24


def searched_front(run: RunDirectory, protocol: str) -> list[Architecture]:
    """Return the front of the search, at most `FRONT_POINTS` of its subnets, by ascending energy.

    Args:
        run: A searched run.
        protocol: The protocol of the archive; see `evaluation.setup.protocol_id`.
    """
    archive = Archive(run.existing_archive(), protocol, run.experiment.search.energy_convention, read_only=True)
    try:
        best = front(candidates_of(with_fitness(archive, run)))
    finally:
        archive.close()
    positions = {round(i) for i in np.linspace(0, len(best) - 1, FRONT_POINTS)}
    return [Architecture.from_json(best["architecture"].iloc[i]) for i in sorted(positions)]


def measured_front(run: RunDirectory, setup: Setup, subnets: Sequence[Architecture], test: FixedBatches) -> list[dict[str, Any]]:
    """Measure subnets with inherited weights on the test split.

    Args:
        run: A searched run.
        setup: Configuration, data and device.
        subnets: The subnets, as `searched_front` returns them.
        test: The test split.

    Returns:
        For each subnet its measurement, as `report.record.record_point` returns it, with the key `architecture_id`; none
        for a dense task.
    """
    if run.experiment.task != "classification":  # energy at equal accuracy needs correct predictions
        return []
    evaluator = trie_evaluator(setup, load_trained_supernet(setup, run.experiment.search_space, run.supernet))
    population = replace(
        population_evaluator(setup, Serial(state=replace(evaluator, search=test))),
        search_images=len(test),
        config=run.experiment.evaluation.model_copy(update={"racing": 0.0}),
    )
    convention = run.experiment.search.energy_convention
    return [{"architecture_id": m.architecture.id, **record_point(m, convention, "test")} for m in population(subnets)]
