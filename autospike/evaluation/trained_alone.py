"""Measurement of a separately trained network on the search split: the reference network, and the fine-tuned subnet.

It is measured as candidates are, so that its correct predictions can be compared with theirs image by image. The result is stored
beside the checkpoints of the network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from autospike import files
from autospike.energy.conventions import energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.evaluation.setup import population_evaluator, protocol_id, trie_evaluator
from autospike.execution.executor import Serial
from autospike.report.record import record, record_point
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.setup import Setup, load_trained_supernet


def measure_trained_alone(run: RunDirectory, setup: Setup, architecture: Architecture, folder: Path) -> dict[str, Any]:
    """Measure a network on the search split at every T, unless its folder holds a measurement under the same protocol.

    One pass gives all T: a network is causal in time.

    Args:
        run: Energy convention.
        setup: Configuration, data and device.
        architecture: The architecture of the network.
        folder: The folder of its checkpoints, to which `measurement.json` is written.

    Returns:
        The measurement as `report.record.record` returns it, with the keys `protocol_id` and `by_time_steps`.

    Raises:
        UserError: The training of the network has not finished.
    """
    found, convention = read_measurement(setup, folder), run.experiment.search.energy_convention
    if found is None or "by_time_steps" not in found:  # older versions measured the last T only
        supernet = load_trained_supernet(setup, SearchSpace.of(architecture), folder)
        evaluator = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet))).without_racing()
        steps = range(1, architecture.time_steps + 1)
        measurements = list(evaluator([replace(architecture, time_steps=t) for t in steps]))
        found = {
            **record(measurements[-1], convention, "search"),
            "by_time_steps": [record_point(measurement, convention, "search") for measurement in measurements],
            "protocol_id": protocol_id(setup, folder),
        }
        files.write_json(_path(folder), found)
    return found


def read_measurement(setup: Setup, folder: Path) -> dict[str, Any] | None:
    """Read what `measure_trained_alone` wrote.

    Args:
        setup: Configuration, data and device.
        folder: The folder of the checkpoints.

    Returns:
        The measurement, or None if there is none under the current protocol, or only a damaged one or one of an older version.
    """
    try:
        found: dict[str, Any] = files.read_json(_path(folder))
        energy(from_rows(found["layers"]))
        mask = bytes.fromhex(found["correct_mask"])
        measured = "score" in found or len(mask) == (found["search_images"] + 7) // 8
        sound = isinstance(found["search_accuracy"], float) and measured
    except (UserError, AttributeError, KeyError, TypeError, ValueError):  # missing or damaged
        return None
    return found if sound and found["protocol_id"] == protocol_id(setup, folder) else None


def _path(folder: Path) -> Path:
    return folder / "measurement.json"
