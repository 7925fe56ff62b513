"""Small random state dicts with the keys of the published code, for tests that need no reference outputs."""

from __future__ import annotations

import torch
from torch import Tensor


def spikformer_cifar(*, width: int = 16, classes: int = 10) -> dict[str, Tensor]:
    """The CIFAR form of Spikformer with one block."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def normalisation(name: str, channels: int) -> None:
        state[f"{name}.weight"], state[f"{name}.running_var"] = torch.ones(channels), torch.ones(channels)
        state[f"{name}.bias"], state[f"{name}.running_mean"] = torch.zeros(channels), torch.zeros(channels)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    widths = (3, width // 8, width // 4, width // 2, width)
    for i, number in enumerate(("", "1", "2", "3")):
        shape = (widths[i + 1], widths[i], 3, 3)
        state[f"patch_embed.proj_conv{number}.weight"] = torch.randn(shape, generator=generator)
        normalisation(f"patch_embed.proj_bn{number}", widths[i + 1])
    state["patch_embed.rpe_conv.weight"] = torch.randn((width, width, 3, 3), generator=generator)
    normalisation("patch_embed.rpe_bn", width)
    layers = dict.fromkeys(("attn.q", "attn.k", "attn.v", "attn.proj"), (width, width))
    for name, (outputs, inputs) in {**layers, "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}.items():
        state[f"block.0.{name}_linear.weight"] = torch.randn((outputs, inputs), generator=generator)
        state[f"block.0.{name}_linear.bias"] = torch.zeros(outputs)
        normalisation(f"block.0.{name}_bn", outputs)
    state["head.weight"] = torch.randn((classes, width), generator=generator)
    state["head.bias"] = torch.zeros(classes)
    return state
