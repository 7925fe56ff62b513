"""How often a spiking network may fire before a quantised network of equally many levels needs less energy.

T steps of spikes tell T + 1 levels apart, as many as an activation of b = ceil(log2(T + 1)) bits. The quantised twin has the same
layers, and runs each once. (Yan, Bai, Tang and Wong, "Reconsidering the energy efficiency of spiking neural networks inference",
arXiv 2409.08290.) With s the firing rate, averaged over dense operations, both need the same energy where

    computing alone      T s E_AC = E_MAC                                       s = k / T,  k = E_MAC / E_AC
    with data movement   T s (E_event + E_acc) = b (E_bit + E_acc)              s = b (E_bit + E_acc) / (T (E_event + E_acc))

k is that of the convention's costs: the twin's multiplications are taken to cost what the network's would. At b bits they cost
less, which lowers the first line's rate.

| symbol  | meaning                                                                | value              |
|---------|------------------------------------------------------------------------|--------------------|
| E_event | moving one spike with its address, per hop (Loihi's, as cited there)    | 3.0 pJ             |
| E_bit   | moving one bit of a dense activation, per hop                           | 0.25 pJ            |
| E_acc   | one addition of small integers, 22 nm                                   | 0.05448 pJ         |

The second line is **our reduction** of the paper's model: one hop, a multiplication by b bits as b additions, weights read for
free, no zeros in the quantised network. At T = 5 it gives 6.0 %, the paper's whole model 5.7 % (4-bit weights, a fan-in of 4096).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autospike.energy.conventions import FP32, RATE, Costs
from autospike.energy.counts import LayerCount

PJ_PER_EVENT = 3.0
PJ_PER_BIT = 0.25
PJ_PER_ADDITION = 0.05448


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Rates are fractions; `measured_rate` is averaged over the dense operations of all layers that read spikes or sums of them."""

    time_steps: int
    bits: int
    measured_rate: float
    computing_rate: float
    movement_rate: float


def break_even(counts: Sequence[LayerCount], *, costs: Costs = FP32) -> BreakEven | None:
    """The firing rates below which a network needs less than its quantised twin; None where no layer reads spikes."""
    spiking = [count for count in counts if RATE.takes(count) and count.input != "real"]
    dense = sum(count.macs * count.time_steps for count in spiking)
    if not dense:
        return None
    steps = max(count.time_steps for count in spiking)
    bits = math.ceil(math.log2(steps + 1))
    return BreakEven(
        time_steps=steps,
        bits=bits,
        measured_rate=sum(map(RATE.acs, spiking)) / dense,
        computing_rate=costs.pj_per_mac / costs.pj_per_ac / steps,
        movement_rate=bits * (PJ_PER_BIT + PJ_PER_ADDITION) / (steps * (PJ_PER_EVENT + PJ_PER_ADDITION)),
    )
