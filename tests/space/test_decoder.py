"""Decoders of architectures and search spaces: canonical form, genes, and errors of one line."""

from __future__ import annotations

from typing import Any

import pytest

from autospike.errors import UserError
from autospike.space.architecture import Architecture
from autospike.space.parameters import count_parameters
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace

STAGES = [{"embed_dim": 8, "embedding": {"stride": 2}, "depth": 1}, {"embed_dim": 16, "embedding": {"stride": 2}, "depth": 1}]
DECODER = {"levels": [0, 1], "channels": [4, 8], "head_channels": 4, "neuron": {"v_threshold": [0.5, 1.0]}}


def space(**changes: Any) -> SearchSpace:
    decoder = {**DECODER, **changes}
    return SearchSpace.from_dict({"family": "meta_spikeformer", "shortcut": "membrane", "stages": STAGES, "decoder": decoder})


@pytest.mark.parametrize(("name", "millions"), [("15m", 34.86), ("55m", 75.01)])
def test_published_detectors_have_the_published_size(name: str, millions: float) -> None:
    published = PUBLISHED[f"meta_spikeformer_{name}_mask_rcnn"]
    assert round(count_parameters(published.architecture, num_classes=80) / 1e6, 2) == millions


def test_settings_of_detectors_leave_other_ids_alone() -> None:
    """The fields that only Mask R-CNN has are not written for Semantic FPN, and not for their default values."""
    architecture = space(kind="mask-rcnn", anchor_scale=4, proposals=1000).largest()
    assert architecture.to_dict()["decoder"].keys() == {
        "kind",
        "spiking",
        "levels",
        "channels",
        "head_channels",
        "neuron",
        "anchor_scale",
    }
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert not {"anchor_scale", "proposals", "level_strides"} & space().largest().to_dict()["decoder"].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proposals": 50}, "decoder.proposals: has no effect with kind semantic-fpn"),
        ({"kind": "mask-rcnn", "proposals": 0}, "decoder.proposals must be from 1"),
        ({"kind": "mask-rcnn", "anchor_scale": 0.0}, "decoder.anchor_scale must be above 0"),
        ({"kind": "mask-rcnn", "level_strides": "false"}, "level_strides"),
    ],
)
def test_settings_of_detectors_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        space(**changes)


@pytest.mark.parametrize(("name", "millions"), [("15m", 16.47), ("55m", 58.99)])
def test_published_segmentation_networks_have_the_published_size(name: str, millions: float) -> None:
    published = PUBLISHED[f"meta_spikeformer_{name}_semantic_fpn"]
    assert round(count_parameters(published.architecture, num_classes=150) / 1e6, 2) == millions


def test_widths_and_thresholds_are_genes() -> None:
    found = space()
    assert found.size() == 4
    genes = {path.path for path in found.genes(found.largest()) if path.path[0] == "decoder"}
    expected = {("channels",), ("head_channels",), ("neuron", "v_threshold"), ("neuron", "tau")}
    assert genes == {("decoder", *path) for path in expected}
    assert found.largest().decoder.channels == 8 and found.smallest().decoder.channels == 4


def test_the_canonical_form_is_read_back() -> None:
    architecture = space().largest()
    assert Architecture.from_json(architecture.to_json()) == architecture
    alone = SearchSpace.of(architecture)
    assert (alone.size(), alone.largest(), alone.contains(architecture)) == (1, architecture, True)


def test_an_architecture_without_decoder_is_outside() -> None:
    fields = space().largest().to_dict()
    del fields["decoder"]
    without = Architecture.from_dict(fields)
    assert not space().contains(without)
    assert "decoder" not in without.to_json()
    assert not SearchSpace.of(without).contains(space().largest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [0]}, "two or more indices"),
        ({"levels": [1, 0]}, "ascending order"),
        ({"levels": [0, 2]}, "the last one must be the last stage, 1"),
        ({"channels": 0}, "decoder.channels must be at least 1"),
        ({"spiking": False}, "spiking: false has no neurons"),
        ({"kind": "unet"}, "kind"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        space(**changes)
    assert "\n" not in str(error.value)
