"""Firing rate above which a spiking network needs more energy than an equivalent quantised network.

T time steps of spikes distinguish T + 1 levels, as many as an activation of b = ceil(log2(T + 1)) bits. The equivalent quantised
network has the same layers, activations of b bits, and runs each layer once (Yan, Bai, Tang and Wong, "Reconsidering the energy
efficiency of spiking neural networks inference", arXiv 2409.08290). With s the firing rate, averaged over dense operations, both
networks need the same energy at

    computing alone      T s E_AC = E_MAC                                       s = E_MAC / (T E_AC)
    with data movement   T s (E_event + E_acc) = b (E_bit + E_acc)              s = b (E_bit + E_acc) / (T (E_event + E_acc))

E_MAC and E_AC are the costs of the convention. A multiplication by b bits would cost less, which lowers the first rate.

| symbol  | meaning                                                                | value              |
|---------|------------------------------------------------------------------------|--------------------|
| E_event | moving one spike with its address, per hop (Loihi, as cited there)     | 3.0 pJ             |
| E_bit   | moving one bit of a dense activation, per hop                           | 0.25 pJ            |
| E_acc   | one addition of small integers, 22 nm                                   | 0.05448 pJ         |

The second equation is a **simplification** of the paper's model: one hop, a multiplication by b bits counted as b additions, no
cost for reading weights, no zeros in the quantised network. At T = 5 it gives 6.0 %; the complete model of the paper gives 5.7 %
(4-bit weights, a fan-in of 4096).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autospike.energy.conventions import FP32, RATE, Costs
from autospike.energy.counts import LayerCount

# From the paper; see the table above.
PJ_PER_EVENT = 3.0
PJ_PER_BIT = 0.25
PJ_PER_ADDITION = 0.05448


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Measured firing rate of a network and its break-even rates, as spikes per input value and time step.

    Attributes:
        time_steps: T of the network.
        bits: Bits of the activations of the equivalent quantised network.
        measured_rate: Mean input value of all layers that read spikes or sums of spikes, weighted by their dense operations.
        computing_rate: Break-even rate for computing alone.
        movement_rate: Break-even rate with data movement.
    """

    time_steps: int
    bits: int
    measured_rate: float
    computing_rate: float
    movement_rate: float


def break_even(counts: Sequence[LayerCount], *, costs: Costs = FP32) -> BreakEven | None:
    """Compute the firing rates below which a network needs less energy than an equivalent quantised network.

    Args:
        counts: Operation counts of the network.
        costs: Cost of a MAC and of an accumulation.

    Returns:
        The measured rate and the break-even rates; None if no layer reads spikes.
    """
    spiking = [count for count in counts if RATE.includes(count) and count.input != "real"]
    dense = sum(count.macs * count.time_steps for count in spiking)
    if not dense:
        return None
    steps = math.ceil(max(count.time_steps for count in spiking))
    bits = math.ceil(math.log2(steps + 1))
    return BreakEven(
        time_steps=steps,
        bits=bits,
        measured_rate=sum(map(RATE.acs, spiking)) / dense,
        computing_rate=costs.pj_per_mac / costs.pj_per_ac / steps,
        movement_rate=bits * (PJ_PER_BIT + PJ_PER_ADDITION) / (steps * (PJ_PER_EVENT + PJ_PER_ADDITION)),
    )
