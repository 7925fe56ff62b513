"""The closing comparison of an export: the subnet beside other networks on the test split, and what the numbers mean in words.

Others are the subnet with early exit and with its other weights, the reference network at every T, and networks without spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from autospike.energy.conventions import UJ_PER_MJ
from autospike.measurement import Measurement
from autospike.report.energy import microjoules
from autospike.report.equal_accuracy import EqualAccuracy, Masks, energy_at_equal_accuracy
from autospike.report.figures import Kind
from autospike.report.tables import for_readers
from autospike.statistics import (
    SIGNIFICANCE,
    Comparison,
    Interval,
    JackknifeComparison,
    PairedComparison,
    binomial_p_value_above,
)

# The largest subnet counts as far below the reference network if it is significantly less accurate by more than this. Our choice.
UNDER_TRAINED = 0.01

RIVAL_NAMES = {"cnn": "CNN", "cnn-small": "small CNN", "vit": "ViT"}
"""Names of the networks without spikes in tables and figures."""


def kind_of(rival: str) -> Kind:
    """Return the kind of a network without spikes, by its name.

    Args:
        rival: Name of the network, such as "vit".
    """
    return "vit" if rival == "vit" else "cnn"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A network on the test split.

    Attributes:
        name: Name in tables and legends.
        kind: What it is.
        accuracy: A fraction between 0 and 1.
        interval: The 95 % Wilson interval of the accuracy.
        images: Number of test images.
        correct_mask: Which of them it classifies correctly, as `autospike.statistics.pack_mask` returns it.
        energy_mj: Energy of one image in mJ under the convention of the report.
        int8_mj: The same with the costs of 8-bit integers; None if the convention has costs of its own.
        params: Number of parameters.
        time_steps: T; 1 for a network without spikes, the mean number of steps with early exit.
    """

    name: str
    kind: Kind
    accuracy: float
    interval: Interval
    images: int
    correct_mask: bytes
    energy_mj: float
    int8_mj: float | None
    params: int
    time_steps: float

    @classmethod
    def of(cls, name: str, kind: Kind, measured: dict[str, Any], whole: dict[str, Any]) -> Compared:
        """Read a network from a report.

        Args:
            name: Its name.
            kind: What it is.
            measured: Its measurement.
            whole: The record that has what the measurement lacks: number of images, parameters and T.

        Returns:
            The network.
        """
        every = {**whole, **measured}
        low, high = every["test_accuracy_interval"]
        return cls(
            name=name,
            kind=kind,
            accuracy=every["test_accuracy"],
            interval=(low, high),
            images=every["test_images"],
            correct_mask=bytes.fromhex(every["correct_mask"]),
            energy_mj=every["energy_mj"],
            int8_mj=measured.get("energy_mj_int8"),
            params=every["params"],
            time_steps=every["time_steps"],
        )

    @classmethod
    def with_exits(cls, report: dict[str, Any]) -> Compared:
        """Read the exported subnet with early exit, measured image by image.

        Args:
            report: The content of `report.json`, with the entry `early_exit`.

        Returns:
            The network, with the mean number of steps as T.
        """
        found = report["early_exit"]
        low, high = found["accuracy_interval"]
        return cls(
            name=f"the same, early exit at margin {found['exit_margin']:g}",
            kind="early-exit",
            accuracy=found["accuracy"],
            interval=(low, high),
            images=found["images"],
            correct_mask=bytes.fromhex(found["correct_mask"]),
            energy_mj=found["energy_mj"],
            int8_mj=found.get("energy_mj_int8"),
            params=report["params"],
            time_steps=found["mean_time_steps"],
        )

    @property
    def correct(self) -> Masks:
        """Correct predictions, `[images]`."""
        return np.unpackbits(np.frombuffer(self.correct_mask, np.uint8), count=self.images).astype(bool)

    @property
    def energies_mj(self) -> tuple[float, float | None]:
        """Energy under the convention, and with the costs of 8-bit integers."""
        return self.energy_mj, self.int8_mj


def networks(report: dict[str, Any]) -> list[Compared]:
    """Return the networks of a report, the exported subnet first.

    Args:
        report: The content of `report.json`.
    """
    exported = report.get("weights", "inherited")
    found = [Compared.of(f"exported subnet ({exported})", "exported", report, report)]
    if "early_exit" in report:
        found.append(Compared.with_exits(report))
    for way, other in report.get("by_weights", {}).items():
        if way != exported:
            found.append(Compared.of(f"not exported ({way})", "fine-tuned", other, report))
    finalists = report.get("finalists", [])
    found += [Compared.of(f"finalist ({each['weights']})", "fine-tuned", each, each) for each in finalists]
    reference = report["baseline"]
    if reference:
        steps = reference.get("by_time_steps", [reference])
        found += [Compared.of("reference network", "reference", measured, reference) for measured in reversed(steps)]
    for rival in report.get("rivals", []):
        found.append(Compared.of(RIVAL_NAMES[rival["name"]], kind_of(rival["name"]), rival, rival))
    return found


