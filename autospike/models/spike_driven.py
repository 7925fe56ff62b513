"""Spike-driven Transformer (Yao et al., NeurIPS 2023): the layout of Spikformer with membrane shortcuts.

    embedding:  as Spikformer's, but no neurons follow the fourth convolution, and its output is pooled;
                position embedding x + BN(conv(LIF(x)))
    block:      x = x + SDSA-1(LIF(x));  x = x + MLP(LIF(x))
    head:       mean over positions, LIF, linear, mean over time

Every convolution and linear layer but the first reads spikes. The event form pools inside the attention (`sdsa_1_dilated`).
"""

from __future__ import annotations

from autospike.models.spikformer import Spikformer


class SpikeDrivenTransformer(Spikformer):
    """Spike-driven Transformer. Its differences to Spikformer follow from the membrane shortcuts of its architectures."""
