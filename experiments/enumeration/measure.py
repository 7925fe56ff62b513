"""Measure every architecture of a small space by trie evaluation, into the archive of a run."""

from __future__ import annotations

from pathlib import Path

from autospike.console import progress
from autospike.evaluation.setup import create_executor, open_for_measurement, population_evaluator, protocol_id
from autospike.measurement import Evaluation, Measurement
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.fitness import f_aeb
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import enumerate_architectures

CHUNK = 180  # architectures of one trie; a larger one shares more prefixes and is stored less often
LARGEST = 20_000


def enumerated(run: RunDirectory, archive_path: Path) -> tuple[SearchSpace, dict[Architecture, Measurement]]:
    """Measure the searched space of a run. Measurements in the archive are not repeated.

    Args:
        run: A trained run; `search.space` may narrow its space.
        archive_path: The archive to write to.

    Returns:
        The space, and the measurement of each of its architectures.
    """
    space, setup = run.experiment.searched_space, open_for_measurement(run)
    if space.size() > LARGEST:
        raise SystemExit(f"{space.size():,} architectures; narrow the space to at most {LARGEST:,}: --set space.GENE=[...]")
    convention, fitness = run.experiment.search.energy_convention, run.experiment.search.fitness
    archive = Archive(archive_path, protocol_id(setup, run.supernet), convention)
    measured = {e.measurement.architecture: e.measurement for e in archive.all()}
    everything = sorted(enumerate_architectures(space), key=lambda a: a.to_json())  # T last: neighbours share all prefixes
    missing = [a for a in dict.fromkeys((space.largest(), *everything)) if a not in measured]
    if missing:
        executor = create_executor(run, setup)
        evaluate = population_evaluator(setup, executor)
        with progress("enumerate", total=len(everything)) as bar:
            for start in range(0, len(missing), CHUNK):
                bar(len(everything) - len(missing) + start, "")
                found = list(evaluate(missing[start : start + CHUNK]))
                measured |= {m.architecture: m for m in found}
                reference_mj = measured[space.largest()].energy(convention).energy_mj
                energies = [m.energy(convention) for m in found]
                archive.add(
                    Evaluation(
                        measurement=m,
                        energy=energy,
                        f_aeb=f_aeb(m.accuracy, energy.energy_mj, reference_mj=reference_mj, config=fitness),
                        generation=0,
                    )
                    for m, energy in zip(found, energies, strict=True)
                )
        executor.close()
    archive.close()
    return space, {architecture: measured[architecture] for architecture in everything}
