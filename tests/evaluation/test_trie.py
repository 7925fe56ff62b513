"""The trie of a population."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import architectures, few_examples
from hypothesis import given

from autospike.evaluation.trie import HEAD, Segment, Trie, segments
from autospike.models import build_model, build_segment
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride
from autospike.space.families import Shortcut

BLOCK = Block(num_heads=2, mlp_ratio=2)


def architecture_of(*blocks: Block, embed_dim: int = 16, stride: int = 4, neuron: Neuron = Neuron(), **fields: Any) -> Architecture:  # noqa: B008
    stage = Stage(embed_dim=embed_dim, embedding=Embedding(stride=stride, neuron=neuron), blocks=blocks or (BLOCK,))
    return Architecture(**{"time_steps": 2, "stages": (stage,), **fields})


def two_stages(*blocks: Block, family: str = "meta_spikeformer", shortcut: Shortcut = "membrane") -> Architecture:
    first = Stage(embed_dim=8, blocks=(Block(token_mixer="none", channel_mixer="conv", mlp_ratio=1.5),))
    return Architecture(family=family, shortcut=shortcut, stages=(first, Stage(embed_dim=16, blocks=blocks)))


def path(architecture: Architecture) -> tuple[str, ...]:
    return Trie([architecture]).paths[architecture]


def shared_nodes(one: Architecture, other: Architecture) -> int:
    """Return the number of nodes in the common prefix of two architectures."""
    common = [a == b for a, b in zip(path(one), path(other), strict=False)]
    return (*common, False).index(False)


def names(architecture: Architecture) -> list[str]:
    return [segment.name for segment in segments(architecture)]


def test_segments_of_a_spikformer() -> None:
    assert names(architecture_of(BLOCK, BLOCK)) == [
        "stages.0.embedding",
        "stages.0.blocks.0.token",
        "stages.0.blocks.0.channel",
        "stages.0.blocks.1.token",
        "stages.0.blocks.1.channel",
        "head",
    ]


def test_a_block_without_a_token_mixer_is_one_segment() -> None:
    assert names(two_stages(Block(token_mixer="sepconv", mlp_ratio=1))) == [
        "stages.0.embedding",
        "stages.0.blocks.0.channel",
        "stages.1.embedding",
        "stages.1.blocks.0.token",
        "stages.1.blocks.0.channel",
        "head",
    ]


def test_a_head_has_the_neurons_of_the_architecture() -> None:
    *_, head = segments(architecture_of())
    assert head == Segment(name=HEAD, genes=(Neuron(),))


def test_shared_prefixes_are_one_node() -> None:
    """One embedding, one token mixer, two channel mixers, a second block after the first one, three heads."""
    other = replace(BLOCK, mlp_ratio=1)
    trie = Trie([architecture_of(BLOCK), architecture_of(other), architecture_of(BLOCK, BLOCK)])
    assert sorted(node.name for node in trie.nodes.values()) == [
        *["head"] * 3,
        *["stages.0.blocks.0.channel"] * 2,
        "stages.0.blocks.0.token",
        "stages.0.blocks.1.channel",
        "stages.0.blocks.1.token",
        "stages.0.embedding",
    ]
    assert len(trie.roots) == 1


def test_a_shallower_network_is_a_prefix_of_a_deeper_one() -> None:
    assert shared_nodes(architecture_of(BLOCK), architecture_of(BLOCK, BLOCK, BLOCK)) == 3
    assert shared_nodes(architecture_of(BLOCK, BLOCK), architecture_of(BLOCK, BLOCK, BLOCK)) == 5


def test_time_steps_create_no_node() -> None:
    trie = Trie(architecture_of(time_steps=t) for t in (1, 2, 4))
    assert len(trie.nodes) == 4
    assert len(set(trie.paths.values())) == 1
    assert len(trie.paths) == 3


def test_equal_architectures_share_all_nodes() -> None:
    trie = Trie([architecture_of(), architecture_of()])
    assert (len(trie.nodes), len(trie.paths)) == (4, 1)


@given(one=architectures(), other=architectures())
@few_examples
def test_keys_are_the_same_in_every_trie(one: Architecture, other: Architecture) -> None:
    trie = Trie([other, one])
    assert trie.paths[one] == path(one)
    assert trie.paths[other] == path(other)
    assert set(trie.nodes) == {*path(one), *path(other)}
    assert all(key == node.key for key, node in trie.nodes.items())
    assert [trie.nodes[key].name for key in path(one)] == [segment.name for segment in segments(one)]


@given(one=architectures())
@few_examples
def test_the_architecture_of_a_node_has_its_prefix(one: Architecture) -> None:
    trie = Trie([one, replace(one, time_steps=17)])
    assert all(key in path(node.architecture) for key, node in trie.nodes.items())


DIFFERENT = {
    "shortcut": (architecture_of(shortcut="vanilla"), 0),
    "bias": (architecture_of(qkv_bias=True), 0),
    "scale": (architecture_of(attention_scale=0.25), 0),
    "two heads": (architecture_of(distilled=True), 0),
    "width": (architecture_of(embed_dim=32), 0),
    "stride": (architecture_of(stride=2), 0),
    "embedding threshold": (architecture_of(neuron=Neuron(v_threshold=1.1)), 0),
    "token mixer": (architecture_of(Block(token_mixer="sdsa_1", mlp_ratio=2)), 1),
    "attention heads": (architecture_of(replace(BLOCK, num_heads=4)), 1),
    "qkv": (architecture_of(replace(BLOCK, qkv="repconv")), 1),
    "threshold": (architecture_of(replace(BLOCK, neuron=Neuron(v_threshold=1.1))), 1),
    "tau of q": (architecture_of(replace(BLOCK, groups=NeuronGroups(q=NeuronOverride(tau=3)))), 1),
    "hidden width": (architecture_of(replace(BLOCK, mlp_ratio=3)), 2),
    "channel mixer": (architecture_of(replace(BLOCK, channel_mixer="conv")), 2),
    "threshold of fc1": (architecture_of(replace(BLOCK, groups=NeuronGroups(fc1=NeuronOverride(v_threshold=2)))), 2),
    "no difference": (architecture_of(), 4),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_architectures_share_the_nodes_before_their_first_difference(what: str) -> None:
    other, common = DIFFERENT[what]
    assert shared_nodes(architecture_of(), other) == common


def test_families_share_no_node() -> None:
    block = Block(token_mixer="sdsa_3", num_heads=2)
    stage = (Stage(embed_dim=8, embedding=Embedding(stride=2), blocks=(block,)),)
    ways = [path(Architecture(family=f, shortcut="sew", stages=stage)) for f in ("spikformer", "meta_spikeformer", "qkformer")]
    assert len({key for way in ways for key in way}) == 12


def test_a_redundant_neuron_override_creates_no_node() -> None:
    """Attention with half the threshold and the tau of the block."""
    groups = NeuronGroups(attention=NeuronOverride(v_threshold=0.5), q=NeuronOverride(v_threshold=1), fc2=NeuronOverride(tau=2))
    assert shared_nodes(architecture_of(), architecture_of(replace(BLOCK, groups=groups))) == 4


def test_a_neuron_that_every_group_overrides_creates_no_node() -> None:
    names = ("q", "k", "v", "attention", "projection", "fc1", "fc2")
    groups = NeuronGroups(**dict.fromkeys(names, NeuronOverride(v_threshold=1.0)))
    assert (
        shared_nodes(
            architecture_of(replace(BLOCK, groups=groups)),
            architecture_of(replace(BLOCK, groups=groups, neuron=Neuron(v_threshold=3))),
        )
        == 4
    )


def test_mlp_ratios_with_equal_hidden_width_share_all_nodes() -> None:
    """The hidden width is round(16 * 2.01) = 32."""
    assert shared_nodes(architecture_of(), architecture_of(replace(BLOCK, mlp_ratio=2.01))) == 4


def test_properties_of_nodes() -> None:
    trie = Trie([two_stages(Block(token_mixer="sepconv", mlp_ratio=1))])
    nodes = [trie.nodes[key] for key in next(iter(trie.paths.values()))]
    assert [node.is_inner for node in nodes] == [True, True, True, True, False, False]
    assert [node.ends_block for node in nodes] == [True, True, True, False, True, False]
    assert [node.module_prefix for node in nodes] == [*(node.name for node in nodes[:-1]), ""]
    assert nodes[-1].name == HEAD


@given(one=architectures())
@few_examples
def test_separately_built_segments_equal_those_of_the_model(one: Architecture) -> None:
    """The modules and the names and shapes of their parameters are equal."""
    size = {"num_classes": 3, "in_chans": 2}
    with torch.device("meta"):
        model = build_model(one, **size)
        parts = {s.name: build_segment(one, s.name, **size) for s in segments(one)}
    named = {"" if name == HEAD else f"{name}.": part for name, part in parts.items()}
    shapes = {prefix + name: p.shape for prefix, part in named.items() for name, p in part.named_parameters()}
    assert shapes == {name: p.shape for name, p in model.named_parameters()}
    for prefix, part in named.items():
        for name, inner in part.named_modules():
            if name or prefix:
                assert repr(inner) == repr(model.get_submodule((prefix + name).rstrip(".")))
