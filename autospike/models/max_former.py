"""Max-Former (Fang et al., NeurIPS 2025): max-pools in the embeddings and depthwise convolutions in the early stages.

    embedding:  Embed_Orig in the first stage, Embed_Max in the others (`autospike.nn.embeddings`)
    block:      x = x + BN(depthwise(LIF(x)))   or   x + SSA(LIF(x))   or nothing;   x = x + MLP(LIF(x))
    head:       mean over positions, LIF, linear, mean over time

Spiking neurons are low-pass filters; max-pools and depthwise convolutions restore high frequencies. The published ImageNet networks
have three stages at strides 4, 2, 2 with kernels of 7 and 5, and attention in the last stage.
"""

from __future__ import annotations

from torch import nn

from autospike.models.contract import SpikingModel
from autospike.nn.embeddings import EMBEDDING_KINDS
from autospike.space.architecture import Architecture


class MaxFormer(SpikingModel):
    """Max-Former."""

    @staticmethod
    def embedding(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
        """Build the embedding of a stage; see `SpikingModel.embedding`."""
        kind = "embed_max" if index else "embed_orig"
        return EMBEDDING_KINDS[kind](architecture, index, in_channels)