def front(report: dict[str, Any]) -> list[Compared]:
    """Return the subnets that a search found, on the test split, by ascending energy; empty in reports of older versions.

    Fine-tuned networks replace the subnets with inherited weights that need as much energy as the cheapest of them or more.

    Args:
        report: The content of `report.json`.
    """
    inherited = [Compared.of("front", "exported", measured, measured) for measured in report.get("front", [])]
    if not inherited:
        return []
    finalists = [*({**report, **f, "weights": w} for w, f in report.get("by_weights", {}).items()), *report.get("finalists", [])]
    tuned = [Compared.of("front", "exported", each, each) for each in finalists if each["weights"] == "fine-tuned"]
    least = min((network.energy_mj for network in tuned), default=float("inf"))
    return [network for network in inherited if network.energy_mj < least] + sorted(tuned, key=lambda network: network.energy_mj)


def at_equal_accuracy(report: dict[str, Any], other: Compared) -> EqualAccuracy | None:
    """Return the energy of the front (`front`) at the accuracy of a network.

    Args:
        report: The content of `report.json`.
        other: The network.

    Returns:
        The comparison, or None if the report has no front, or is of a dense task.
    """
    subnets = front(report)
    if not subnets or not other.energy_mj or not other.correct_mask:
        return None
    masks = np.stack([subnet.correct for subnet in subnets])
    return energy_at_equal_accuracy(masks, [subnet.energy_mj for subnet in subnets], other.correct, other.energy_mj)


def table(report: dict[str, Any]) -> pd.DataFrame:
    """Return the comparison as a table for CSV.

    Args:
        report: The content of `report.json`.

    Returns:
        One row for each network, with accuracy, energy in mJ and uJ (also with 8-bit costs), size, and the energy of the front at
        equal accuracy divided by that of the network, with the ends of its 95 % interval; empty if the front is not as accurate.
    """
    rows = []
    for network in networks(report):
        equal = None if network.kind in ("exported", "early-exit", "fine-tuned") else at_equal_accuracy(report, network)
        rows.append(
            {
                "name": network.name,
                "kind": network.kind,
                "accuracy": network.accuracy,
                "images": network.images,
                "energy_mj": network.energy_mj,
                "energy_mj_int8": network.int8_mj,
                "params": network.params,
                "time_steps": network.time_steps,
                "front_ratio": equal and equal.ratio,
                "front_ratio_low": equal and equal.low,
                "front_ratio_high": equal and equal.high,
            }
        )
    numbers = ("energy_mj_int8", "front_ratio", "front_ratio_low", "front_ratio_high")
    return for_readers(pd.DataFrame(rows).astype(dict.fromkeys(numbers, float)))


def columns(report: dict[str, Any]) -> list[str]:
    """Return the columns of the closing table.

    Args:
        report: The content of `report.json`.
    """
    return ["", f"test {metric(report)} (95 %)", "uJ", "int8 uJ", "parameters", "T"]


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the closing table; its columns are those of `columns`.

    Args:
        report: The content of `report.json`.
    """
    return [_row(network) for network in networks(report)]


def _row(network: Compared) -> list[str]:
    low, high = network.interval
    accuracy = f"{network.accuracy:.4f} ({low:.3f} to {high:.3f})"
    energy, int8 = ("-" if mj is None else microjoules(mj, digits=3) for mj in network.energies_mj)
    return [network.name, accuracy, energy, int8, f"{network.params:,}", f"{network.time_steps:.3g}"]


def against_reference(report: dict[str, Any]) -> Comparison:
    """Compare the exported subnet with the reference network on the test images.

    Args:
        report: The content of `report.json` of a run with a reference network.

    Returns:
        As `compared` returns it; the subnet is the first network.
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
    """Return the lines below the table: energy and accuracy relative to the other networks.

    Args:
        report: The content of `report.json`.
    """
    found = f"{report['test_images']} test images, opened for this measurement only."
    reference = report["baseline"]
    if reference:
        ratio = report["energy_mj"] / reference["energy_mj"]
        found += (
            f" The subnet needs {ratio:.0%} of the energy of the reference network; its {metric(report)} is "
            f"{points(against_reference(report))}."
        )
    if any(network.int8_mj is not None for network in networks(report)):
        found += " int8: the same operations at 8-bit costs; the weights have 32 bits."
    lines = [_equal_accuracy(report, network) for network in networks(report) if _is_benchmark(network, report)]
    return "\n".join([found, *(line for line in lines if line)])


