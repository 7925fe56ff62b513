"""Where energy goes: by layer, by convention, by T. The numbers behind `autospike energy`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from autospike.energy.conventions import CONVENTIONS, Convention, energy
from autospike.energy.counts import LayerCount
from autospike.measurement import Measurement

COLUMNS = ["layer", "input", "reads", "form", "time_steps", "dense_macs", "rate", "macs", "acs", "energy_mj", "share"]


def by_layer(counts: Sequence[LayerCount], convention: Convention) -> pd.DataFrame:
    """A row for each operation, of one image over all steps. What is of a form that the convention does not take needs nothing.

    Columns: `COLUMNS`, of which `dense_macs` are per step, `rate` is the mean over the steps, and `macs, acs, energy_mj, share` are
    under the convention; then `acs_1 ... acs_T` and `rate_1 ... rate_T`, the counts of each step; then `energy_mj_NAME`.
    """
    total_mj = energy(counts, convention).energy_mj
    steps = range(1, max((count.time_steps for count in counts), default=0) + 1)
    numbered = [f"{name}_{t}" for name in ("acs", "rate") for t in steps]
    return pd.DataFrame(
        [_row(count, convention, total_mj) for count in counts],
        columns=[*COLUMNS, *numbered, *(f"energy_mj_{name}" for name in CONVENTIONS)],
    )


def _row(count: LayerCount, convention: Convention, total_mj: float) -> dict[str, object]:
    energy_mj = convention.energy_mj(count)
    return {
        "layer": count.layer,
        "input": count.input,
        "reads": count.reads,
        "form": count.form,
        "time_steps": count.time_steps,
        "dense_macs": count.macs,
        "rate": sum(count.rate) / len(count.rate) if count.input != "real" else None,
        "macs": convention.macs(count),
        "acs": convention.acs(count),
        "energy_mj": energy_mj,
        "share": energy_mj / total_mj if total_mj else 0.0,
        **{f"acs_{t}": acs for t, acs in enumerate(count.acs, start=1)},
        **{f"rate_{t}": rate for t, rate in enumerate(count.rate, start=1)},
        **{f"energy_mj_{name}": other.energy_mj(count) for name, other in CONVENTIONS.items()},
    }


def by_convention(counts: Sequence[LayerCount], chosen: Convention) -> pd.DataFrame:
    """A row for each convention: `convention, source, macs, acs, energy_mj`, and `ratio` to the chosen one, which comes first."""
    conventions = [chosen, *(c for name, c in CONVENTIONS.items() if name != chosen.name)]
    totals = [energy(counts, convention) for convention in conventions]
    rows = [
        {
            "convention": convention.name,
            "source": convention.source,
            "macs": total.macs,
            "acs": total.acs,
            "energy_mj": total.energy_mj,
            "ratio": total.energy_mj / totals[0].energy_mj if totals[0].energy_mj else None,
        }
        for convention, total in zip(conventions, totals, strict=True)
    ]
    return pd.DataFrame(rows)


def by_time_steps(measurements: Sequence[Measurement], convention: Convention) -> pd.DataFrame:
    """A row for each T from 1: `time_steps, accuracy, energy_mj`, and `energy_mj_NAME` under every convention."""
    rows = [
        {
            "time_steps": steps,
            "accuracy": measurement.accuracy,
            "energy_mj": measurement.energy(convention).energy_mj,
            **{f"energy_mj_{name}": measurement.energy(other).energy_mj for name, other in CONVENTIONS.items()},
        }
        for steps, measurement in enumerate(measurements, start=1)
    ]
    return pd.DataFrame(rows)


# A chart of more bars than this adds layers up by their parts of a block.
BARS = 48
PARTS = ("embedding", "token", "channel")


def bars(table: pd.DataFrame) -> pd.Series[float]:
    """`energy_mj` of layers that need any, from `by_layer`; by parts of blocks, where layers are many."""
    energies = table[table["energy_mj"] > 0].set_index("layer")["energy_mj"]
    if len(energies) <= BARS:
        return energies
    return energies.groupby(energies.index.map(_part), sort=False).sum()


def _part(layer: str) -> str:
    """`stages.0.blocks.3.token` of `stages.0.blocks.3.token.mixer.q.linear`."""
    words = layer.split(".")
    ends = [i for i, word in enumerate(words) if word in PARTS]
    return ".".join(words[: ends[0] + 1]) if ends else layer
