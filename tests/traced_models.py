"""Small models for tests of tracers and exporters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron

NEURON = Neuron(v_threshold=0.3)
INTEGERS = Neuron(v_threshold=0.3, levels=4, normalised=True)


def block(token_mixer: str, **fields: Any) -> Block:
    return Block(token_mixer=token_mixer, mlp_ratio=2, neuron=NEURON, **fields)  # type: ignore[arg-type]


# Every token mixer, channel mixer, kind of synapse and shortcut in one of the families.
ARCHITECTURES = {
    "spikformer": ("sew", [block("sdsa_3", num_heads=2)]),
    "spike_driven": ("membrane", [block("sdsa_1"), block("sdsa_1_dilated", num_heads=2)]),
    "qkformer": ("sew", [block("token_qk", num_heads=2), block("channel_qk")]),
    "meta_spikeformer": (
        "membrane",
        [block("sepconv", channel_mixer="conv"), block("sdsa_4", num_heads=2, qkv="repconv"), block("sdsa_2")],
    ),
    "meta_spikeformer, vanilla": ("vanilla", [block("sdsa_3", num_heads=2)]),
    "e_spikeformer": (
        "membrane",
        [
            Block(token_mixer="spiking_sepconv_3", channel_mixer="none", neuron=INTEGERS),
            Block(token_mixer="e_sdsa", num_heads=2, mlp_ratio=2, neuron=INTEGERS),
        ],
    ),
    "e_spikeformer, large": (
        "membrane",
        [
            Block(token_mixer="none", channel_mixer="replinear", neuron=INTEGERS),
            Block(
                num_heads=2, qkv="replinear", projection="replinear", layer_scale=True, neuron=replace(INTEGERS, integrates=False)
            ),
        ],
    ),
    "max_former": ("membrane", [block("dwc_3"), Block(num_heads=2, channel_mixer="mlp_residual", neuron=NEURON)]),
}


def architecture_of(name: str) -> Architecture:
    shortcut, blocks = ARCHITECTURES[name]
    stage = Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=tuple(blocks))
    large = name == "e_spikeformer, large"
    return Architecture(
        family=name.partition(",")[0],
        shortcut=shortcut,  # type: ignore[arg-type]
        time_steps=3,
        distilled=large,
        mean_head=large,
        stages=(stage,),
    )


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def firing_model(name: str) -> SpikingModel:
    """A model whose neurons fire, with statistics of a batch, in eval mode."""
    torch.manual_seed(0)
    model = build_model(architecture_of(name), num_classes=5, in_chans=3)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.split(".")[-2].endswith("bn"):
            nn.init.normal_(parameter, 1 if parameter_name.endswith("weight") else 0.4, 0.5)
    for _ in range(20):
        model(images(16))
    return model.eval()
