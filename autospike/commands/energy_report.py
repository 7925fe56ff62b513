"""What `autospike energy` prints and writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from autospike import files
from autospike.console import note, short, table
from autospike.energy.conventions import FP32, SRAM, Convention
from autospike.energy.counts import to_rows
from autospike.energy.quantised import BreakEven, break_even
from autospike.evaluation.single import Pass
from autospike.report import figures
from autospike.report.energy import bars, by_convention, by_layer, by_time_steps

# Words of a layer's path that tell nothing to a person.
UNTOLD = {"stages", "mixer", "operator", "product", "linear", "conv"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The tables of one measurement, under one convention."""

    found: Pass
    convention: Convention
    model: str
    split: str
    layers: pd.DataFrame
    totals: pd.DataFrame
    curve: pd.DataFrame | None
    even: BreakEven | None

    @classmethod
    def of(cls, found: Pass, convention: Convention, *, model: str, split: str, curve: bool) -> Report:
        counts = found.operations.counts
        scores = [found.score(steps) for steps in range(1, len(found.correct) + 1)]
        return cls(
            found=found,
            convention=convention,
            model=model,
            split=split,
            layers=by_layer(counts, convention),
            totals=by_convention(counts, convention),
            curve=by_time_steps(scores, convention) if curve else None,
            even=break_even(counts, costs=FP32 if convention.costs == SRAM else convention.costs),
        )

    @property
    def dense_macs(self) -> int:
        """Of one step, in the forms that the convention takes."""
        return sum(count.macs for count in self.found.operations.counts if self.convention.takes(count))

    def show(self) -> None:
        operations, title = self.found.operations, f"`{self.convention.name}`: {self.convention.source}"
        scale, unit = (1, "mJ") if self.totals["energy_mj"][0] >= 1 else (1000, "uJ")
        by_count = zip(self.layers.to_dict("records"), operations.counts, strict=True)
        taken = [row for row, count in by_count if self.convention.takes(count)]
        table(
            f"{self.model}: one image, mean over {operations.images} of the {self.split} split",
            ["layer", "input", "rate", "dense/step", "ACs", unit, "share"],
            [_layer(row, scale) for row in taken],
            f"under {title}",
        )
        table(
            "Totals under every convention",
            ["convention", "MACs", "ACs", unit, "ratio"],
            [_total(row, scale) for row in self.totals.to_dict("records")],
            "counted by none: " + "; ".join(f"{n} x {reason}" for reason, n in operations.free.items()),
        )
        note(_in_words(self.even))
        if self.curve is not None:
            rows = [_step(row, scale) for row in self.curve.to_dict("records")]
            table("Accuracy and energy over T", ["T", "accuracy", unit], rows, "of one run: a network is causal in time")

    def write(self, out: Path, *, data: str, knows_classes: bool) -> None:
        """Every file of this report, and no curve of an earlier one."""
        title = f"{self.model}, `{self.convention.name}`"
        files.write_text(out / "layers.csv", self.layers.to_csv(index=False))
        files.write_text(out / "totals.csv", self.totals.to_csv(index=False))
        files.write_json(out / "energy.json", self._json(data, knows_classes))
        figures.save(figures.energy_by_layer(bars(self.layers), title), out / "layers.png")
        if self.curve is None:
            for name in ("curve.csv", "curve.png"):
                (out / name).unlink(missing_ok=True)
        else:
            files.write_text(out / "curve.csv", self.curve.to_csv(index=False))
            figures.save(figures.energy_curve(self.curve, title), out / "curve.png")
        note(f"energy: see {out}")

    def _json(self, data: str, knows_classes: bool) -> dict[str, Any]:
        operations, steps = self.found.operations, len(self.found.correct)
        return {
            "model": self.model,
            "data": data,
            "split": self.split,
            "images": operations.images,
            "time_steps": steps,
            "accuracy": self.found.score(steps).accuracy if knows_classes else None,
            "convention": self.convention.name,
            "pj_per_mac": self.convention.costs.pj_per_mac,
            "pj_per_ac": self.convention.costs.pj_per_ac,
            "totals": self.totals.to_dict("records"),
            "break_even": asdict(self.even) if self.even else None,
            "free": dict(operations.free),
            "unknown": dict(operations.unknown),
            "layers": to_rows(operations.counts),
        }


def _layer(row: Any, scale: float) -> list[str]:
    name = ".".join(word for word in row["layer"].split(".") if word not in UNTOLD)
    rate = "real" if row["input"] == "real" else f"{row['rate']:.4f}"
    energy = f"{row['energy_mj'] * scale:.3g}"
    return [name, row["input"], rate, short(row["dense_macs"]), short(row["acs"]), energy, f"{row['share']:.1%}"]


def _total(row: Any, scale: float) -> list[str]:
    ratio = f"{row['ratio']:.3f}" if row["ratio"] is not None else ""
    return [row["convention"], short(row["macs"]), short(row["acs"]), f"{row['energy_mj'] * scale:.4g}", ratio]


def _step(row: Any, scale: float) -> list[str]:
    return [str(row["time_steps"]), f"{row['accuracy']:.4f}", f"{row['energy_mj'] * scale:.4g}"]


def _in_words(found: BreakEven | None) -> str:
    if found is None:
        return "no layer reads spikes, so there is no firing rate to break even"
    return (
        f"firing rate {found.measured_rate:.1%}, mean over dense operations; a quantised twin of {found.bits} bits (as many levels "
        f"as T = {found.time_steps} steps) breaks even at {found.computing_rate:.0%} for computing alone, at "
        f"{found.movement_rate:.1%} with data movement (arXiv 2409.08290, reduced: docs/energy.md)"
    )
