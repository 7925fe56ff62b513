"""Mixed precision: linear maps, convolutions and products of attention in bfloat16, by torch's autocast.

Parameters, their updates, normalisation statistics, membrane potentials and the loss stay in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autospike.supernet import Logits
from autospike.training.step import Network


def in_bfloat16(network: Network, device: torch.device) -> Network:
    """A network that computes so; its logits are float32 again."""

    def autocast(*inputs: Any, **options: Any) -> list[Logits]:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            answers = network(*inputs, **options)
        return [_wide(logits) for logits in answers]

    return autocast


def _wide(logits: Logits) -> Logits:
    return logits.float() if isinstance(logits, Tensor) else (logits[0].float(), logits[1].float())
