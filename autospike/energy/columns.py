"""Operation counts of several networks as arrays, from which their energies under any convention are computed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autospike.energy.conventions import MJ_PER_PJ, Convention
from autospike.energy.counts import Form, InputKind, LayerCount, Reads

Floats = NDArray[np.float64]

# What decides how a convention counts a layer: kind of input, form, source of the input, and number of time steps.
Kind = tuple[InputKind, Form, Reads, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Energies:
    """Energies of one image of several networks under a convention, over all time steps and layers; see `Energy`.

    Attributes:
        macs: Multiply-accumulates, `[N]`.
        acs: Accumulations, `[N]`.
        energy_mj: Energies in mJ, `[N]`.
    """

    macs: Floats
    acs: Floats
    energy_mj: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class CountColumns:
    """Operation counts of N networks, with one entry for each of the L layers of all networks.

    Attributes:
        networks: N.
        network: Index of the network of a layer, `[L]`.
        kinds: The different kinds of layers.
        kind: Index of the kind of a layer, `[L]`.
        macs: Dense multiply-accumulates of one time step, `[L]`.
        acs: Accumulations over all time steps, `[L]`.
        rate: Sum of the mean input values of all time steps, `[L]`.
    """

    networks: int
    network: NDArray[np.intp]
    kinds: tuple[Kind, ...]
    kind: NDArray[np.intp]
    macs: Floats
    acs: Floats
    rate: Floats

    @classmethod
    def of(cls, networks: Sequence[Sequence[LayerCount]]) -> CountColumns:
        """Convert operation counts to columns.

        Args:
            networks: Operation counts of the layers of each network.

        Returns:
            The columns.
        """
        counts = [count for network in networks for count in network]
        kinds: dict[Kind, int] = {}
        kind = [kinds.setdefault((c.input, c.form, c.reads, c.time_steps), len(kinds)) for c in counts]
        return cls(
            networks=len(networks),
            network=np.repeat(np.arange(len(networks)), [len(network) for network in networks]),
            kinds=tuple(kinds),
            kind=np.array(kind, dtype=np.intp),
            macs=np.array([count.macs for count in counts], dtype=float),
            acs=np.array([sum(count.acs) for count in counts], dtype=float),
            rate=np.array([sum(count.rate) for count in counts], dtype=float),
        )

    def energies(self, convention: Convention) -> Energies:
        """Compute the energy of one image of each network, as `autospike.energy.conventions.energy` does for one network.

        Args:
            convention: The convention.

        Returns:
            The energies, with the operations that the convention counts.
        """
        # What a convention counts of a layer is linear in each of the three columns. Its factors are those of a layer of one.
        per_mac, per_ac, per_rate = np.array([_factors(kind, convention) for kind in self.kinds]).reshape(-1, 3)[self.kind].T
        macs = self._totals(per_mac * self.macs)
        acs = self._totals(per_ac * self.acs + per_rate * self.macs * self.rate)
        costs = convention.costs
        return Energies(macs=macs, acs=acs, energy_mj=(costs.pj_per_mac * macs + costs.pj_per_ac * acs) * MJ_PER_PJ)

    def _totals(self, values: Floats) -> Floats:
        """Add the values of the layers of each network, in the order of the layers."""
        return np.bincount(self.network, values, minlength=self.networks).astype(float)


def _factors(kind: Kind, convention: Convention) -> tuple[float, float, float]:
    """The factors of dense MACs, of accumulations, and of dense MACs times rate, in the operations that a convention counts."""
    source, form, reads, time_steps = kind

    def unit(acs: float, rate: float) -> LayerCount:
        return LayerCount(layer="", input=source, form=form, reads=reads, time_steps=time_steps, macs=1, acs=(acs,), rate=(rate,))

    return convention.macs(unit(0, 0)), convention.acs(unit(1, 0)), convention.acs(unit(0, 1))
