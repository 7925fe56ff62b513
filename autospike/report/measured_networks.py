"""Networks beside the candidates of a search, as points and curves of a figure, from their measurements in JSON."""

from __future__ import annotations

from typing import Any

from autospike.energy.conventions import Convention, energy
from autospike.energy.counts import from_rows
from autospike.report.figures import Curve, Kind, Point
from autospike.report.record import Split
from autospike.statistics import wilson_interval


def point_of(measured: dict[str, Any], convention: Convention, split: Split, *, note: str = "") -> Point:
    """Return the point of a network.

    Args:
        measured: The measurement as `report.record.record` returns it.
        convention: The energy convention, which may differ from that of the measurement.
        split: The split that was measured.
        note: Text beside the point.

    Raises:
        KeyError: A field is missing.
    """
    energy_mj = energy(from_rows(measured["layers"]), convention).energy_mj
    return _point(measured, energy_mj, split, note)


def at_every_time_step(measured: dict[str, Any], convention: Convention, split: Split) -> tuple[Point, ...]:
    """Return the points of a network at every T, from one measurement.

    Args:
        measured: The measurement as `report.record.record` returns it. If it has no `by_time_steps`, because an older version has
            written it, the only point is that of the last T.
        convention: The energy convention, which may differ from that of the measurement.
        split: The split that was measured.

    Raises:
        KeyError: A field is missing.
    """
    counts = from_rows(measured["layers"])
    last = {**measured, "time_steps": max(count.time_steps for count in counts)}
    steps = measured.get("by_time_steps", [last])
    energies = [energy([count.first(at["time_steps"]) for count in counts], convention).energy_mj for at in steps]
    return tuple(_point(at, mj, split, f"T = {at['time_steps']}") for at, mj in zip(steps, energies, strict=True))


def reference_curve(measured: dict[str, Any], convention: Convention, split: Split) -> Curve:
    """Return the reference network at every T.

    Args:
        measured: Its measurement.
        convention: The energy convention.
        split: The split that was measured.

    Raises:
        KeyError: A field is missing.
    """
    points = at_every_time_step(measured, convention, split)
    return Curve(label="reference network, trained alone", kind="reference", points=points)


def single(measured: dict[str, Any], convention: Convention, split: Split, *, label: str, kind: Kind) -> Curve:
    """Return one network as a curve of one point.

    Args:
        measured: Its measurement.
        convention: The energy convention.
        split: The split that was measured.
        label: Text of the legend.
        kind: What the network is.

    Raises:
        KeyError: A field is missing.
    """
    return Curve(label=label, kind=kind, points=(point_of(measured, convention, split),))


def _point(measured: dict[str, Any], energy_mj: float, split: Split, note: str) -> Point:
    accuracy = float(measured[f"{split}_accuracy"])
    interval = measured.get(f"{split}_accuracy_interval")
    if interval is None:  # of an older version
        images = measured.get(f"{split}_images", 0)
        interval = wilson_interval(round(accuracy * images), images) if images else (accuracy, accuracy)
    return Point(accuracy=accuracy, interval=(float(interval[0]), float(interval[1])), energy_mj=energy_mj, note=note)
