"""Rows of an archive as values: which are sound, and the energy of one under any convention."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

from pydantic_core import from_json

from autospike.energy.conventions import Convention, Energy, energy
from autospike.energy.counts import LayerCount, from_rows
from autospike.errors import UserError
from autospike.measurement import Evaluation, Latency, Measurement, Score
from autospike.space.architecture import Architecture

# The columns of a measured latency.
LATENCY = ("latency_device", "latency_ms", "latency_batch_ms")

# Columns that archives of older versions lack, and the value that their rows have.
ADDED_COLUMNS = {
    "free": "0",
    **dict.fromkeys(("correct_mask", "score", "spikes", *LATENCY, "mean_time_steps"), "NULL"),
}

# What SQLite finds wrong with a row, as text, or NULL. It stores a value of any type in any column.
PROBLEM = """
CASE
    WHEN typeof(architecture_id) <> 'text' OR typeof(architecture) <> 'text' THEN 'its architecture is not text'
    WHEN typeof(images) <> 'integer' OR images < 1 THEN 'images is not a positive whole number'
    WHEN typeof(correct) <> 'integer' OR correct NOT BETWEEN 0 AND images THEN 'correct is not between 0 and images'
    WHEN typeof(accuracy) <> 'real' THEN 'accuracy is not a number'
    WHEN score IS NULL AND abs(accuracy - correct * 1.0 / images) > 1e-9 THEN 'accuracy is not correct / images'
    WHEN score IS NOT NULL AND (typeof(score) <> 'blob' OR accuracy NOT BETWEEN 0 AND 1) THEN 'its value is not between 0 and 1'
    WHEN typeof(params) <> 'integer' OR params < 0 THEN 'params is not a whole number'
    WHEN typeof(time_steps) <> 'integer' OR time_steps < 1 THEN 'time_steps is not a positive whole number'
    WHEN typeof(f_aeb) <> 'real' OR abs(f_aeb) > 1e300 THEN 'f_aeb is not a number'
    WHEN typeof(generation) <> 'integer' OR generation < 0 THEN 'generation is not a whole number'
    WHEN free NOT IN (0, 1) THEN 'it is neither marked as a by-product (1) nor as proposed (0)'
    WHEN typeof(seconds) <> 'real' OR abs(seconds) > 1e300 THEN 'seconds is not a number'
    WHEN typeof(counts) <> 'blob' THEN 'its counts are not a blob'
    WHEN correct_mask IS NOT NULL AND (typeof(correct_mask) <> 'blob' OR length(correct_mask) <> (images + 7) / 8)
        THEN 'its mask of correct predictions has not one bit for each image'
    WHEN spikes IS NOT NULL AND typeof(spikes) <> 'real' THEN 'spikes is not a number'
    WHEN mean_time_steps IS NOT NULL AND (typeof(mean_time_steps) <> 'real' OR mean_time_steps NOT BETWEEN 1 AND time_steps)
        THEN 'its mean number of time steps is not between 1 and T'
    WHEN latency_device IS NOT NULL AND (typeof(latency_ms) <> 'real' OR typeof(latency_batch_ms) <> 'real')
        THEN 'its latency is not a number'
END
"""
# Errors that damaged counts or a damaged architecture cause.
DAMAGE = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, UserError, zlib.error)


def is_named_by(architecture: str, architecture_id: str) -> bool:
    """Return whether the JSON of an architecture has the digest that is its id.

    Args:
        architecture: JSON, canonical in every archive that this package wrote.
        architecture_id: The id.
    """
    if hashlib.sha256(architecture.encode(errors="replace")).hexdigest()[:12] == architecture_id:
        return True
    try:
        return Architecture.from_json(architecture).id == architecture_id
    except DAMAGE:
        return False


def energy_of(counts: bytes, convention: Convention) -> Energy:
    """Compute the energy of a row, without the checks and the values that `autospike.energy.counts.from_rows` gives.

    Args:
        counts: The column `counts`.
        convention: The convention.

    Returns:
        The energy of one image.

    Raises:
        DAMAGE: The counts are damaged.
    """
    layers = [SimpleNamespace(**row) for row in from_json(zlib.decompress(counts))]
    return energy(cast("Sequence[LayerCount]", layers), convention)


def counts_of(packed: bytes) -> tuple[LayerCount, ...]:
    """Read the column `counts`.

    Args:
        packed: The column.

    Returns:
        The operation counts of the layers.

    Raises:
        DAMAGE: They are damaged.
    """
    counts = from_rows(from_json(zlib.decompress(packed)))  # which takes half of the time of json.loads
    for count in counts:
        sum(count.acs, sum(count.rate, count.macs * count.time_steps))  # fails unless all of them are numbers
    return counts


# The columns that `evaluation_of` reads.
EVALUATION = (
    "architecture",
    "correct",
    "images",
    "counts",
    "params",
    "seconds",
    "f_aeb",
    "generation",
    "free",
    "correct_mask",
    "score",
    "spikes",
    "mean_time_steps",
    *LATENCY,
)


def packed_score(score: Score) -> bytes:
    """Return the column `score`: zlib of JSON.

    Args:
        score: The score of a dense task.
    """
    return zlib.compress(json.dumps(asdict(score)).encode())


def score_of(packed: bytes) -> Score:
    """Read the column `score`.

    Args:
        packed: As `packed_score` returns it.

    Returns:
        The score.

    Raises:
        DAMAGE: It is damaged.
    """
    fields = json.loads(zlib.decompress(packed))
    without = tuple(map(float, fields["without"]))
    return Score(metric=fields["metric"], value=float(fields["value"]), without=without, details=fields["details"])


def scores_without_a_group(packed: object) -> tuple[float, ...]:
    """Return `Score.without` of the column `score`; empty if it is NULL or damaged.

    Args:
        packed: The column.
    """
    try:
        return score_of(packed).without if isinstance(packed, bytes) else ()
    except DAMAGE:
        return ()


def evaluation_of(row: Sequence[Any], convention: Convention) -> Evaluation:
    """Build an evaluation from a row.

    Args:
        row: The columns `EVALUATION`.
        convention: Energy convention of the evaluation.

    Returns:
        The evaluation.

    Raises:
        DAMAGE: The row is damaged.
    """
    architecture, correct, images, counts, params, seconds, f_aeb, generation, free, correct_mask, score, spikes, mean, *latency = (
        row
    )
    measurement = Measurement(
        architecture=Architecture.from_json(architecture),
        correct=correct,
        images=images,
        counts=counts_of(counts),
        params=params,
        seconds=seconds,
        correct_mask=correct_mask or b"",
        score=None if score is None else score_of(score),
        spikes=spikes,
        mean_time_steps=mean,
    )
    energy = measurement.energy(convention)
    return Evaluation(
        measurement=measurement,
        energy=energy,
        f_aeb=f_aeb,
        generation=generation,
        by_product=bool(free),
        latency=None if None in latency else Latency(device=latency[0], image_ms=latency[1], batch_ms=latency[2]),
    )
