"""Search spaces: exact sizes, membership, extremes, and one line for every mistake in a file."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import CHOICES, POSITIONS, RANGES, WRITTEN, architectures, edited, few, one_line_error, permits
from hypothesis import given
from hypothesis import strategies as st

from autospike.architecture import Architecture, Block, Neuron, NeuronGroups, NeuronOverride, Stage, Stem
from autospike.genes import Choice, Range
from autospike.space import SearchSpace

SMALL_5 = Path(__file__).parents[1] / "search_spaces" / "auto_spikformer_small_5.yaml"

TINY: dict[str, Any] = {
    "time_steps": [1, 3],
    "stem": {"pools": [1, 2]},
    "stages": [
        {
            "embed_dim": [8, 16],
            "depth": [1, 2],
            "block": {"num_heads": [1, 2], "neuron": {"tau": [1.5, 2]}, "groups": {"fc2": {"v_threshold": 0.75}}},
        }
    ],
}


def tiny_architectures() -> list[Architecture]:
    """Every member of TINY, by nested loops."""
    override = NeuronGroups(fc2=NeuronOverride(v_threshold=0.75))
    blocks = [Block(num_heads=heads, neuron=Neuron(tau=tau), groups=override) for heads in (1, 2) for tau in (1.5, 2)]
    chains = [chain for depth in (1, 2) for chain in itertools.product(blocks, repeat=depth)]
    return [
        Architecture(time_steps=steps, stem=Stem(pools=pools), stages=(Stage(embed_dim=width, blocks=chain),))
        for steps in (1, 3)
        for pools in (1, 2)
        for width in (8, 16)
        for chain in chains
    ]


def nested(path: str, value: object) -> dict[str, Any]:
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


def test_size_counts_stem_groups_and_positions() -> None:
    stem, groups = 2 * 2 * 2, (3 * 2) ** 6
    block = 3 * 2 * (3 * 2) * groups
    assert SearchSpace.from_dict(CHOICES).size() == 3 * stem * 2 * (block + block**2 + block**3)
    assert SearchSpace.from_dict(POSITIONS).size() == 2 * (2 + 2 * (2 * 2))


def test_a_range_makes_the_space_infinite() -> None:
    assert SearchSpace.from_dict(RANGES).size() == math.inf


def test_samples_are_exactly_the_enumerated_members() -> None:
    space, rng = SearchSpace.from_dict(TINY), random.Random(0)
    assert {space.sample(rng) for _ in range(3000)} == set(tiny_architectures())


def test_contains_every_enumerated_member() -> None:
    space = SearchSpace.from_dict(TINY)
    assert all(space.contains(member) for member in tiny_architectures())


@few
@given(st.sampled_from(sorted(WRITTEN)), st.integers(0, 10**6))
def test_samples_are_what_is_written(name: str, seed: int) -> None:
    space = SearchSpace.from_dict(WRITTEN[name])
    sample = space.sample(random.Random(seed))
    assert permits(WRITTEN[name], sample)
    assert space.contains(sample)


def test_samples_depend_on_the_generator_alone() -> None:
    space = SearchSpace.from_dict(RANGES)
    assert [space.sample(random.Random(5)) for _ in range(2)] == [space.sample(random.Random(5))] * 2
    assert len({space.sample(random.Random(seed)) for seed in range(20)}) == 20


@few
@given(st.floats(0.3, 4), st.floats(1e-7, 1e-3), st.integers(0, 10**6))
def test_a_range_keeps_to_itself_however_narrow(low: float, width: float, seed: int) -> None:
    gene, rng = Range(low=low, high=low + width, sigma=width), random.Random(seed)
    sample = gene.sample(rng)
    assert gene.low <= sample <= gene.high
    assert gene.low <= gene.mutate(sample, rng) <= gene.high


def published(width: int, steps: int, depth: int, heads: int, ratio: float) -> Architecture:
    """A member of "small_5" whose neurons have threshold 1 and tau 2."""
    block = Block(num_heads=heads, mlp_ratio=ratio, neuron=Neuron(v_threshold=1.0, tau=2.0))
    return Architecture(time_steps=steps, stem=Stem(pools=2), stages=(Stage(embed_dim=width, blocks=(block,) * depth),))


def test_extremes_of_the_published_space() -> None:
    space = SearchSpace.load(SMALL_5)
    assert space.largest() == published(width=384, steps=6, depth=4, heads=12, ratio=4)
    assert space.smallest() == published(width=192, steps=2, depth=2, heads=6, ratio=3)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([1.5, 3], 1.5),
        ([1.2, 2, 4], 2.0),
        ([3, 10], 3.0),
        ({"low": 1.5, "high": 3, "sigma": 1}, 2.0),
        ({"low": 2.5, "high": 3, "sigma": 1}, 2.5),
        ({"low": 1.2, "high": 1.5, "sigma": 1}, 1.5),
    ],
)
def test_extremes_take_the_tau_nearest_to_the_published_one(written: object, expected: float) -> None:
    space = SearchSpace.from_dict(nested("stages.0.block.neuron.tau", written))
    for extreme in (space.largest(), space.smallest()):
        assert {block.neuron.tau for block in extreme.stages[0].blocks} == {expected}


def test_extremes_of_positions() -> None:
    space = SearchSpace.from_dict(POSITIONS)
    deep = (Block(num_heads=2, mlp_ratio=1), Block(num_heads=8, mlp_ratio=3))
    assert space.largest() == Architecture(stages=(Stage(embed_dim=32, blocks=deep),))
    assert space.smallest() == Architecture(stages=(Stage(embed_dim=16, blocks=(Block(num_heads=1, mlp_ratio=1),)),))


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_extremes_are_members(name: str) -> None:
    space = SearchSpace.from_dict(WRITTEN[name])
    for extreme in (space.largest(), space.smallest()):
        assert permits(WRITTEN[name], extreme)
        assert space.contains(extreme)


@few
@given(architectures(), architectures())
def test_the_space_of_an_architecture_holds_it_alone(architecture: Architecture, other: Architecture) -> None:
    space = SearchSpace.of(architecture)
    assert space.size() == 1
    assert space.sample(random.Random(0)) == space.largest() == space.smallest() == architecture
    assert space.contains(architecture)
    assert space.contains(other) == (other == architecture)


OUTSIDE = {
    "time_steps": 5,
    "stem.pools": 3,
    "stem.neuron.v_threshold": 0.75,
    "stem.neuron.tau": 3,
    "stages.0.embed_dim": 24,
    "stages.0.blocks.1.num_heads": 8,
    "stages.0.blocks.1.mlp_ratio": 2,
    "stages.0.blocks.1.neuron.v_threshold": 1.1,
    "stages.0.blocks.1.neuron.tau": 3,
    "stages.0.blocks.1.groups.q.v_threshold": 0.6,
    "stages.0.blocks.1.groups.fc2.tau": 2,
}


@pytest.mark.parametrize(("path", "value"), OUTSIDE.items(), ids=list(OUTSIDE))
def test_one_value_outside_is_outside(path: str, value: object) -> None:
    space = SearchSpace.from_dict(CHOICES)
    member = space.largest()
    assert space.contains(member)
    assert not space.contains(Architecture.from_dict(edited(member.to_dict(), path, value)))


@pytest.mark.parametrize("depth", [1, 3])
def test_a_depth_outside_is_outside(depth: int) -> None:
    space = SearchSpace.from_dict(nested("stages.0.depth", 2))
    (stage,) = space.largest().stages
    blocks = (stage.blocks * 2)[:depth]
    assert not space.contains(
        Architecture(time_steps=4, stem=space.largest().stem, stages=(Stage(embed_dim=stage.embed_dim, blocks=blocks),))
    )


def test_an_override_is_outside_where_none_may_stand() -> None:
    space = SearchSpace.from_dict(TINY)
    member = space.largest().to_dict()
    assert not space.contains(Architecture.from_dict(edited(member, "stages.0.blocks.0.groups.q", {"tau": 2})))
    assert not space.contains(Architecture.from_dict(edited(member, "stages.0.blocks.0.groups", {})))


@pytest.mark.parametrize(("tau", "inside"), [(1.1, True), (8, True), (3.14159265, True), (1.0999, False), (8.001, False)])
def test_a_range_holds_its_ends(tau: float, inside: bool) -> None:
    space = SearchSpace.from_dict(RANGES)
    member = edited(space.largest().to_dict(), "stages.0.blocks.2.neuron.tau", tau)
    assert space.contains(Architecture.from_dict(member)) == inside


def test_genes_name_where_they_stand() -> None:
    space = SearchSpace.from_dict(POSITIONS)
    found = {found.path: (found.gene, found.value) for found in space.genes(space.largest())}
    assert found["stages", 0, "embed_dim"] == (Choice(values=(16, 32)), 32)
    assert found["stages", 0, "depth"] == (Choice(values=(1, 2)), 2)
    assert found["stages", 0, "blocks", 0, "num_heads"] == (Choice(values=(1, 2)), 2)
    assert found["stages", 0, "blocks", 1, "mlp_ratio"] == (Choice(values=(2.0, 3.0)), 3.0)
    assert found["stem", "neuron", "tau"] == (Choice(values=(2.0,)), 2.0)
    assert {path[3] for path in found if "blocks" in path} == {0, 1}
    assert len(found) == 3 + 2 + 1 + 2 * (2 + 2 + 14)  # time steps and stem, width and depth, and in each block the groups too


def test_the_order_of_a_choice_does_not_matter() -> None:
    assert SearchSpace.from_dict(nested("time_steps", [4, 2, 3])) == SearchSpace.from_dict(CHOICES)


def test_whole_numbers_are_read_as_numbers_where_numbers_stand() -> None:
    one, other = ({"stages": [{"embed_dim": 8, "depth": 1, "block": {"mlp_ratio": ratio}}]} for ratio in (4, 4.0))
    assert SearchSpace.from_dict(one).largest().id == SearchSpace.from_dict(other).largest().id


BLOCK = "stages.0.block"
ALL_GROUPS = ("q", "k", "v", "attention", "projection", "fc1", "fc2")

REFUSED = {
    "unknown key": ("time_stepz", 2, "time_stepz"),
    "unknown key of a stage": ("stages.0.widths", [8], "stages[0].widths"),
    "unknown key of a block": (f"{BLOCK}.heads", 2, "stages[0].block.heads"),
    "unknown group": (f"{BLOCK}.groups.softmax", {"tau": 2}, "stages[0].block.groups.softmax"),
    "unknown neuron parameter": ("stem.neuron.v_reset", 0, "stem.neuron.v_reset"),
    "unknown family": ("family", "resnet", "family"),
    "a list of families": ("family", ["spikformer"], "family"),
    "text": ("time_steps", "many", "time_steps"),
    "text in a list": (f"{BLOCK}.mlp_ratio", [1, "two"], "stages[0].block.mlp_ratio"),
    "half a head": (f"{BLOCK}.num_heads", [1, 1.5], "stages[0].block.num_heads"),
    "a point in a whole number": ("time_steps", 4.0, "time_steps"),
    "yes": ("time_steps", True, "time_steps"),
    "yes for a ratio": (f"{BLOCK}.mlp_ratio", True, "stages[0].block.mlp_ratio"),
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
    "no head": (f"{BLOCK}.num_heads", [0, 1], "num_heads"),
    "negative heads": (f"{BLOCK}.num_heads", [-2, 1], "num_heads"),
    "a ratio of zero": (f"{BLOCK}.mlp_ratio", [0, 1], "mlp_ratio"),
    "no time step": ("time_steps", [0, 1], "time_steps"),
    "five pools": ("stem.pools", [1, 5], "pools"),
    "no width": ("stages.0.embed_dim", [0, 16], "embed_dim"),
    "a width that the stem cannot make": ("stages.0.embed_dim", [16, 20], "embed_dim"),
    "depth zero": ("stages.0.depth", [0, 1], "depth"),
    "a threshold of zero": (f"{BLOCK}.neuron.v_threshold", [0, 1], "v_threshold"),
    "a tau of one": ("stem.neuron.tau", [1, 2], "tau"),
    "a group's tau of one": (f"{BLOCK}.groups.q.tau", [1, 2], "tau"),
    "a threshold that is no number": (f"{BLOCK}.neuron.v_threshold", float("nan"), "v_threshold"),
    "an infinite ratio": (f"{BLOCK}.mlp_ratio", float("inf"), "mlp_ratio"),
    "a range upside down": (f"{BLOCK}.neuron.tau", {"low": 3, "high": 2, "sigma": 1}, "stages[0].block.neuron.tau"),
    "an empty range": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 2, "sigma": 1}, "stages[0].block.neuron.tau"),
    "an endless range": (f"{BLOCK}.neuron.tau", {"low": 2, "high": float("inf"), "sigma": 1}, "tau"),
    "a range of steps of zero": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 3, "sigma": 0}, "stages[0].block.neuron.tau"),
    "a range without steps": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 3}, "stages[0].block.neuron.tau.sigma"),
    "a range with more": (f"{BLOCK}.neuron.tau", {"low": 2, "high": 3, "sigma": 1, "mean": 2}, "stages[0].block.neuron.tau.mean"),
    "a range of text": (f"{BLOCK}.neuron.tau", {"low": "2", "high": 3, "sigma": 1}, "stages[0].block.neuron.tau.low"),
    "a range of taus from one": (f"{BLOCK}.neuron.tau", {"low": 1, "high": 3, "sigma": 1}, "tau"),
    "a tau that no group follows": (f"{BLOCK}.groups", {name: {"tau": 2} for name in ALL_GROUPS}, "stages[0].block: neuron.tau"),
    "too few positions": ("stages.0.blocks", [{"num_heads": 1}], "blocks lists 1"),
    "a position's heads": ("stages.0.blocks", [{"num_heads": 1}, {"num_heads": 3}, {"num_heads": 1}], "num_heads 3"),
    "no stage": ("stages", [], "stage"),
    "two stages": ("stages", CHOICES["stages"] * 2, "stage"),
}


@pytest.mark.parametrize(("path", "value", "field"), REFUSED.values(), ids=list(REFUSED))
def test_a_mistake_is_one_line_that_names_file_and_field(path: str, value: object, field: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(nested(path, value)))
    message = one_line_error(lambda: SearchSpace.load(file))
    assert message.startswith(f"{file}: ")
    assert field in message


@pytest.mark.parametrize(
    ("written", "missing"), [({}, "stages"), ({"stages": [{"depth": 1}]}, "embed_dim"), ({"stages": [{"embed_dim": 8}]}, "depth")]
)
def test_required_fields(written: object, missing: str) -> None:
    assert f"{missing}: required" in one_line_error(lambda: SearchSpace.from_dict(written))


def test_every_group_may_override_a_fixed_neuron() -> None:
    block = {"num_heads": 1, "groups": {name: {"tau": [2, 3]} for name in ALL_GROUPS}}
    assert SearchSpace.from_dict({"stages": [{"embed_dim": 8, "depth": 1, "block": block}]}).size() == 2**7


NOT_A_SPACE = {
    "not YAML": b"time_steps: [1, 2",
    "a tab": b"stages:\n\t- 1",
    "not text": b"\xff\xfe\x00\x01",
    "control characters": b"time_steps: \x01",
    "a date that does not exist": b"time_steps: 2020-13-45",
    "empty": b"",
    "a list": b"- 1\n- 2",
    "a word": b"spikformer",
}


@pytest.mark.parametrize("content", NOT_A_SPACE.values(), ids=list(NOT_A_SPACE))
def test_what_is_no_space_is_one_line_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(content)
    assert one_line_error(lambda: SearchSpace.load(file)).startswith(f"{file}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert one_line_error(lambda: SearchSpace.load(tmp_path / "gone.yaml")).startswith(f"{tmp_path / 'gone.yaml'}: ")
    assert one_line_error(lambda: SearchSpace.load(tmp_path)).startswith(f"{tmp_path}: ")
