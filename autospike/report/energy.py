"""Energy by layer, by convention and by T: the tables of `autospike energy`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from autospike.energy.conventions import CONVENTIONS, UJ_PER_MJ, Convention, energy
from autospike.energy.counts import LayerCount
from autospike.measurement import Measurement
from autospike.report.tables import WITHOUT

COLUMNS = ["layer", "input", "reads", "form", "time_steps", "dense_macs", "rate", "macs", "acs", "energy_mj", "share"]


def by_layer(counts: Sequence[LayerCount], convention: Convention) -> pd.DataFrame:
    """Return the energy of one image by layer, over all time steps.

    Args:
        counts: Operation counts of the layers.
        convention: Convention of the columns `macs`, `acs`, `energy_mj` and `share`.

    Returns:
        One row for each count. An operation that the convention does not include has zero energy. The columns are `COLUMNS`,
        where `dense_macs` is per time step and `rate` is the mean over the time steps; then `acs_1 ... acs_T` and
        `rate_1 ... rate_T`, the values of each time step; then `energy_mj_NAME` for every convention. Energies are in mJ.
    """
    total_mj = energy(counts, convention).energy_mj
    steps = range(1, math.ceil(max((count.time_steps for count in counts), default=0)) + 1)
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
    """Return the energy of one image under every convention.

    Args:
        counts: Operation counts of the layers.
        chosen: Convention of the first row.

    Returns:
        One row for each convention, with the columns `convention`, `source`, `macs`, `acs`, `energy_mj` and `ratio`, which is the
        energy divided by that of the first row, or None if that is zero.
    """
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
    """Return accuracy and energy by T.

    Args:
        measurements: Measurements of one model at T = 1, 2, 3, ...
        convention: Convention of the column `energy_mj`.

    Returns:
        One row for each T, with the columns `time_steps`, `accuracy`, `images`, `energy_mj` and, for every convention,
        `energy_mj_NAME`. Energies are in mJ. In a dense task the table has the column `report.tables.WITHOUT`.
    """
    rows = [
        {
            "time_steps": steps,
            "accuracy": measurement.accuracy,
            "images": measurement.images,
            **({} if measurement.score is None else {WITHOUT: measurement.score.without}),
            "energy_mj": measurement.energy(convention).energy_mj,
            **{f"energy_mj_{name}": measurement.energy(other).energy_mj for name, other in CONVENTIONS.items()},
        }
        for steps, measurement in enumerate(measurements, start=1)
    ]
    return pd.DataFrame(rows)


def microjoules(energy_mj: float, *, digits: int) -> str:
    """Format an energy in uJ.

    Args:
        energy_mj: Energy in mJ.
        digits: Significant digits of numbers below 10^`digits`; larger ones have all digits before the point.

    Returns:
        The number without its unit.
    """
    energy_uj = energy_mj * UJ_PER_MJ
    return f"{energy_uj:,.0f}" if energy_uj >= 10**digits else f"{energy_uj:.{digits}g}"


# Above this number of bars, their labels would overlap. The energies of layers are then added up by part of a block.
MAX_BARS = 48
BLOCK_PARTS = ("embedding", "token", "channel")


def bar_energies(table: pd.DataFrame) -> pd.Series[float]:
    """Return the energies to draw as bars.

    Args:
        table: Energy by layer, from `by_layer`.

    Returns:
        Energies in mJ that are greater than zero, indexed by layer, or by part of a block if there are more than `MAX_BARS`.
    """
    energies = table[table["energy_mj"] > 0].set_index("layer")["energy_mj"]
    if len(energies) <= MAX_BARS:
        return energies
    return energies.groupby(energies.index.map(_block_part), sort=False).sum()


def _block_part(layer: str) -> str:
    """Return `stages.0.blocks.3.token` for `stages.0.blocks.3.token.mixer.q.linear`."""
    words = layer.split(".")
    ends = [i for i, word in enumerate(words) if word in BLOCK_PARTS]
    return ".".join(words[: ends[0] + 1]) if ends else layer