def _is_benchmark(network: Compared, report: dict[str, Any]) -> bool:
    """Whether a line compares the front with the network: the reference network at its own T, and networks without spikes."""
    is_reference = network.kind == "reference" and network.time_steps == report["baseline"]["time_steps"]
    return is_reference or network.kind in ("cnn", "vit")


def _equal_accuracy(report: dict[str, Any], network: Compared) -> str:
    """One line on the energy of the front at the accuracy of a network; empty if the report has no front."""
    equal = at_equal_accuracy(report, network)
    if equal is None:
        return ""
    prefix = f"At the accuracy of the {network.name} ({network.accuracy:.4f})"
    if equal.ratio is None:
        accuracy = f"the accuracy of the {network.name} ({network.accuracy:.4f})"
        return f"The front does not reach {accuracy}: its curve ends at {equal.highest:.4f}."
    at_most = "at most " if equal.is_bound else ""
    high = "not reached" if equal.high is None else f"{equal.high:.2f}"
    return f"{prefix}, the front needs {at_most}{equal.ratio:.2f} of its energy (95 % interval {equal.low:.2f} to {high})."


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
    return [*_at_chance(report), *_below_reference(report), *_below_rivals(report), *_rivals_ahead(networks(report))]


def _at_chance(report: dict[str, Any]) -> list[str]:
    """A line if the subnet is not significantly better than the constant prediction of the most frequent class."""
    share, images = report.get("most_frequent_class"), report["test_images"]
    if share is None or binomial_p_value_above(report["test_correct"], images, share) < SIGNIFICANCE:
        return []
    return [
        f"warning: the subnet has learned nothing: its accuracy ({report['test_accuracy']:.4f}) is not significantly above that of "
        f"always predicting the most frequent class ({share:.4f}; binomial test). Train longer (a larger --budget, or --set "
        "training.epochs=N), or with another --set training.learning_rate=R."
    ]


def _below_rivals(report: dict[str, Any]) -> list[str]:
    """A line if networks without spikes are significantly more accurate than the subnet."""
    if metric(report) != "accuracy":
        return []
    exported, *others = networks(report)
    ahead = []
    for rival in others:
        difference = PairedComparison.of(exported.correct_mask, rival.correct_mask, exported.images)
        if rival.kind in ("cnn", "vit") and difference.significantly_below:
            ahead.append(f"the {rival.name} ({rival.accuracy:.4f}, p = {difference.p_value_below:.2g})")
    if not ahead:
        return []
    return [
        f"warning: the accuracy of the subnet ({exported.accuracy:.4f}) is significantly below that of {' and '.join(ahead)}; "
        "McNemar test. Spiking networks need more steps of training: train longer (a larger --budget, or --set training.epochs=N)."
    ]


def _below_reference(report: dict[str, Any]) -> list[str]:
    if not report["baseline"]:
        return []
    found, difference, supernet = [], against_reference(report), report.get("supernet")
    if difference.significantly_below:
        test = "McNemar test" if metric(report) == "accuracy" else f"{metric(report)}, jackknife"
        found.append(
            f"warning: the {metric(report)} of the subnet is significantly below that of the reference network ({test}, p = "
            f"{difference.p_value_below:.2g}). Train longer, or select with --pick best-accuracy."
        )
    if supernet and supernet["under_trained"]:
        found.append(
            f"warning: the supernet looks under-trained: its largest subnet reaches {supernet['largest_accuracy']:.4f} on the "
            f"search split, the reference network {supernet['reference_accuracy']:.4f}. Train for more epochs "
            "(--set training.epochs=N)."
        )
    return found


def _rivals_ahead(compared: Sequence[Compared]) -> list[str]:
    """A line for each network without spikes that is at least as accurate as the exported subnet at less energy."""
    exported, found = compared[0], []
    for rival in compared:
        if rival.kind not in ("cnn", "vit") or rival.accuracy < exported.accuracy:
            continue
        names = ("", " with 8-bit integers")
        pairs = zip(rival.energies_mj, exported.energies_mj, names, strict=True)
        less = [
            f"{mine * UJ_PER_MJ:.3g} against {theirs * UJ_PER_MJ:.3g} uJ{name}"
            for mine, theirs, name in pairs
            if mine is not None and theirs is not None and mine < theirs
        ]
        if less:
            found.append(
                f"note: the {rival.name}, without spikes, is at least as accurate ({rival.accuracy:.4f} against "
                f"{exported.accuracy:.4f}) and needs less energy under the same costs ({'; '.join(less)}). By these counts, a "
                "spiking network does not pay here."
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
