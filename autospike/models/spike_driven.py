"""Spike-driven Transformer (Yao et al., NeurIPS 2023): Spikformer's skeleton on membrane potentials.

    embedding:  as Spikformer's, but the fourth convolution pools membrane potentials and does not fire;
                position code x + BN(conv(LIF(x)))
    block:      x = x + SDSA-1(LIF(x));  x = x + MLP(LIF(x))
    head:       mean over positions, LIF, linear, mean over time

Every convolution and linear map but the first reads spikes. The event form pools inside the attention (`sdsa_1_dilated`).
"""

from __future__ import annotations

from autospike.models.spikformer import Spikformer


class SpikeDrivenTransformer(Spikformer):
    """A plain Spike-driven Transformer. All that differs from Spikformer follows from the architecture's membrane shortcuts."""
