"""Numbers of parameters by arithmetic equal those of the networks that are built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import architectures, few_examples
from hypothesis import given

from autospike.models import build_model
from autospike.space.architecture import Architecture
from autospike.space.parameters import count_parameters, largest_activation, largest_parameters
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def built(architecture: Architecture, num_classes: int, in_chans: int) -> int:
    with torch.device("meta"):
        model = build_model(architecture, num_classes=num_classes, in_chans=in_chans)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    p = PUBLISHED[name]
    counted = count_parameters(p.architecture, num_classes=p.num_classes, in_chans=p.in_chans)
    assert counted == built(p.architecture, p.num_classes, p.in_chans)


@few_examples
@given(architectures())
def test_any_architecture(architecture: Architecture) -> None:
    assert count_parameters(architecture, num_classes=7, in_chans=2) == built(architecture, 7, 2)


@pytest.mark.parametrize("token_mixer", ["none", "sdsa_3", "dwc_3", "spiking_sepconv_3", "e_sdsa"])
@pytest.mark.parametrize("channel_mixer", ["mlp", "conv", "mlp_residual", "replinear", "none"])
def test_layer_scales_and_biases_of_every_mixer(token_mixer: str, channel_mixer: str) -> None:
    if (token_mixer, channel_mixer) == ("none", "none"):
        return  # not a block
    block = {"token_mixer": token_mixer, "channel_mixer": channel_mixer, "layer_scale": True}
    stages = [{"embed_dim": 24, "blocks": [block]}, {"embed_dim": 15, "blocks": []}]
    settings = {"family": "e_spikeformer", "shortcut": "membrane", "conv_bias": True, "mean_head": True, "distilled": True}
    architecture = Architecture.from_dict({**settings, "stages": stages})
    assert count_parameters(architecture, num_classes=7, in_chans=2) == built(architecture, 7, 2)
    space = SearchSpace.of(architecture)
    largest = largest_parameters(space, compact=False, qkv_bias=False, conv_bias=True)
    assert largest == count_parameters(architecture)


@pytest.mark.parametrize("path", SPACES, ids=[path.stem for path in SPACES])
def test_no_subnet_of_a_space_has_more_parameters(path: Path) -> None:
    space = SearchSpace.load(path)
    largest = largest_parameters(space, compact=space.compact_embedding, qkv_bias=space.qkv_bias, conv_bias=space.conv_bias)
    assert largest >= max(count_parameters(architecture) for architecture in space.cover())


def test_a_space_without_names_has_its_largest_architecture_as_largest_subnet() -> None:
    stage = {"embed_dim": [8, 16], "embedding": {"stride": 4}, "depth": [1, 3], "block": {"num_heads": [1, 2], "mlp_ratio": [1, 3]}}
    space = SearchSpace.from_dict({"stages": [stage]})
    assert largest_parameters(space, compact=False, qkv_bias=False, conv_bias=False) == built(space.largest(), 0, 3)


def test_the_largest_activation_is_by_hand() -> None:
    """2 steps of 3 images of 9 pixels: 5 x 5 x 8 after the first stage, 3 x 3 x 16 after the second."""
    stages = [{"embed_dim": width, "embedding": {"stride": 2}, "blocks": [{"num_heads": 1}]} for width in (8, 16)]
    architecture = Architecture.from_dict({"family": "meta_spikeformer", "shortcut": "membrane", "time_steps": 2, "stages": stages})
    assert largest_activation(architecture, image_size=9, images=3) == 2 * 3 * 5 * 5 * 8
