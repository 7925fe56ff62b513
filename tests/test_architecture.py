"""Architectures: one value, one JSON form, one id; strict about what they read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
from builders import architectures, edited, few, leaves, one_line_error, small
from hypothesis import given

from autospike.architecture import Architecture, Block, Neuron, NeuronGroups, NeuronOverride, Stage, Stem

WRITTEN = {"time_steps": 2, "stages": [{"embed_dim": 16, "blocks": [{"num_heads": 2}, {"num_heads": 4}]}]}
GROUPS = ("q", "k", "v", "attention", "projection", "fc1", "fc2")


@few
@given(architectures())
def test_json_round_trip(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.id == architecture.id
    assert again.to_json() == architecture.to_json()
    assert Architecture.from_dict(architecture.to_dict()) == architecture


@few
@given(architectures(), architectures())
def test_ids_are_equal_exactly_when_values_are(one: Architecture, other: Architecture) -> None:
    assert (one.id == other.id) == (leaves(one) == leaves(other))


def test_id_is_the_digest_of_the_canonical_json() -> None:
    architecture = Architecture(
        stages=(Stage(embed_dim=16, blocks=(Block(num_heads=2, groups=NeuronGroups(attention=NeuronOverride(tau=3))),)),)
    )
    canonical = (
        '{"family":"spikformer","stages":[{"blocks":[{"groups":{"attention":{"tau":3.0}},"mlp_ratio":4.0,'
        '"neuron":{"tau":2.0,"v_threshold":1.0},"num_heads":2}],"embed_dim":16}],'
        '"stem":{"neuron":{"tau":2.0,"v_threshold":1.0},"pools":2},"time_steps":4}'
    )
    assert architecture.to_json() == canonical
    assert architecture.id == hashlib.sha256(canonical.encode()).hexdigest()[:12]


def test_whole_numbers_may_be_written_either_way() -> None:
    whole = Block(mlp_ratio=4, neuron=Neuron(v_threshold=1, tau=3), groups=NeuronGroups(q=NeuronOverride(v_threshold=2, tau=5)))
    point = Block(
        mlp_ratio=4.0, neuron=Neuron(v_threshold=1.0, tau=3.0), groups=NeuronGroups(q=NeuronOverride(v_threshold=2.0, tau=5.0))
    )
    assert small(blocks=(whole,)) == small(blocks=(point,))
    assert small(blocks=(whole,)).id == small(blocks=(point,)).id


def test_whole_numbers_may_be_read_either_way() -> None:
    text = '{"stages": [{"embed_dim": 16, "blocks": [{"num_heads": 2, "mlp_ratio": %s, "neuron": {"tau": %s}}]}]}'
    assert Architecture.from_json(text % (4, 3)).id == Architecture.from_json(text % ("4.0", "3.0")).id


def test_id_does_not_depend_on_how_the_json_is_laid_out() -> None:
    architecture = Architecture.from_dict(WRITTEN)
    keys_reversed = json.dumps({key: architecture.to_dict()[key] for key in reversed(architecture.to_dict())}, indent=3)
    assert Architecture.from_json(keys_reversed).id == architecture.id


def test_what_is_left_out_is_the_published_default() -> None:
    assert Architecture.from_dict({"stages": [{"embed_dim": 16, "blocks": [{}]}]}) == Architecture(
        family="spikformer",
        time_steps=4,
        stem=Stem(pools=2, neuron=Neuron(v_threshold=1.0, tau=2.0)),
        stages=(Stage(embed_dim=16, blocks=(Block(num_heads=8, mlp_ratio=4.0, neuron=Neuron(), groups=NeuronGroups()),)),),
    )


def every_change_of_one_field() -> dict[str, Architecture]:
    block = Block()
    blocks = {
        "num_heads": replace(block, num_heads=4),
        "mlp_ratio": replace(block, mlp_ratio=3.5),
        "v_threshold": replace(block, neuron=Neuron(v_threshold=1.5)),
        "tau": replace(block, neuron=Neuron(tau=1.5)),
    }
    for group in GROUPS:
        blocks[f"{group}.v_threshold"] = replace(block, groups=NeuronGroups(**{group: NeuronOverride(v_threshold=1.5)}))
        blocks[f"{group}.tau"] = replace(block, groups=NeuronGroups(**{group: NeuronOverride(tau=1.5)}))
    two = small(blocks=(block, block))
    return {
        "nothing": two,
        "time_steps": small(time_steps=3, blocks=(block, block)),
        "embed_dim": small(embed_dim=32, blocks=(block, block)),
        "depth": small(blocks=(block,)),
        "pools": replace(two, stem=Stem(pools=1)),
        "stem threshold": replace(two, stem=Stem(neuron=Neuron(v_threshold=1.5))),
        "stem tau": replace(two, stem=Stem(neuron=Neuron(tau=1.5))),
        **{f"first {name}": small(blocks=(changed, block)) for name, changed in blocks.items()},
        **{f"second {name}": small(blocks=(block, changed)) for name, changed in blocks.items()},
    }


def test_any_field_changes_the_id() -> None:
    changed = every_change_of_one_field()
    assert len({architecture.id for architecture in changed.values()}) == len(changed) == 7 + 2 * (4 + 14)


def test_an_override_that_says_what_the_block_says_is_another_architecture() -> None:
    explicit = Block(groups=NeuronGroups(fc1=NeuronOverride(v_threshold=1.0)))
    assert small(blocks=(explicit,)).id != small().id


def test_architectures_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        small().time_steps = 5


def test_depth_counts_blocks() -> None:
    assert small(blocks=(Block(),) * 3).depth == 3


def test_width_of_the_mlp() -> None:
    assert Stage(embed_dim=240, blocks=(Block(),)).hidden_features(Block(mlp_ratio=3.5)) == 840


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_follows_its_block_and_attention_fires_at_half(group: str) -> None:
    block = Block(neuron=Neuron(v_threshold=1.2, tau=3))
    assert block.neuron_of(group) == Neuron(v_threshold=0.6 if group == "attention" else 1.2, tau=3)


@pytest.mark.parametrize("group", GROUPS)
def test_an_override_is_absolute_and_reaches_its_group_alone(group: str) -> None:
    block = Block(neuron=Neuron(v_threshold=2, tau=3), groups=NeuronGroups(**{group: NeuronOverride(v_threshold=0.7, tau=5)}))
    followers = {name: Neuron(v_threshold=1.0 if name == "attention" else 2.0, tau=3) for name in GROUPS}
    assert {name: block.neuron_of(name) for name in GROUPS} == {**followers, group: Neuron(v_threshold=0.7, tau=5)}


def test_an_override_may_hold_one_parameter() -> None:
    block = Block(neuron=Neuron(v_threshold=2, tau=3), groups=NeuronGroups(attention=NeuronOverride(tau=5)))
    assert block.neuron_of("attention") == Neuron(v_threshold=1.0, tau=5)


BLOCK = "stages.0.blocks.1"

REFUSED = {
    "unknown key": ("time_stepz", 2, "time_stepz"),
    "unknown key of a block": (f"{BLOCK}.heads", 2, "stages[0].blocks[1].heads"),
    "unknown group": (f"{BLOCK}.groups.softmax", {}, "stages[0].blocks[1].groups.softmax"),
    "unknown family": ("family", "resnet", "family"),
    "text for a number": ("time_steps", "2", "time_steps"),
    "half a time step": ("time_steps", 2.5, "time_steps"),
    "yes for a number": (f"{BLOCK}.num_heads", True, "stages[0].blocks[1].num_heads"),
    "text for a ratio": (f"{BLOCK}.mlp_ratio", "4", "stages[0].blocks[1].mlp_ratio"),
    "null for a threshold": (f"{BLOCK}.neuron.v_threshold", None, "stages[0].blocks[1].neuron.v_threshold"),
    "a list for a block": (BLOCK, [1], "stages[0].blocks[1]"),
    "a number for stages": ("stages", 3, "stages"),
    "no time step": ("time_steps", 0, "time_steps"),
    "no head": (f"{BLOCK}.num_heads", 0, "num_heads"),
    "heads that do not divide": (f"{BLOCK}.num_heads", 3, "num_heads"),
    "a negative ratio": (f"{BLOCK}.mlp_ratio", -1, "mlp_ratio"),
    "a threshold of zero": (f"{BLOCK}.neuron.v_threshold", 0, "v_threshold"),
    "a tau of one": (f"{BLOCK}.neuron.tau", 1, "tau"),
    "an override's threshold of zero": (f"{BLOCK}.groups.q.v_threshold", 0, "v_threshold"),
    "an override's tau of one": (f"{BLOCK}.groups.q.tau", 1, "tau"),
    "a stem's tau of one": ("stem.neuron.tau", 1, "stem.neuron"),
    "five pools": ("stem.pools", 5, "pools"),
    "an odd width": ("stages.0.embed_dim", 20, "embed_dim"),
    "no width": ("stages.0.embed_dim", 0, "embed_dim"),
    "no block": ("stages.0.blocks", [], "stages[0]"),
    "no stage": ("stages", [], "stage"),
    "two stages": ("stages", WRITTEN["stages"] * 2, "stage"),
}


@pytest.mark.parametrize(("path", "value", "field"), REFUSED.values(), ids=list(REFUSED))
def test_bad_input_is_one_line_that_names_file_and_field(path: str, value: object, field: str) -> None:
    written = edited(WRITTEN, path, value)
    message = one_line_error(lambda: Architecture.from_dict(written, source="net.json"))
    assert message.startswith("net.json: ")
    assert field in message
    assert one_line_error(lambda: Architecture.from_json(json.dumps(written), source="net.json")) == message


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
@pytest.mark.parametrize("field", ["mlp_ratio", "v_threshold", "tau"])
def test_only_finite_numbers(field: str, number: str) -> None:
    path = f"{BLOCK}.{field}" if field == "mlp_ratio" else f"{BLOCK}.neuron.{field}"
    written = json.dumps(edited(WRITTEN, path, "?")).replace('"?"', number)
    assert field in one_line_error(lambda: Architecture.from_json(written))


@pytest.mark.parametrize(("written", "missing"), [({}, "stages"), ({"stages": [{"blocks": [{}]}]}, "stages[0].embed_dim")])
def test_required_fields(written: object, missing: str) -> None:
    assert f"{missing}: required" in one_line_error(lambda: Architecture.from_dict(written))


def test_the_misspelt_key_is_named_before_the_missing_one() -> None:
    message = one_line_error(lambda: Architecture.from_dict({"stages": [{"embed_dims": 16, "blocks": [{}]}]}))
    assert "embed_dims" in message
    assert "1 more" in message


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_what_is_no_mapping(value: object) -> None:
    assert one_line_error(lambda: Architecture.from_dict(value, source="net.json")).startswith("net.json: ")


@pytest.mark.parametrize("text", ["", "{", '{"stages": [}', "{'a': 1}"])
def test_what_is_no_json(text: str) -> None:
    assert one_line_error(lambda: Architecture.from_json(text, source="net.json")).startswith("net.json: ")


def test_heads_that_do_not_divide_name_those_that_do() -> None:
    message = one_line_error(lambda: Architecture.from_dict(edited(WRITTEN, "stages.0.blocks.0.num_heads", 3)))
    assert message.endswith("choose from 1, 2, 4, 8, 16")


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Neuron(v_threshold=0), "v_threshold"),
        (lambda: Neuron(tau=1), "tau"),
        (lambda: NeuronOverride(v_threshold=-1), "v_threshold"),
        (lambda: NeuronOverride(tau=0.5), "tau"),
        (lambda: Block(num_heads=0), "num_heads"),
        (lambda: Block(mlp_ratio=0), "mlp_ratio"),
        (lambda: Stem(pools=-1), "pools"),
        (lambda: Stage(embed_dim=12, blocks=(Block(num_heads=1),)), "embed_dim"),
        (lambda: Stage(embed_dim=16, blocks=(Block(num_heads=5),)), "num_heads"),
        (lambda: Stage(embed_dim=16, blocks=()), "block"),
        (lambda: Architecture(stages=()), "stage"),
        (lambda: small(time_steps=0), "time_steps"),
    ],
)
def test_impossible_values_cannot_be_built(build: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        build()
