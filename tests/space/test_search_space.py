"""Search spaces: sizes, membership, extremes, covers, visits of genes, and one-line errors of invalid files."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import (
    CHOICES,
    CONDITIONAL,
    POSITIONS,
    RANGES,
    SPACE_DICTS,
    architectures,
    edited,
    effective_genes,
    few_examples,
    fields_without_effect,
    is_unvisited,
    leaves,
    one_line_error,
    permits,
)
from hypothesis import given
from hypothesis import strategies as st

from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride
from autospike.space.genes import Choice, Gene, Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes

SMALL_5 = Path(__file__).parents[2] / "search_spaces" / "auto_spikformer_small_5.yaml"

TINY: dict[str, Any] = {
    "time_steps": [1, 3],
    "stages": [
        {
            "embed_dim": [8, 16],
            "embedding": {"stride": [2, 4]},
            "depth": [1, 2],
            "block": {"num_heads": [1, 2], "neuron": {"tau": [1.5, 2]}, "groups": {"fc2": {"v_threshold": 0.75}}},
        }
    ],
}


def tiny_architectures() -> list[Architecture]:
    """Return every member of TINY, enumerated by choices_with loops."""
    override = NeuronGroups(fc2=NeuronOverride(v_threshold=0.75))
    blocks = [Block(num_heads=heads, neuron=Neuron(tau=tau), groups=override) for heads in (1, 2) for tau in (1.5, 2)]
    chains = [chain for depth in (1, 2) for chain in itertools.product(blocks, repeat=depth)]
    return [
        Architecture(time_steps=steps, stages=(Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=chain),))
        for steps in (1, 3)
        for stride in (2, 4)
        for width in (8, 16)
        for chain in chains
    ]


def choices_with(path: str, value: object) -> dict[str, Any]:
    return edited(CHOICES, path, value)


def test_size_of_the_published_space() -> None:
    # The authors' "small_5": 4 widths, 5 numbers of steps, and in each block 3 ratios, 2 head counts, 8 thresholds, 3 taus.
    per_block = 3 * 2 * 8 * 3
    expected = 4 * 5 * sum(per_block**depth for depth in (2, 3, 4))
    assert expected == 8_659_768_320
    assert SearchSpace.load(SMALL_5).size() == expected


def test_size_by_enumeration() -> None:
    members = tiny_architectures()
    assert SearchSpace.from_dict(TINY).size() == len(set(members)) == len(members) == 2 * 2 * 2 * (4 + 16)


def test_size_counts_embedding_groups_and_positions() -> None:
    embedding, groups = 2 * 2 * 2, (3 * 2) ** 6
    block = 3 * 2 * (3 * 2) * groups
    assert SearchSpace.from_dict(CHOICES).size() == 3 * embedding * 2 * (block + block**2 + block**3)
    assert SearchSpace.from_dict(POSITIONS).size() == 2 * (2 + 2 * (2 * 2))


def test_an_exit_margin_counts_and_is_visited_where_an_image_can_stop_early() -> None:
    """TINY has T in (1, 3)."""
    space = SearchSpace.from_dict({**TINY, "exit_margin": [0.2, 0.6, 1]})
    assert space.size() == SearchSpace.from_dict(TINY).size() / 2 * (1 + 3)
    rng = random.Random(0)
    found = {(a.time_steps, a.exit_margin) for a in (space.sample(rng) for _ in range(200))}
    assert found == {(1, 1.0), (3, 0.2), (3, 0.6), (3, 1.0)}
    assert (space.largest().exit_margin, space.smallest().exit_margin) == (1.0, 1.0)
    early = replace(space.largest(), exit_margin=0.2)
    assert space.contains(early)
    assert not space.contains(replace(early, exit_margin=0.3))
    assert not space.contains(replace(early, time_steps=1))
    assert ("exit_margin",) in [found.path for found in space.genes(early)]
    assert ("exit_margin",) not in [found.path for found in space.genes(space.smallest())]
    assert SearchSpace.of(early).largest() == early


@pytest.mark.parametrize("margins", [[0.5, 1.5], [-0.1], "high"])
def test_exit_margins_are_between_0_and_1(margins: object) -> None:
    assert "exit_margin" in one_line_error(lambda: SearchSpace.from_dict({**TINY, "exit_margin": margins}))


def test_a_range_makes_the_space_infinite() -> None:
    assert SearchSpace.from_dict(RANGES).size() == math.inf


def test_samples_are_exactly_the_enumerated_members() -> None:
    space, rng = SearchSpace.from_dict(TINY), random.Random(0)
    assert {space.sample(rng) for _ in range(3000)} == set(tiny_architectures())


def test_contains_every_enumerated_member() -> None:
    space = SearchSpace.from_dict(TINY)
    assert all(space.contains(member) for member in tiny_architectures())


@few_examples
@given(st.sampled_from(sorted(SPACE_DICTS)), st.integers(0, 10**6))
def test_samples_are_permitted_by_the_space_dict(name: str, seed: int) -> None:
    space = SearchSpace.from_dict(SPACE_DICTS[name])
    sample = space.sample(random.Random(seed))
    assert permits(SPACE_DICTS[name], sample)
    assert space.contains(sample)


def test_samples_depend_only_on_the_generator() -> None:
    space = SearchSpace.from_dict(RANGES)
    assert [space.sample(random.Random(5)) for _ in range(2)] == [space.sample(random.Random(5))] * 2
    assert len({space.sample(random.Random(seed)) for seed in range(20)}) == 20


@few_examples
@given(st.floats(0.3, 4), st.floats(1e-7, 1e-3), st.integers(0, 10**6))
def test_samples_and_mutations_of_a_narrow_range_stay_inside(low: float, width: float, seed: int) -> None:
    gene, rng = Range(low=low, high=low + width, sigma=width), random.Random(seed)
    sample = gene.sample(rng)
    assert gene.low <= sample <= gene.high
    assert gene.low <= gene.mutate(sample, rng) <= gene.high


def small_5_member(width: int, steps: int, depth: int, heads: int, ratio: float) -> Architecture:
    """Return a member of "small_5" whose neurons have threshold 1 and tau 2."""
    block = Block(num_heads=heads, mlp_ratio=ratio, neuron=Neuron(v_threshold=1.0, tau=2.0))
    stage = Stage(embed_dim=width, embedding=Embedding(stride=4), blocks=(block,) * depth)
    return Architecture(time_steps=steps, qkv_bias=True, stages=(stage,))


def test_extremes_of_the_published_space() -> None:
    space = SearchSpace.load(SMALL_5)
    assert space.largest() == small_5_member(width=384, steps=6, depth=4, heads=12, ratio=4)
    assert space.smallest() == small_5_member(width=192, steps=2, depth=2, heads=6, ratio=3)


@pytest.mark.parametrize(
    ("space_dict", "expected"),
    [
        ([1.5, 3], 1.5),
        ([1.2, 2, 4], 2.0),
        ([3, 10], 3.0),
        ({"low": 1.5, "high": 3, "sigma": 1}, 2.0),
        ({"low": 2.5, "high": 3, "sigma": 1}, 2.5),
        ({"low": 1.2, "high": 1.5, "sigma": 1}, 1.5),
    ],
)
def test_extremes_have_the_tau_nearest_to_the_published_value(space_dict: object, expected: float) -> None:
    space = SearchSpace.from_dict(choices_with("stages.0.block.neuron.tau", space_dict))
    for extreme in (space.largest(), space.smallest()):
        assert {block.neuron.tau for block in extreme.stages[0].blocks} == {expected}


def test_extremes_of_a_space_with_choices_per_position() -> None:
    space = SearchSpace.from_dict(POSITIONS)
    deep = (Block(num_heads=2, mlp_ratio=1), Block(num_heads=8, mlp_ratio=3))
    assert space.largest() == Architecture(stages=(Stage(embed_dim=32, blocks=deep),))
    assert space.smallest() == Architecture(stages=(Stage(embed_dim=16, blocks=(Block(num_heads=1, mlp_ratio=1),)),))


@pytest.mark.parametrize("name", sorted(SPACE_DICTS))
def test_extremes_are_members(name: str) -> None:
    space = SearchSpace.from_dict(SPACE_DICTS[name])
    for extreme in (space.largest(), space.smallest()):
        assert permits(SPACE_DICTS[name], extreme)
        assert space.contains(extreme)


@few_examples
@given(architectures(), architectures())
def test_the_space_of_an_architecture_contains_only_that_architecture(architecture: Architecture, other: Architecture) -> None:
    space = SearchSpace.of(architecture)
    assert space.size() == 1
    assert space.sample(random.Random(0)) == space.largest() == space.smallest() == architecture
    assert space.contains(architecture)
    assert space.contains(other) == (other == architecture)


OUTSIDE = {
    "time_steps": 5,
    "shortcut": "vanilla",
    "qkv_bias": True,
    "attention_scale": 0.25,
    "distilled": True,
    "conv_bias": True,
    "stages.0.embed_dim": 24,
    "stages.0.embedding.stride": 8,
    "stages.0.embedding.neuron.v_threshold": 0.75,
    "stages.0.embedding.neuron.tau": 3,
    "stages.0.blocks.1.channel_mixer": "conv",
    "stages.0.blocks.1.qkv": "repconv",
    "stages.0.blocks.1.projection": "repconv",
    "stages.0.blocks.1.num_heads": 8,
    "stages.0.blocks.1.mlp_ratio": 2,
    "stages.0.blocks.1.neuron.v_threshold": 1.1,
    "stages.0.blocks.1.neuron.tau": 3,
    "stages.0.blocks.1.groups.q.v_threshold": 0.6,
    "stages.0.blocks.1.groups.fc2.tau": 2,
}


@pytest.mark.parametrize(("path", "value"), OUTSIDE.items(), ids=list(OUTSIDE))
def test_an_architecture_with_one_value_outside_is_not_a_member(path: str, value: object) -> None:
    space = SearchSpace.from_dict(CHOICES)
    member = space.largest()
    assert space.contains(member)
    assert not space.contains(Architecture.from_dict(edited(member.to_dict(), path, value)))


@pytest.mark.parametrize("depth", [1, 3])
def test_an_architecture_with_another_depth_is_not_a_member(depth: int) -> None:
    space = SearchSpace.from_dict(choices_with("stages.0.depth", 2))
    (stage,) = space.largest().stages
    blocks = (stage.blocks * 2)[:depth]
    assert not space.contains(Architecture(time_steps=4, stages=(replace(stage, blocks=blocks),)))


def test_an_architecture_of_another_family_stage_or_mixer_is_not_a_member() -> None:
    space = SearchSpace.from_dict(CONDITIONAL)
    member = space.largest()
    first, second = member.stages
    assert space.contains(member)
    assert not space.contains(replace(member, stages=(first,)))
    assert not space.contains(replace(member, stages=(first, second, second)))
    assert not space.contains(replace(member, stages=(replace(first, blocks=(Block(token_mixer="channel_qk"),)), second)))
    rng = random.Random(2)
    sew = next(sample for sample in iter(lambda: space.sample(rng), None) if sample.shortcut == "sew")
    assert not space.contains(replace(sew, shortcut="vanilla"))
    plain = SearchSpace.from_dict({"stages": [{"embed_dim": 8, "depth": 1}]}).largest()
    assert not SearchSpace.of(plain).contains(replace(plain, family="meta_spikeformer"))
    compact = replace(plain, family="qkformer", compact_embedding=True)
    assert not SearchSpace.of(compact).contains(replace(compact, compact_embedding=False))


def test_an_override_that_the_space_lacks_is_not_a_member() -> None:
    space = SearchSpace.from_dict(TINY)
    member = space.largest().to_dict()
    assert not space.contains(Architecture.from_dict(edited(member, "stages.0.blocks.0.groups.q", {"tau": 2})))
    assert not space.contains(Architecture.from_dict(edited(member, "stages.0.blocks.0.groups", {})))


@pytest.mark.parametrize(("tau", "is_member"), [(1.1, True), (8, True), (3.14159265, True), (1.0999, False), (8.001, False)])
def test_a_range_contains_its_bounds(tau: float, is_member: bool) -> None:
    space = SearchSpace.from_dict(RANGES)
    member = edited(space.largest().to_dict(), "stages.0.blocks.2.neuron.tau", tau)
    assert space.contains(Architecture.from_dict(member)) == is_member


def test_genes_of_an_architecture_have_paths_and_values() -> None:
    space = SearchSpace.from_dict(POSITIONS)
    found = {found.path: (found.gene, found.value) for found in space.genes(space.largest())}
    assert found["stages", 0, "embed_dim"] == (Choice(values=(16, 32)), 32)
    assert found["stages", 0, "depth"] == (Choice(values=(1, 2)), 2)
    assert found["stages", 0, "blocks", 0, "num_heads"] == (Choice(values=(1, 2)), 2)
    assert found["stages", 0, "blocks", 1, "mlp_ratio"] == (Choice(values=(2.0, 3.0)), 3.0)
    assert found["stages", 0, "embedding", "neuron", "tau"] == (Choice(values=(2.0,)), 2.0)
    assert {path[3] for path in found if "blocks" in path} == {0, 1}
    # Time steps and shortcut; width, depth and embedding; in each block two mixers, heads, two synapses, ratio, neuron and groups.
    assert len(found) == 2 + 2 + 3 + 2 * (6 + 2 + 14)


def test_the_order_of_numbers_in_a_choice_does_not_matter() -> None:
    assert SearchSpace.from_dict(choices_with("time_steps", [4, 2, 3])) == SearchSpace.from_dict(CHOICES)


def test_integers_and_equal_floats_are_the_same_choice() -> None:
    one, other = ({"stages": [{"embed_dim": 8, "depth": 1, "block": {"mlp_ratio": ratio}}]} for ratio in (4, 4.0))
    assert SearchSpace.from_dict(one).largest().id == SearchSpace.from_dict(other).largest().id


BLOCK = "stages.0.block"
ALL_GROUPS = ("q", "k", "v", "attention", "projection", "fc1", "fc2")

INVALID = {
    "unknown key": ("time_stepz", 2, "time_stepz"),
    "unknown key of a stage": ("stages.0.widths", [8], "stages[0].widths"),
    "unknown key of a block": (f"{BLOCK}.heads", 2, "stages[0].block.heads"),
    "unknown group": (f"{BLOCK}.groups.softmax", {"tau": 2}, "stages[0].block.groups.softmax"),
    "unknown neuron parameter": ("stages.0.embedding.neuron.v_reset", 0, "stages[0].embedding.neuron.v_reset"),
    "removed field stem": ("stem", {"pools": 2}, "stem"),
    "unknown family": ("family", "resnet", "family"),
    "a list of families": ("family", ["spikformer"], "family"),
    "text": ("time_steps", "many", "time_steps"),
    "text in a list": (f"{BLOCK}.mlp_ratio", [1, "two"], "stages[0].block.mlp_ratio"),
    "fractional heads": (f"{BLOCK}.num_heads", [1, 1.5], "stages[0].block.num_heads"),
    "float for an integer": ("time_steps", 4.0, "time_steps"),
    "boolean for an integer": ("time_steps", True, "time_steps"),
    "boolean for a ratio": (f"{BLOCK}.mlp_ratio", True, "stages[0].block.mlp_ratio"),
    "null": ("time_steps", None, "time_steps"),
    "null in a list": (f"{BLOCK}.groups.q.tau", [None, 2], "stages[0].block.groups.q.tau"),
    "a list in a list": ("time_steps", [[2]], "time_steps"),
    "a mapping": ("time_steps", {"low": 1, "high": 3, "sigma": 1}, "time_steps"),
    "a range of ratios": (f"{BLOCK}.mlp_ratio", {"low": 1.0, "high": 3.0, "sigma": 1.0}, "stages[0].block.mlp_ratio"),
    "a number for a block": (BLOCK, 3, "stages[0].block"),
    "stages as a mapping": ("stages", {"embed_dim": 8}, "stages"),
    "empty choice": ("time_steps", [], "time_steps"),
    "empty choice of thresholds": (f"{BLOCK}.neuron.v_threshold", [], "stages[0].block.neuron.v_threshold"),
    "duplicates": ("stages.0.embed_dim", [16, 32, 16], "stages[0].embed_dim"),
    "duplicates in two spellings": (f"{BLOCK}.mlp_ratio", [1, 1.0], "stages[0].block.mlp_ratio"),
    "heads that do not divide": (f"{BLOCK}.num_heads", [1, 3], "num_heads 3 does not divide embed_dim 16"),
    "heads that divide one width only": (f"{BLOCK}.num_heads", [1, 32], "num_heads 32 does not divide embed_dim 16"),
    "zero heads": (f"{BLOCK}.num_heads", [0, 1], "num_heads"),
    "negative heads": (f"{BLOCK}.num_heads", [-2, 1], "num_heads"),
    "a ratio of zero": (f"{BLOCK}.mlp_ratio", [0, 1], "mlp_ratio"),
    "zero time steps": ("time_steps", [0, 1], "time_steps"),
    "a stride of three": ("stages.0.embedding.stride", [1, 3], "stages[0].embedding.stride"),
    "text for a stride": ("stages.0.embedding.stride", "two", "stages[0].embedding.stride"),
    "a shortcut of another family": ("shortcut", ["sew", "membrane"], "shortcut"),
    "an unknown shortcut": ("shortcut", "resnet", "shortcut: choose from sew, membrane, vanilla; got 'resnet'"),
    "text for a boolean": ("qkv_bias", "boolean for an integer", "qkv_bias"),
    "a choice of booleans": ("qkv_bias", [True, False], "qkv_bias"),
    "number for a boolean": ("distilled", 1, "distilled"),
    "a form of another family": ("compact_embedding", True, "compact_embedding"),
    "a choice of scales": ("attention_scale", [0.125, 0.25], "attention_scale"),
    "a scale of NaN": ("attention_scale", float("nan"), "attention_scale"),
    "null for a family": ("family", None, "family"),
    "a group of membrane shortcuts": (f"{BLOCK}.groups.token_input", {"tau": 3}, "groups.token_input"),
    "a group of another mixer": (f"{BLOCK}.groups.sepconv", {"tau": 3}, "groups.sepconv"),
    "heads without effect": (
        BLOCK,
        {"token_mixer": ["sdsa_1", "none"], "num_heads": 2},
        "stages[0].block: num_heads has no effect",
    ),
    "qkv without effect": (BLOCK, {"token_mixer": ["sepconv", "none"], "qkv": "linear"}, "stages[0].block: qkv has no effect"),
    "projection without effect": (
        BLOCK,
        {"token_mixer": "none", "projection": "linear"},
        "stages[0].block: projection has no effect",
    ),
    "zero width": ("stages.0.embed_dim", [0, 16], "embed_dim"),
    "a width that is not a multiple of 8": ("stages.0.embed_dim", [16, 20], "embed_dim"),
    "depth zero": ("stages.0.depth", [0, 1], "depth"),
    "a threshold of zero": (f"{BLOCK}.neuron.v_threshold", [0, 1], "v_threshold"),
    "a tau of one": ("stages.0.embedding.neuron.tau", [1, 2], "stages[0].embedding.neuron"),
    "a group's tau of one": (f"{BLOCK}.groups.q.tau", [1, 2], "tau"),
    "a threshold of NaN": (f"{BLOCK}.neuron.v_threshold", float("nan"), "v_threshold"),
    "an infinite ratio": (f"{BLOCK}.mlp_ratio", float("inf"), "mlp_ratio"),
    "a range with low above high": (f"{BLOCK}.neuron.tau", {"low": 3, "high": 2, "sigma": 1}, "stages[0].block.neuron.tau"),
    "an empty range": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 2, "sigma": 1}, "stages[0].block.neuron.tau"),
    "an infinite range": (f"{BLOCK}.neuron.tau", {"low": 2, "high": float("inf"), "sigma": 1}, "tau"),
    "a range with sigma zero": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 3, "sigma": 0}, "stages[0].block.neuron.tau"),
    "a range without sigma": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 3}, "stages[0].block.neuron.tau.sigma"),
    "a range with an unknown key": (
        f"{BLOCK}.neuron.tau",
        {"low": 2, "high": 3, "sigma": 1, "mean": 2},
        "stages[0].block.neuron.tau.mean",
    ),
    "a range of text": (f"{BLOCK}.neuron.tau", {"low": "2", "high": 3, "sigma": 1}, "stages[0].block.neuron.tau.low"),
    "a range of taus from one": (f"{BLOCK}.neuron.tau", {"low": 1, "high": 3, "sigma": 1}, "tau"),
    "a tau that every group overrides": (f"{BLOCK}.groups", {name: {"tau": 2} for name in ALL_GROUPS}, "neuron.tau"),
    "too few positions": ("stages.0.blocks", [{"num_heads": 1}], "blocks lists 1"),
    "invalid heads at one position": ("stages.0.blocks", [{"num_heads": 1}, {"num_heads": 3}, {"num_heads": 1}], "num_heads 3"),
    "no stages": ("stages", [], "stage"),
    "two stages": ("stages", CHOICES["stages"] * 2, "stage"),
}


@pytest.mark.parametrize(("path", "value", "field"), INVALID.values(), ids=list(INVALID))
def test_an_invalid_value_is_a_one_line_error_naming_file_and_field(path: str, value: object, field: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(choices_with(path, value)))
    message = one_line_error(lambda: SearchSpace.load(file))
    assert message.startswith(f"{file}: ")
    assert field in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("stages.0.block.groups.q", {"tau": 3}),
        ("stages.1.block", {"token_mixer": "none", "groups": {"q": {"tau": 3}}}),
        ("stages.1.blocks", [{}, {"token_mixer": "none", "groups": {"q": {"tau": 3}}}, {}]),
        ("shortcut", "sew"),
    ],
)
def test_a_group_that_no_block_of_the_space_has_is_rejected(path: str, value: object) -> None:
    space_dict = edited(CONDITIONAL, "stages.0.block.groups", {"sepconv": {"tau": 3}})
    assert SearchSpace.from_dict(space_dict)
    name = "token_input" if path == "shortcut" else "q"
    message = one_line_error(lambda: SearchSpace.from_dict(edited(space_dict, path, value)))
    assert f"groups.{name}: this neuron group does not exist in this space" in message


@pytest.mark.parametrize(
    ("space_dict", "missing"),
    [({}, "stages"), ({"stages": [{"depth": 1}]}, "embed_dim"), ({"stages": [{"embed_dim": 8}]}, "depth")],
)
def test_missing_required_fields_are_named(space_dict: object, missing: str) -> None:
    assert f"{missing}: required" in one_line_error(lambda: SearchSpace.from_dict(space_dict))


@pytest.mark.parametrize(
    ("family", "shortcut", "names"),
    [
        ("spikformer", "sew", ALL_GROUPS),
        ("spike_driven", "membrane", ("token_input", "q", "k", "v", "attention", "channel_input", "fc1")),
    ],
)
def test_every_group_can_override_a_fixed_neuron(family: str, shortcut: str, names: tuple[str, ...]) -> None:
    block = {"num_heads": 1, "groups": {name: {"tau": [2, 3]} for name in names}}
    space_dict = {"family": family, "shortcut": shortcut, "stages": [{"embed_dim": 8, "depth": 1, "block": block}]}
    assert SearchSpace.from_dict(space_dict).size() == 2**7


# Categorical choices in an order that is not alphabetical, an unknown value, and the known ones.
CATEGORICAL = {
    "shortcut": (["vanilla", "sew"], "stickleback", "sew, membrane, vanilla"),
    f"{BLOCK}.token_mixer": (
        ["token_qk", "none", "sdsa_3"],
        "ssa",
        "sdsa_1, sdsa_1_dilated, sdsa_2, sdsa_3, sdsa_4, token_qk, channel_qk, e_sdsa, "
        "sepconv, spiking_sepconv_3, spiking_sepconv_7, dwc_3, dwc_5, dwc_7, none",
    ),
    f"{BLOCK}.channel_mixer": (["mlp", "conv"], "gmlp", "mlp, conv, mlp_residual, replinear, none"),
    f"{BLOCK}.qkv": (["repconv", "linear"], "conv", "linear, repconv, replinear"),
    f"{BLOCK}.projection": (["replinear", "linear"], "", "linear, repconv, replinear"),
}
PLAIN: dict[str, Any] = {"stages": [{"embed_dim": 8, "depth": 1, "block": {}}]}


@pytest.mark.parametrize("path", sorted(CATEGORICAL))
def test_categorical_choices_keep_their_order_and_extremes_have_the_first(path: str) -> None:
    choice = CATEGORICAL[path][0]
    name = path.split(".")[-1]
    space = SearchSpace.from_dict(edited(PLAIN, path, choice))
    assert space.size() == len(choice)
    for extreme in (space.largest(), space.smallest(), space.cover()[0]):
        (found,) = (found for found in space.genes(extreme) if found.path[-1] == name and "groups" not in found.path)
        assert (found.gene.values, found.value) == (tuple(choice), choice[0])
    reversed_space = SearchSpace.from_dict(edited(PLAIN, path, choice[::-1]))
    assert reversed_space != space
    assert reversed_space.largest() != space.largest()
    assert SearchSpace.from_dict(edited(PLAIN, path, choice[0])).largest() == space.largest()


@pytest.mark.parametrize("path", sorted(CATEGORICAL))
@pytest.mark.parametrize("is_single", [True, False])
def test_an_unknown_category_is_a_one_line_error_naming_the_known_ones(path: str, is_single: bool) -> None:
    choice, unknown, known = CATEGORICAL[path]
    message = one_line_error(lambda: SearchSpace.from_dict(edited(PLAIN, path, unknown if is_single else [*choice, unknown])))
    assert message.endswith(f"{path.replace('.0', '[0]')}: choose from {known}; got {unknown!r}")


@pytest.mark.parametrize("path", sorted(CATEGORICAL))
@pytest.mark.parametrize("value", [[], None, 3, True, [None], {"low": 1}, [["mlp"]], "twice"])
def test_invalid_categorical_choices_are_rejected(path: str, value: object) -> None:
    category = CATEGORICAL[path][0][0]
    message = one_line_error(
        lambda: SearchSpace.from_dict(edited(PLAIN, path, [category, category] if value == "twice" else value))
    )
    assert f": {path.replace('.0', '[0]')}: " in message


# Small enough to enumerate. Heads, qkv and neuron groups exist only with some token mixers and shortcuts.
ENUMERABLE_CONDITIONAL: dict[str, Any] = {
    "family": "meta_spikeformer",
    "shortcut": ["membrane", "sew"],
    "stages": [
        {
            "embed_dim": 8,
            "depth": [1, 2],
            "block": {
                "token_mixer": ["sdsa_3", "sdsa_1", "sepconv", "none"],
                "num_heads": [1, 2],
                "qkv": ["linear", "repconv"],
                "groups": {"token_input": {"tau": [2, 3]}, "sepconv": {"tau": [1.5, 3]}, "fc2": {"v_threshold": [0.5, 1, 2]}},
            },
        },
        {"embed_dim": [5, 10], "embedding": {"stride": [1, 2]}, "depth": 1, "block": {"token_mixer": "none"}},
    ],
}


def enumerable_conditional_architectures() -> list[Architecture]:
    """Return every member: the cross product of all genes, without the genes that have no effect."""
    found = []
    for shortcut in ("membrane", "sew"):
        blocks = []
        for mixer, heads, qkv, token_input_tau, sepconv_tau, fc2_threshold in itertools.product(
            ("sdsa_3", "sdsa_1", "sepconv", "none"), (1, 2), ("linear", "repconv"), (2, 3), (1.5, 3), (0.5, 1, 2)
        ):
            groups = {"sepconv": NeuronOverride(tau=sepconv_tau)} if mixer == "sepconv" else {}
            if shortcut == "sew":
                groups["fc2"] = NeuronOverride(v_threshold=fc2_threshold)
            elif mixer != "none":
                groups["token_input"] = NeuronOverride(tau=token_input_tau)
            genes: dict[str, Any] = {
                name: gene for name, gene in {"num_heads": heads, "qkv": qkv}.items() if name not in fields_without_effect(mixer)
            }
            blocks.append(Block(**{"token_mixer": mixer, **genes}, groups=NeuronGroups(**groups)))
        distinct_blocks = list(dict.fromkeys(blocks))
        chains = [chain for depth in (1, 2) for chain in itertools.product(distinct_blocks, repeat=depth)]
        for chain, width, stride in itertools.product(chains, (5, 10), (1, 2)):
            last = Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=(Block(token_mixer="none"),))
            stages = (Stage(embed_dim=8, blocks=chain), last)
            found.append(Architecture(family="meta_spikeformer", shortcut=shortcut, stages=stages))
    return found


@pytest.mark.slow
def test_size_with_conditional_genes_by_enumeration() -> None:
    # X, qkv x token_input_tau, token_input_tau x sepconv, and one without a token mixer.
    membrane, sew = 2 * 2 * 2 + 2 * 2 + 2 * 2 + 1, 3 * (2 * 2 + 2 + 2 + 1)
    members = enumerable_conditional_architectures()
    space = SearchSpace.from_dict(ENUMERABLE_CONDITIONAL)
    assert len(set(members)) == len(members) == 4 * (membrane + membrane**2 + sew + sew**2)
    assert space.size() == len(members)
    assert all(space.contains(member) for member in members)


@pytest.mark.slow
def test_samples_with_conditional_genes_are_enumerated_members() -> None:
    space, rng, members = SearchSpace.from_dict(ENUMERABLE_CONDITIONAL), random.Random(0), enumerable_conditional_architectures()
    samples = {space.sample(rng) for _ in range(3000)}
    assert samples <= set(members)
    sampled, expected = (
        {(a.shortcut, a.stages[0].blocks[-1], len(a.stages[0].blocks)) for a in some} for some in (samples, members)
    )
    assert sampled == expected


def test_size_of_conditional_genes_per_position() -> None:
    positions = [
        {"token_mixer": ["sdsa_4", "none"], "num_heads": [1, 2, 4]},
        {"token_mixer": ["sdsa_2"], "qkv": ["linear", "repconv"]},
    ]
    stage = {"embed_dim": 8, "depth": [1, 2], "blocks": positions}
    assert SearchSpace.from_dict({"stages": [stage]}).size() == (3 + 1) + (3 + 1) * 2


def test_size_counts_a_group_only_where_it_exists() -> None:
    space_dict = {"family": "meta_spikeformer", "shortcut": "sew", "stages": [{"embed_dim": 8, "depth": 1, "block": {}}]}
    block = {"token_mixer": ["sdsa_1", "none"], "groups": {"q": {"tau": {"low": 1.5, "high": 3, "sigma": 1}}}}
    assert SearchSpace.from_dict(edited(space_dict, BLOCK, block)).size() == math.inf
    shared = {"token_mixer": ["sdsa_1", "none"], "groups": {"q": {"tau": [2, 3]}}}
    assert SearchSpace.from_dict(edited(space_dict, BLOCK, shared)).size() == 2 + 1


@few_examples
@given(st.sampled_from(sorted(SPACE_DICTS)), st.integers(0, 10**6))
def test_exactly_the_genes_with_an_effect_are_visited(name: str, seed: int) -> None:
    rng = random.Random(seed)
    visited: list[str] = []

    def visit(gene: Gene, path: GenePath) -> Any:
        visited.append(".".join(map(str, path)))
        return gene.sample(rng)

    space = SearchSpace.from_dict(SPACE_DICTS[name])
    built = visit_genes(space, visit)
    depths = {f"stages.{i}.depth" for i in range(len(built.stages))}
    assert len(visited) == len(set(visited))
    assert (
        set(visited)
        == effective_genes(built).keys() - {"family", "qkv_bias", "attention_scale", "compact_embedding", "distilled"} | depths
    )
    assert {".".join(map(str, found.path)) for found in space.genes(built)} == set(visited)
    without_effect = leaves(built).items() - effective_genes(built).items()
    assert {value for path, value in without_effect if "neuron" not in path.split(".") and not is_unvisited(path, value)} <= {None}


@few_examples
@given(st.sampled_from(sorted(SPACE_DICTS)), st.integers(0, 10**6), st.integers(0, 3))
def test_a_gene_is_visited_with_the_values_of_the_parents_that_have_it(name: str, seed: int, number: int) -> None:
    rng = random.Random(seed)
    space = SearchSpace.from_dict(SPACE_DICTS[name])
    parents = [space.sample(rng) for _ in range(number)]
    parent_genes = [effective_genes(parent) for parent in parents]

    def visit(gene: Gene, path: GenePath, *values: Any) -> Any:
        if path[-1] == "depth":
            assert list(values) == [len(parent.stages[int(path[1])].blocks) for parent in parents]
        elif gene.size > 1:
            assert list(values) == [leaf[".".join(map(str, path))] for leaf in parent_genes if ".".join(map(str, path)) in leaf]
        return rng.choice(values) if values else gene.sample(rng)

    assert space.contains(visit_genes(space, visit, *parents))


def test_different_members_differ_in_genes_with_an_effect() -> None:
    space, rng = SearchSpace.from_dict(ENUMERABLE_CONDITIONAL), random.Random(1)
    samples = {space.sample(rng) for _ in range(500)}
    assert (
        len({frozenset(effective_genes(sample).items()) for sample in samples})
        == len({sample.id for sample in samples})
        == len(samples)
    )


@few_examples
@given(st.sampled_from(sorted(SPACE_DICTS)), st.integers(0, 10**6))
def test_the_genes_of_a_member_are_its_values(name: str, seed: int) -> None:
    space = SearchSpace.from_dict(SPACE_DICTS[name])
    sample = space.sample(random.Random(seed))
    values = {".".join(map(str, found.path)): found.value for found in space.genes(sample)}
    depths = {f"stages.{i}.depth": len(stage.blocks) for i, stage in enumerate(sample.stages)}
    assert values == {path: value for path, value in {**effective_genes(sample), **depths}.items() if path in values}


def test_extremes_of_a_conditional_space() -> None:
    largest, smallest = SearchSpace.from_dict(CONDITIONAL).largest(), SearchSpace.from_dict(CONDITIONAL).smallest()
    assert [(s.embed_dim, len(s.blocks), s.embedding.stride) for s in largest.stages] == [(12, 2, 1), (16, 3, 2)]
    assert [(s.embed_dim, len(s.blocks), s.embedding.stride) for s in smallest.stages] == [(7, 1, 2), (16, 1, 2)]
    assert (largest.time_steps, smallest.time_steps, largest.attention_scale) == (2, 1, 0.25)
    for extreme, heads, ratio in ((largest, 4, 2), (smallest, 2, 1)):
        assert extreme.shortcut == "membrane"
        first, second = (stage.blocks[-1] for stage in extreme.stages)
        assert (first.token_mixer, first.channel_mixer, first.mlp_ratio, first.groups.sepconv.tau) == (
            "sepconv",
            "conv",
            ratio,
            1.5,
        )
        assert (second.token_mixer, second.num_heads, second.qkv, second.projection) == ("sdsa_3", heads, "repconv", "linear")
        assert second.neuron == Neuron(v_threshold=1, tau=2)
        assert (second.groups.attention.v_threshold, second.groups.projection) == (0.5, NeuronOverride())


# Positions with different numbers of categories.
UNEVEN: dict[str, Any] = {
    "family": "meta_spikeformer",
    "shortcut": ["sew", "vanilla"],
    "stages": [
        {
            "embed_dim": [8, 16],
            "depth": [1, 2],
            "blocks": [
                {"token_mixer": ["sdsa_1", "sepconv", "none"], "channel_mixer": ["mlp", "conv"], "mlp_ratio": [1, 2]},
                {"token_mixer": ["token_qk", "sdsa_2"], "num_heads": [1, 4], "qkv": ["linear", "repconv"]},
            ],
        },
        {"embed_dim": 8, "embedding": {"stride": [1, 2]}, "depth": 2, "block": {"projection": ["repconv", "linear"]}},
    ],
}


@pytest.mark.parametrize(
    "space_dict", [CONDITIONAL, UNEVEN, ENUMERABLE_CONDITIONAL], ids=["conditional", "uneven", "enumerable conditional"]
)
def test_a_cover_has_every_mixer_with_every_other_category_at_every_position(space_dict: dict[str, Any]) -> None:
    space = SearchSpace.from_dict(space_dict)
    cover, largest = space.cover(), space.largest()
    assert cover[0] == largest
    assert len(cover) == len(set(cover))
    for member in cover:
        assert permits(space_dict, member)
        assert space.contains(member)
        assert (member.time_steps, member.shortcut) == (largest.time_steps, largest.shortcut)
        for stage, full in zip(member.stages, largest.stages, strict=True):
            assert (stage.embed_dim, len(stage.blocks), stage.embedding) == (full.embed_dim, len(full.blocks), full.embedding)
            assert [b.mlp_ratio for b in stage.blocks] == [b.mlp_ratio for b in full.blocks]
    for i, stage in enumerate(space_dict["stages"]):
        for j in range(len(largest.stages[i].blocks)):
            block = stage["blocks"][j] if "blocks" in stage else stage["block"]
            found = [member.stages[i].blocks[j] for member in cover]
            heads = block.get("num_heads", 8)
            assert {b.num_heads for b in found} <= {None, max(heads) if isinstance(heads, list) else heads}
            mixers = block.get("token_mixer", "sdsa_3")
            for name, mixer in itertools.product(
                ("channel_mixer", "qkv", "projection"), mixers if isinstance(mixers, list) else [mixers]
            ):
                categories = block.get(name, [])
                expected = (
                    set()
                    if name in fields_without_effect(mixer)
                    else set(categories if isinstance(categories, list) else [categories])
                )
                assert {getattr(b, name) for b in found if b.token_mixer == mixer} >= expected
                assert mixer in {b.token_mixer for b in found}


@pytest.mark.parametrize("path", sorted(CATEGORICAL.keys() - {"shortcut"}))
def test_the_cover_of_one_categorical_choice_is_the_whole_space(path: str) -> None:
    choice = CATEGORICAL[path][0]
    expected = [SearchSpace.from_dict(edited(PLAIN, path, category)).largest() for category in choice]
    assert SearchSpace.from_dict(edited(PLAIN, path, choice)).cover() == expected


def test_a_cover_has_the_minimum_size() -> None:
    assert len(SearchSpace.from_dict(CONDITIONAL).cover()) == 4 * 2  # four mixers, with two other categories each
    assert len(SearchSpace.from_dict(CHOICES).cover()) == 1


@few_examples
@given(architectures())
def test_the_cover_of_the_space_of_an_architecture_is_that_architecture(architecture: Architecture) -> None:
    assert SearchSpace.of(architecture).cover() == [architecture]


INVALID_FILES = {
    "not YAML": b"time_steps: [1, 2",
    "a tab": b"stages:\n\t- 1",
    "not text": b"\xff\xfe\x00\x01",
    "control characters": b"time_steps: \x01",
    "a date that does not exist": b"time_steps: 2020-13-45",
    "empty": b"",
    "a list": b"- 1\n- 2",
    "a word": b"spikformer",
}


@pytest.mark.parametrize("content", INVALID_FILES.values(), ids=list(INVALID_FILES))
def test_an_invalid_file_is_a_one_line_error_naming_the_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(content)
    assert one_line_error(lambda: SearchSpace.load(file)).startswith(f"{file}: ")


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    assert one_line_error(lambda: SearchSpace.load(tmp_path / "gone.yaml")).startswith(f"{tmp_path / 'gone.yaml'}: ")
    assert one_line_error(lambda: SearchSpace.load(tmp_path)).startswith(f"{tmp_path}: ")
