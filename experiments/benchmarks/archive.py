"""Plotting and resuming a search with 100,000 archived candidates, which are made up: no network is run."""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from measuring import Result

from autospike.config import Experiment
from autospike.energy.conventions import EXACT, MJ_PER_PJ
from autospike.energy.counts import LayerCount, to_rows
from autospike.measurement import Measurement
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.evolution import Search
from autospike.searching.fitness import f_aeb
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.statistics import pack_mask

ROWS = 100_000
GENERATIONS = 200
LAYERS = 24  # as many as a network of two blocks has
STEPS = 4
IMAGES = 360
EXPERIMENT = Path(__file__).parents[1] / "digits.yaml"
PROTOCOL = "synthetic"


def archive() -> list[Result]:
    """The command `plot` as a whole, and what resuming a finished search takes before its first new generation."""
    with tempfile.TemporaryDirectory() as folder:
        run = synthetic_run(Path(folder) / "run", ROWS)
        resume(run)  # computes and stores the fitness of the made-up rows, which a search has stored
        plotted, plot_cpu = _plot(run)
        started, cpu = time.perf_counter(), time.process_time()
        resume(run)
        resumed, resume_cpu = time.perf_counter() - started, time.process_time() - cpu
    peer, threads = "a bound", 1
    note = f"{ROWS:,} rows in {GENERATIONS} generations; "
    return [
        Result(
            name="archive_plot",
            value=plotted,
            unit="s",
            peer=peer,
            goal="<= 5",
            threads=threads,
            note=f"{note}{plot_cpu:.1f} s of CPU time, the start of Python and the figures included",
        ),
        Result(
            name="archive_resume",
            value=resumed,
            unit="s",
            peer=peer,
            goal="<= 3",
            threads=threads,
            note=f"{note}{resume_cpu:.1f} s of CPU time, without loading torch and the supernet",
        ),
    ]


def synthetic_run(folder: Path, rows: int) -> RunDirectory:
    """Write a run with an archive of made-up candidates, in the form that a search leaves it in.

    Args:
        folder: The folder.
        rows: Number of candidates.

    Returns:
        The run.
    """
    overrides = [f"search.generations={GENERATIONS}", f"search.population={rows // GENERATIONS // 3}"]
    overrides += ["space.stages.0.depth=[1, 2, 3, 4]"]
    run = RunDirectory(folder=folder, experiment=Experiment.load(EXPERIMENT, overrides))
    run.save()
    counts = _counts()
    reference = {"search_accuracy": 0.9, "layers": to_rows(counts)}
    run.baseline.mkdir()
    (run.baseline / "measurement.json").write_text(json.dumps(reference))
    _fill(run, list(_candidates(run.experiment.search_space, rows)), zlib.compress(json.dumps(to_rows(counts)).encode()))
    return run


def _counts() -> tuple[LayerCount, ...]:
    rng = random.Random(0)
    return tuple(
        LayerCount(
            layer=f"stages.0.blocks.{i // 8}.layer.{i % 8}",
            input="binary",
            time_steps=STEPS,
            macs=10**6,
            acs=tuple(1e5 * rng.random() for _ in range(STEPS)),
            rate=tuple(rng.random() for _ in range(STEPS)),
        )
        for i in range(LAYERS)
    )


def _candidates(space: SearchSpace, count: int) -> Iterator[Architecture]:
    """Different architectures, the largest first, each with every T of the space."""
    rng, seen = random.Random(0), set[Architecture]()
    sampled = space.largest()
    while len(seen) < count:
        for time_steps in space.time_steps.values:
            candidate = replace(sampled, time_steps=time_steps)
            if candidate not in seen and len(seen) < count:
                seen.add(candidate)
                yield candidate
        sampled = space.sample(rng)


def _fill(run: RunDirectory, candidates: Sequence[Architecture], counts: bytes) -> None:
    """Write rows, proposals and the last population."""
    search, rng = _search(run), random.Random(1)
    config, largest = run.experiment.search, run.experiment.search_space.largest()
    search.archive.begin(search.id, config.model_dump_json())
    rows, proposals, reference_mj = [], [], 4.6 * 1e6 * MJ_PER_PJ + 0.9 * 4e6 * MJ_PER_PJ
    per_generation = len(candidates) // GENERATIONS
    for i, architecture in enumerate(candidates):
        macs, acs = 1e6, 4e6 if architecture == largest else 1e5 + 3e6 * rng.random()
        energy_mj = (EXACT.costs.pj_per_mac * macs + EXACT.costs.pj_per_ac * acs) * MJ_PER_PJ
        correct = round(IMAGES * (0.5 + 0.4 * (acs / 4e6) ** 0.5 * rng.random()))
        generation, free = i // per_generation, int(i % 3 > 0)
        row = {
            "architecture_id": architecture.id,
            "protocol_id": PROTOCOL,
            "architecture": architecture.to_json(),
            "accuracy": correct / IMAGES,
            "correct": correct,
            "images": IMAGES,
            "energy_mj": energy_mj,
            "convention": EXACT.name,
            "macs": macs,
            "acs": acs,
            "params": 10**5,
            "time_steps": architecture.time_steps,
            "f_aeb": f_aeb(correct / IMAGES, energy_mj, reference_mj=reference_mj, config=config.fitness),
            "generation": generation,
            "free": free,
            "seconds": 0.1,
            "measured_at": "2026-01-01T00:00:00+00:00",
            "counts": counts,
            "correct_mask": pack_mask(bytes([1] * correct + [0] * (IMAGES - correct))),
            "spikes": acs / 100,
        }
        rows.append(row)
        proposals.append((search.id, generation, i % per_generation, architecture.id, PROTOCOL, free))
    search.archive.close()
    db = sqlite3.connect(run.archive)
    with db:
        marks = ", ".join(f":{name}" for name in rows[0])
        db.executemany(f"INSERT INTO evaluations ({', '.join(rows[0])}) VALUES ({marks})", rows)
        db.executemany(f"INSERT INTO proposals VALUES ({', '.join('?' * 6)})", proposals)
        db.execute("INSERT INTO checksums SELECT rowid, ? FROM evaluations", (zlib.crc32(counts),))
    db.close()
    archive = Archive(run.archive, PROTOCOL)
    archive.store_population(search.id, GENERATIONS - 1, [(row["architecture_id"], 1.0) for row in rows[: config.population]])
    archive.close()


def _search(run: RunDirectory) -> Search:
    """The search of a run, which must not measure anything."""
    return Search(
        space=run.experiment.search_space,
        anchors=(),
        evaluate=_nothing,
        archive=Archive(run.archive, PROTOCOL, run.experiment.search.energy_convention),
        config=run.experiment.search,
        seed=run.experiment.seed,
    )


def _nothing(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
    if list(architectures):
        raise RuntimeError("the search must find all candidates in the archive")
    return iter(())


def resume(run: RunDirectory) -> None:
    """Run a finished search again: open the archive, verify it, compute the fitness again, restore the population."""
    search = _search(run)
    search.archive.discard_damaged()
    search.archive.count()
    search.run()
    search.archive.close()


def _plot(run: RunDirectory) -> tuple[float, float]:
    """Wall-clock and CPU seconds of the command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "autospike", "plot", str(run.folder)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu
