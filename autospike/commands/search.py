"""`autospike search`: evolve subnets of the trained supernet, every measurement in the archive."""

from __future__ import annotations

from autospike import files
from autospike.assembly import Assembly
from autospike.commands.display import note, progress
from autospike.measurement import Evaluation
from autospike.report.record import record
from autospike.rundir import Run
from autospike.search.archive import Archive
from autospike.search.evolution import Search
from autospike.space import SearchSpace


def search(run: Run) -> None:
    """Search to the configured generation; what the archive knows is not measured again.

    Raises:
        UserError: the supernet is not trained, or the archive cannot be opened.
    """
    assembly, config = Assembly.of(run), run.experiment.search
    supernet = assembly.trained(run.experiment.search_space, run.supernet)
    archive = Archive(run.archive, assembly.protocol_id(run.supernet), config.energy_convention)
    run.record()
    _measure_baseline(run, assembly)
    before = len(archive.all())
    with progress(f"search {config.algorithm}", total=config.population * config.generations) as bar:
        seen: list[Evaluation] = []

        def measured(evaluation: Evaluation) -> None:
            seen.append(evaluation)
            best = max(e.f_aeb for e in seen)
            bar(len(seen), f"gen {(len(seen) - 1) // config.population}, F_AEB {best:.3f}")

        run.log("search started", algorithm=config.algorithm, archived=before)
        Search(
            space=run.experiment.search_space,
            anchors=(run.experiment.baseline_architecture,),
            executor=assembly.evaluator(supernet),
            archive=archive,
            config=config,
            seed=run.experiment.seed,
            measured=measured,
        ).run()
    now = len(archive.all()) - before
    run.log("search finished", algorithm=config.algorithm, candidates=len(seen), measured_now=now)
    note(f"search: {len(seen)} candidates, {now} measured now, {len(seen) - now} known from the archive")
    archive.close()


def _measure_baseline(run: Run, assembly: Assembly) -> None:
    """Score the hand-made architecture, trained alone, on the search split, as candidates are."""
    path, protocol_id = run.baseline / "measurement.json", assembly.protocol_id(run.baseline)
    if path.exists() and files.read_json(path).get("protocol_id") == protocol_id:
        return
    architecture = run.experiment.baseline_architecture
    evaluator = assembly.evaluator(assembly.trained(SearchSpace.of(architecture), run.baseline))
    (measurement,) = evaluator([architecture])
    found = record(measurement, run.experiment.search.energy_convention, "search")
    files.write_json(path, {**found, "protocol_id": protocol_id})
