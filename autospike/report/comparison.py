"""The closing table of an export: the subnet beside the reference network, with intervals, and what the numbers mean in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autospike.energy.conventions import UJ_PER_MJ
from autospike.measurement import Measurement
from autospike.statistics import Comparison, JackknifeComparison, PairedComparison

# The largest subnet counts as far below the reference network if it is significantly less accurate by more than this. Our choice.
UNDER_TRAINED = 0.01


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table: the exported subnet, the same one with its other weights, and the reference network.

    Args:
        report: The content of `report.json`.
    """
    exported = report.get("weights", "inherited")
    found = [_row(f"exported subnet ({exported})", report, report["params"], report["time_steps"])]
    for way, other in report.get("by_weights", {}).items():
        if way != exported:
            found.append(_row(f"not exported ({way})", other, report["params"], report["time_steps"]))
    reference = report["baseline"]
    return [*found, _row("reference network", reference, reference["params"], reference["time_steps"])] if reference else found


def _row(name: str, measured: dict[str, Any], params: int, time_steps: int) -> list[str]:
    low, high = measured["test_accuracy_interval"]
    energy = f"{measured['energy_mj'] * UJ_PER_MJ:.3f}"
    return [name, f"{measured['test_accuracy']:.4f} ({low:.3f} to {high:.3f})", energy, f"{params:,}", str(time_steps)]


def against_reference(report: dict[str, Any]) -> Comparison:
    """Compare the exported subnet with the reference network on the test images.

    Args:
        report: The content of `report.json` of a run with a reference network.
    """
    return compared(report, report["baseline"], report["test_images"])


def compared(first: dict[str, Any], second: dict[str, Any], images: int) -> Comparison:
    """Compare two networks on the same images.

    Args:
        first: The measurement of the first one, as `report.record.record` returns it.
        second: That of the second one.
        images: Number of images.

    Returns:
        A paired comparison of correct predictions, or for scores of a dense task one by the jackknife.
    """
    if "score" in first:
        one, other = first["score"], second["score"]
        without = tuple(a - b for a, b in zip(one["without"], other["without"], strict=True))
        return JackknifeComparison(difference=one["value"] - other["value"], without=without)
    return PairedComparison.of(bytes.fromhex(first["correct_mask"]), bytes.fromhex(second["correct_mask"]), images)


def metric(report: dict[str, Any]) -> str:
    """Return the name of the metric of a report: "accuracy" for classification.

    Args:
        report: The content of `report.json`.
    """
    score = report.get("score")
    return str(score["metric"]) if isinstance(score, dict) else "accuracy"


def caption(report: dict[str, Any]) -> str:
    """Return the line below the table: energy and accuracy relative to the reference network.

    Args:
        report: The content of `report.json`.
    """
    images = f"{report['test_images']} test images, opened for this measurement only."
    if not report["baseline"]:
        return images
    ratio = report["energy_mj"] / report["baseline"]["energy_mj"]
    return (
        f"{images} The subnet needs {ratio:.0%} of the energy of the reference network; its {metric(report)} is "
        f"{points(against_reference(report))}."
    )


def points(compared: Comparison) -> str:
    """Return an accuracy difference in words, in points of a percent with its 95 % interval.

    Args:
        compared: The comparison of the first network with the second.
    """
    low, high = compared.interval
    words = "higher" if compared.difference > 0 else "lower" if compared.difference < 0 else "different"
    return f"{abs(compared.difference) * 100:.1f} points {words} (95 % interval {low * 100:+.1f} to {high * 100:+.1f})"


def warnings(report: dict[str, Any]) -> list[str]:
    """Return what a reader must know besides the table, and what to do.

    Args:
        report: The content of `report.json`.

    Returns:
        One line for each warning.
    """
    if not report["baseline"]:
        return []
    found, difference, supernet = [], against_reference(report), report.get("supernet")
    if difference.significantly_below:
        test = "McNemar test" if metric(report) == "accuracy" else f"{metric(report)}, jackknife"
        found.append(
            f"warning: the subnet is significantly less accurate than the reference network ({test}, p = "
            f"{difference.p_value_below:.2g}). Train longer, or select with --pick best-accuracy."
        )
    if supernet and supernet["under_trained"]:
        found.append(
            f"warning: the supernet looks under-trained: its largest subnet reaches {supernet['largest_accuracy']:.4f} on the "
            f"search split, the reference network {supernet['reference_accuracy']:.4f}. Train for more epochs "
            "(--set training.epochs=N)."
        )
    return found


def supernet_quality(largest: Measurement, reference: dict[str, Any], *, same_architecture: bool) -> dict[str, Any]:
    """Compare the largest subnet, with inherited weights, with the reference network on the search split.

    Args:
        largest: Measurement of the largest subnet of the space.
        reference: Measurement of the reference network, as `report.record.record` returns it.
        same_architecture: Whether the reference network has the architecture of the largest subnet.

    Returns:
        Both accuracies, the difference with its 95 % interval, and whether the supernet looks under-trained.
    """
    first = {"correct_mask": largest.correct_mask.hex(), **({"score": asdict(largest.score)} if largest.score else {})}
    difference = compared(first, reference, largest.images)
    return {
        "largest_accuracy": largest.accuracy,
        "reference_accuracy": reference["search_accuracy"],
        "same_architecture": same_architecture,
        "difference": difference.difference,
        "difference_interval": list(difference.interval),
        "under_trained": difference.significantly_below and difference.difference < -UNDER_TRAINED,
    }
