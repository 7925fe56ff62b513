"""Architectures: values, canonical JSON, ids, and errors of invalid input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import partial
from typing import Any

import pytest
from builders import READS, SHORTCUTS, WITH_HEADS, architectures, edited, few_examples, groups_of, leaves, one_line_error, small
from hypothesis import given

from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride, neuron_groups

VALID: dict[str, Any] = {"time_steps": 2, "stages": [{"embed_dim": 16, "blocks": [{"num_heads": 2}, {"num_heads": 4}]}]}
GROUPS = ("q", "k", "v", "attention", "projection", "fc1", "fc2")
ALL_GROUPS = ("token_input", "q", "k", "v", "attention", "sepconv", "projection", "channel_input", "fc1", "fc2")


@few_examples
@given(architectures())
def test_json_round_trip(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.id == architecture.id
    assert again.to_json() == architecture.to_json()
    assert Architecture.from_dict(architecture.to_dict()) == architecture


@few_examples
@given(architectures(), architectures())
def test_ids_are_equal_if_and_only_if_values_are_equal(one: Architecture, other: Architecture) -> None:
    assert (one.id == other.id) == (leaves(one) == leaves(other))


# Canonical JSON data by hand, with digests from `sha256sum`. Archives and run folders identify architectures by these digests.
SPIKFORMER = (
    '{"family":"spikformer","shortcut":"sew","stages":[{"blocks":['
    '{"channel_mixer":"mlp","groups":{"attention":{"tau":3.0}},"mlp_ratio":4.0,"neuron":{"tau":2.0,"v_threshold":1.0},'
    '"num_heads":2,"projection":"linear","qkv":"linear","token_mixer":"sdsa_3"}],"embed_dim":16,'
    '"embedding":{"neuron":{"tau":2.0,"v_threshold":1.0},"stride":1}}],"time_steps":4}'
)
META_SPIKEFORMER = (
    '{"attention_scale":1.0,"distilled":true,"family":"meta_spikeformer","qkv_bias":true,"shortcut":"membrane","stages":[{"blocks":['
    '{"channel_mixer":"conv","groups":{"sepconv":{"v_threshold":0.5}},"mlp_ratio":2.0,"neuron":{"tau":1.5,"v_threshold":1.0},'
    '"token_mixer":"sepconv"}],"embed_dim":6,"embedding":{"neuron":{"tau":2.0,"v_threshold":1.0},"stride":2}},{"blocks":['
    '{"channel_mixer":"mlp","mlp_ratio":4.0,"neuron":{"tau":2.0,"v_threshold":1.0},"projection":"repconv","qkv":"repconv",'
    '"token_mixer":"sdsa_1"},{"channel_mixer":"mlp","mlp_ratio":4.0,"neuron":{"tau":2.0,"v_threshold":1.0},'
    '"token_mixer":"none"}],"embed_dim":12,"embedding":{"neuron":{"tau":2.0,"v_threshold":2.0},"stride":1}}],"time_steps":1}'
)


def reference_architectures() -> dict[str, Architecture]:
    attention = NeuronGroups(attention=NeuronOverride(tau=3))
    convolution = NeuronGroups(sepconv=NeuronOverride(v_threshold=0.5))
    first = Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=2, neuron=Neuron(tau=1.5), groups=convolution)
    second = (Block(token_mixer="sdsa_1", qkv="repconv", projection="repconv"), Block(token_mixer="none"))
    return {
        SPIKFORMER: Architecture(stages=(Stage(embed_dim=16, blocks=(Block(num_heads=2, groups=attention),)),)),
        META_SPIKEFORMER: Architecture(
            family="meta_spikeformer",
            time_steps=1,
            shortcut="membrane",
            qkv_bias=True,
            attention_scale=1,
            distilled=True,
            stages=(
                Stage(embed_dim=6, embedding=Embedding(stride=2), blocks=(first,)),
                Stage(embed_dim=12, embedding=Embedding(neuron=Neuron(v_threshold=2)), blocks=second),
            ),
        ),
    }


@pytest.mark.parametrize(
    ("canonical", "name"), [(SPIKFORMER, "67baa1ef8e6c"), (META_SPIKEFORMER, "b9db55046cd8")], ids=["spikformer", "meta"]
)
def test_id_is_the_digest_of_the_canonical_json(canonical: str, name: str) -> None:
    architecture = reference_architectures()[canonical]
    assert architecture.to_json() == canonical
    assert architecture.id == name == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert Architecture.from_json(canonical) == architecture


def test_integers_and_equal_floats_give_the_same_id() -> None:
    whole = Block(mlp_ratio=4, neuron=Neuron(v_threshold=1, tau=3), groups=NeuronGroups(q=NeuronOverride(v_threshold=2, tau=5)))
    point = Block(
        mlp_ratio=4.0, neuron=Neuron(v_threshold=1.0, tau=3.0), groups=NeuronGroups(q=NeuronOverride(v_threshold=2.0, tau=5.0))
    )
    assert small(blocks=(whole,)) == small(blocks=(point,))
    assert small(blocks=(whole,)).id == small(blocks=(point,)).id


def test_json_integers_and_equal_floats_give_the_same_id() -> None:
    text = '{"stages": [{"embed_dim": 16, "blocks": [{"num_heads": 2, "mlp_ratio": %s, "neuron": {"tau": %s}}]}]}'
    assert Architecture.from_json(text % (4, 3)).id == Architecture.from_json(text % ("4.0", "3.0")).id


def test_id_is_independent_of_key_order_and_whitespace() -> None:
    architecture = Architecture.from_dict(VALID)
    keys_reversed = json.dumps({key: architecture.to_dict()[key] for key in reversed(architecture.to_dict())}, indent=3)
    assert Architecture.from_json(keys_reversed).id == architecture.id


def test_missing_fields_have_the_published_defaults() -> None:
    neuron = Neuron(v_threshold=1.0, tau=2.0)
    block = Block(
        token_mixer="sdsa_3",
        channel_mixer="mlp",
        num_heads=8,
        qkv="linear",
        projection="linear",
        mlp_ratio=4.0,
        layer_scale=False,
        neuron=neuron,
        groups=NeuronGroups(),
    )
    assert Architecture.from_dict({"stages": [{"embed_dim": 16, "blocks": [{}]}]}) == Architecture(
        family="spikformer",
        time_steps=4,
        shortcut="sew",
        qkv_bias=False,
        attention_scale=0.125,
        compact_embedding=False,
        distilled=False,
        conv_bias=False,
        mean_head=False,
        stages=(Stage(embed_dim=16, embedding=Embedding(stride=1, neuron=neuron), blocks=(block,)),),
    )


def block_with_mixer(token_mixer: str) -> Block:
    """Return a default block with another token mixer."""
    fields: dict[str, Any] = {"token_mixer": token_mixer}
    return Block(**fields)


def changes_of_one_field() -> dict[str, Architecture]:
    block = Block()
    blocks = {
        "num_heads": replace(block, num_heads=4),
        "mlp_ratio": replace(block, mlp_ratio=3.5),
        "v_threshold": replace(block, neuron=Neuron(v_threshold=1.5)),
        "tau": replace(block, neuron=Neuron(tau=1.5)),
        "qkv": replace(block, qkv="repconv"),
        "projection": replace(block, projection="repconv"),
        "channel_mixer": replace(block, channel_mixer="conv"),
        "integrates": replace(block, neuron=Neuron(integrates=False)),
        **{mixer: block_with_mixer(mixer) for mixer in READS if mixer != "sdsa_3"},
    }
    for group in GROUPS:
        blocks[f"{group}.v_threshold"] = replace(block, groups=NeuronGroups(**{group: NeuronOverride(v_threshold=1.5)}))
        blocks[f"{group}.tau"] = replace(block, groups=NeuronGroups(**{group: NeuronOverride(tau=1.5)}))
    two = small(blocks=(block, block))
    (stage,) = two.stages
    return {
        "nothing": two,
        "time_steps": small(time_steps=3, blocks=(block, block)),
        "embed_dim": small(embed_dim=32, blocks=(block, block)),
        "depth": small(blocks=(block,)),
        "stages": replace(two, family="meta_spikeformer", stages=(replace(stage, blocks=(block,)),) * 2),
        "stride": replace(two, stages=(replace(stage, embedding=Embedding(stride=2)),)),
        "embedding's threshold": replace(two, stages=(replace(stage, embedding=Embedding(neuron=Neuron(v_threshold=1.5))),)),
        "embedding's tau": replace(two, stages=(replace(stage, embedding=Embedding(neuron=Neuron(tau=1.5))),)),
        "family": replace(two, family="meta_spikeformer"),
        "shortcut": replace(two, shortcut="vanilla"),
        "qkv_bias": replace(two, qkv_bias=True),
        "attention_scale": replace(two, attention_scale=0.25),
        "distilled": replace(two, distilled=True),
        "conv_bias": replace(two, conv_bias=True),
        "exit_margin": replace(two, exit_margin=0.5),
        "another family": replace(two, family="qkformer"),
        "compact_embedding": replace(two, family="qkformer", compact_embedding=True),
        **{f"first {name}": small(blocks=(changed, block)) for name, changed in blocks.items()},
        **{f"second {name}": small(blocks=(block, changed)) for name, changed in blocks.items()},
    }


def test_every_field_changes_the_id() -> None:
    changed = changes_of_one_field()
    assert len({architecture.id for architecture in changed.values()}) == len(changed) == 17 + 2 * (4 + 4 + 8 + 14)


def test_a_redundant_neuron_override_changes_the_id() -> None:
    explicit = Block(groups=NeuronGroups(fc1=NeuronOverride(v_threshold=1.0)))
    assert small(blocks=(explicit,)).id != small().id


def test_architectures_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        small().time_steps = 5  # type: ignore[misc]


def test_depth_is_the_number_of_blocks() -> None:
    assert small(blocks=(Block(),) * 3).depth == 3


def test_hidden_features_of_the_mlp() -> None:
    assert Stage(embed_dim=240, blocks=(Block(),)).hidden_features(Block(mlp_ratio=3.5)) == 840


def test_stride_is_the_product_of_the_stage_strides() -> None:
    stages = tuple(Stage(embed_dim=8, embedding=Embedding(stride=stride), blocks=(Block(),)) for stride in (4, 2, 1, 2))
    assert Architecture(family="qkformer", stages=stages).stride == 16
    assert Architecture(family="qkformer", stages=stages).depth == 4


def test_fields_without_effect_are_none() -> None:
    found = {mixer: (block.num_heads, block.qkv, block.projection) for mixer in READS for block in [block_with_mixer(mixer)]}
    assert found == {
        "sdsa_1": (None, "linear", "linear"),
        "sdsa_1_dilated": (8, "linear", "linear"),
        "sdsa_2": (None, "linear", "linear"),
        "sdsa_3": (8, "linear", "linear"),
        "sdsa_4": (8, "linear", "linear"),
        "token_qk": (8, "linear", "linear"),
        "channel_qk": (None, "linear", "linear"),
        "sepconv": (None, None, None),
        "none": (None, None, None),
    }


@pytest.mark.parametrize("mixer", sorted(READS))
@pytest.mark.parametrize(("name", "value"), [("num_heads", 2), ("qkv", "linear"), ("projection", "repconv")])
def test_fields_without_effect_are_rejected(mixer: str, name: str, value: object) -> None:
    data = {"stages": [{"embed_dim": 16, "blocks": [{"token_mixer": mixer, name: value}]}]}
    if mixer in WITH_HEADS if name == "num_heads" else READS[mixer]:
        assert getattr(Architecture.from_dict(data).stages[0].blocks[0], name) == value
    else:
        message = one_line_error(lambda: Architecture.from_dict(data))
        assert f"stages[0].blocks[0]: {name} has no effect with token_mixer {mixer}" in message


def dict_with_override(mixer: str, shortcut: str, group: str, override: object) -> dict[str, object]:
    block = {"token_mixer": mixer, "groups": {group: override}}
    return {"family": "meta_spikeformer", "shortcut": shortcut, "stages": [{"embed_dim": 16, "blocks": [block]}]}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("mixer", sorted(READS))
def test_absent_neuron_groups_are_rejected(mixer: str, shortcut: str) -> None:
    for group in ALL_GROUPS:
        for override in ({"tau": 2.5}, {"v_threshold": 0.5}):
            data = dict_with_override(mixer, shortcut, group, override)
            if group in groups_of(mixer, shortcut):
                assert Architecture.from_dict(data).to_dict()["stages"][0]["blocks"][0]["groups"] == {group: override}
            else:
                message = one_line_error(partial(Architecture.from_dict, data))
                assert (
                    f"groups.{group}: this neuron group does not exist with token_mixer {mixer} and {shortcut} shortcuts" in message
                )
                named = message.partition("choose from ")[2].split(", ")
                assert sorted(named) == sorted(groups_of(mixer, shortcut))


@pytest.mark.parametrize(
    ("mixer", "shortcut", "groups"),
    [
        ("sdsa_3", "sew", ("q", "k", "v", "attention", "projection", "fc1", "fc2")),
        ("sdsa_2", "vanilla", ("q", "v", "attention", "projection", "fc1", "fc2")),
        ("token_qk", "membrane", ("token_input", "q", "k", "attention", "channel_input", "fc1")),
        ("sepconv", "membrane", ("token_input", "sepconv", "channel_input", "fc1")),
        ("sepconv", "sew", ("sepconv", "projection", "fc1", "fc2")),
        ("none", "membrane", ("channel_input", "fc1")),
        ("none", "vanilla", ("fc1", "fc2")),
    ],
)
def test_neuron_groups_are_in_firing_order(mixer: str, shortcut: str, groups: tuple[str, ...]) -> None:
    assert neuron_groups(mixer, "mlp", shortcut) == groups


def test_a_block_without_a_channel_mixer_has_the_groups_of_its_token_mixer() -> None:
    assert neuron_groups("spiking_sepconv_3", "none", "membrane") == ("token_input", "sepconv", "depthwise")
    assert neuron_groups("dwc_7", "none", "sew") == ("projection",)


def test_a_block_needs_a_mixer() -> None:
    with pytest.raises(ValueError, match="both are none"):
        Block(token_mixer="none", channel_mixer="none")
    with pytest.raises(ValueError, match="mlp_ratio has no effect with channel_mixer mlp_residual"):
        Block(channel_mixer="mlp_residual", mlp_ratio=2)


def test_fields_with_their_default_are_left_out_of_the_json() -> None:
    """So that ids of architectures without integer neurons and without embedding kinds do not change."""
    stage = Stage(embed_dim=16, embedding=Embedding(stride=2, kind="embed_max"), blocks=(Block(neuron=Neuron(levels=4)),))
    plain = Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=(Block(),))
    text, old = (Architecture(family="qkformer", stages=(s,)).to_json() for s in (stage, plain))
    assert '"kind":"embed_max"' in text
    assert '"levels":4' in text
    assert not any(name in old for name in ("kind", "levels", "leak", "normalised"))
    assert Architecture.from_json(text).to_json() == text
    early = Architecture(family="qkformer", stages=(plain,), exit_margin=0.4)
    assert '"exit_margin":0.4' in early.to_json()
    assert "exit_margin" not in old
    assert Architecture.from_json(early.to_json()) == early


def test_an_override_of_the_levels_to_one_is_written() -> None:
    block = Block(neuron=Neuron(levels=4), groups=NeuronGroups(q=NeuronOverride(levels=1)))
    architecture = Architecture(stages=(Stage(embed_dim=16, blocks=(block,)),))
    assert architecture.stages[0].blocks[0].neuron_of("q").levels == 1
    assert Architecture.from_json(architecture.to_json()) == architecture


@pytest.mark.parametrize("group", ALL_GROUPS)
def test_groups_default_to_the_neuron_of_the_block_with_half_the_threshold_in_attention(group: str) -> None:
    block = Block(neuron=Neuron(v_threshold=1.2, tau=3))
    assert block.neuron_of(group) == Neuron(v_threshold=0.6 if group == "attention" else 1.2, tau=3)


@pytest.mark.parametrize("group", ALL_GROUPS)
def test_an_override_sets_the_neuron_of_its_group_only(group: str) -> None:
    block = Block(neuron=Neuron(v_threshold=2, tau=3), groups=NeuronGroups(**{group: NeuronOverride(v_threshold=0.7, tau=5)}))
    defaults = {name: Neuron(v_threshold=1.0 if name == "attention" else 2.0, tau=3) for name in ALL_GROUPS}
    assert {name: block.neuron_of(name) for name in ALL_GROUPS} == {**defaults, group: Neuron(v_threshold=0.7, tau=5)}


def test_an_override_of_one_parameter_leaves_the_other() -> None:
    block = Block(neuron=Neuron(v_threshold=2, tau=3), groups=NeuronGroups(attention=NeuronOverride(tau=5)))
    assert block.neuron_of("attention") == Neuron(v_threshold=1.0, tau=5)


BLOCK = "stages.0.blocks.1"

INVALID = {
    "unknown key": ("time_stepz", 2, "time_stepz"),
    "unknown key of a block": (f"{BLOCK}.heads", 2, "stages[0].blocks[1].heads"),
    "unknown group": (f"{BLOCK}.groups.softmax", {}, "stages[0].blocks[1].groups.softmax"),
    "unknown family": ("family", "resnet", "family"),
    "text for a number": ("time_steps", "2", "time_steps"),
    "fractional time steps": ("time_steps", 2.5, "time_steps"),
    "boolean for a number": (f"{BLOCK}.num_heads", True, "stages[0].blocks[1].num_heads"),
    "text for a ratio": (f"{BLOCK}.mlp_ratio", "4", "stages[0].blocks[1].mlp_ratio"),
    "null for a threshold": (f"{BLOCK}.neuron.v_threshold", None, "stages[0].blocks[1].neuron.v_threshold"),
    "a list for a block": (BLOCK, [1], "stages[0].blocks[1]"),
    "a number for stages": ("stages", 3, "stages"),
    "zero time steps": ("time_steps", 0, "time_steps"),
    "zero heads": (f"{BLOCK}.num_heads", 0, "num_heads"),
    "heads that do not divide the width": (f"{BLOCK}.num_heads", 3, "num_heads"),
    "a negative ratio": (f"{BLOCK}.mlp_ratio", -1, "mlp_ratio"),
    "a threshold of zero": (f"{BLOCK}.neuron.v_threshold", 0, "v_threshold"),
    "a tau of one": (f"{BLOCK}.neuron.tau", 1, "tau"),
    "an override's threshold of zero": (f"{BLOCK}.groups.q.v_threshold", 0, "v_threshold"),
    "an override's tau of one": (f"{BLOCK}.groups.q.tau", 1, "tau"),
    "an embedding's tau of one": ("stages.0.embedding", {"neuron": {"tau": 1}}, "stages[0].embedding.neuron"),
    "a stride of three": ("stages.0.embedding", {"stride": 3}, "stages[0].embedding.stride"),
    "fractional stride": ("stages.0.embedding", {"stride": 0.5}, "stages[0].embedding.stride"),
    "removed field stem": ("stem", {"pools": 2}, "stem"),
    "an unknown shortcut": ("shortcut", "resnet", "shortcut"),
    "a shortcut of another family": ("shortcut", "membrane", "shortcut"),
    "an unknown token mixer": (f"{BLOCK}.token_mixer", "softmax", "stages[0].blocks[1].token_mixer"),
    "an unknown channel mixer": (f"{BLOCK}.channel_mixer", "attention", "stages[0].blocks[1].channel_mixer"),
    "an unknown synapse": (f"{BLOCK}.qkv", "conv", "stages[0].blocks[1].qkv"),
    "text for a boolean": ("qkv_bias", "yes", "qkv_bias"),
    "number for a boolean": ("distilled", 1, "distilled"),
    "a form of another family": ("compact_embedding", True, "compact_embedding"),
    "text for a scale": ("attention_scale", "0.1", "attention_scale"),
    "a list of families": ("family", ["spikformer"], "family"),
    "null for a family": ("family", None, "family"),
    "width that is not a multiple of 8": ("stages.0.embed_dim", 20, "embed_dim"),
    "zero width": ("stages.0.embed_dim", 0, "embed_dim"),
    "no blocks": ("stages.0.blocks", [], "stages[0]"),
    "no stages": ("stages", [], "stage"),
    "a margin above 1": ("exit_margin", 1.5, "exit_margin"),
    "a negative margin": ("exit_margin", -0.5, "exit_margin"),
    "two stages": ("stages", VALID["stages"] * 2, "stage"),
}


@pytest.mark.parametrize(("path", "value", "field"), INVALID.values(), ids=list(INVALID))
def test_invalid_input_is_a_one_line_error_naming_file_and_field(path: str, value: object, field: str) -> None:
    data = edited(VALID, path, value)
    message = one_line_error(lambda: Architecture.from_dict(data, source="net.json"))
    assert message.startswith("net.json: ")
    assert field in message
    assert one_line_error(lambda: Architecture.from_json(json.dumps(data), source="net.json")) == message


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
@pytest.mark.parametrize("path", ["attention_scale", f"{BLOCK}.mlp_ratio", f"{BLOCK}.neuron.v_threshold", f"{BLOCK}.neuron.tau"])
def test_non_finite_numbers_are_rejected(path: str, number: str) -> None:
    data = json.dumps(edited(VALID, path, "?")).replace('"?"', number)
    assert path.split(".")[-1] in one_line_error(lambda: Architecture.from_json(data))


@pytest.mark.parametrize(("data", "missing"), [({}, "stages"), ({"stages": [{"blocks": [{}]}]}, "stages[0].embed_dim")])
def test_missing_required_fields_are_named(data: object, missing: str) -> None:
    assert f"{missing}: required" in one_line_error(lambda: Architecture.from_dict(data))


def test_unknown_keys_are_named_before_missing_ones() -> None:
    message = one_line_error(lambda: Architecture.from_dict({"stages": [{"embed_dims": 16, "blocks": [{}]}]}))
    assert "embed_dims" in message
    assert "1 more" in message


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_a_value_that_is_not_a_mapping_is_rejected(value: object) -> None:
    assert one_line_error(lambda: Architecture.from_dict(value, source="net.json")).startswith("net.json: ")


@pytest.mark.parametrize("text", ["", "{", '{"stages": [}', "{'a': 1}"])
def test_invalid_json_is_rejected(text: str) -> None:
    assert one_line_error(lambda: Architecture.from_json(text, source="net.json")).startswith("net.json: ")


def test_valid_numbers_of_heads_are_listed_in_the_error() -> None:
    message = one_line_error(lambda: Architecture.from_dict(edited(VALID, "stages.0.blocks.0.num_heads", 3)))
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
        (lambda: Block(token_mixer="none", num_heads=1), "num_heads"),
        (lambda: small(embed_dim=12, blocks=(Block(num_heads=1),)), "embed_dim"),
        (lambda: Stage(embed_dim=1, blocks=(Block(num_heads=1, mlp_ratio=0.4),)), "mlp_ratio"),
        (lambda: Architecture(stages=(Stage(embed_dim=8, embedding=Embedding(stride=0), blocks=(Block(),)),)), "stride"),
        (lambda: Architecture(family="resnet", stages=small().stages), "family"),
        (lambda: Architecture(shortcut="membrane", stages=small().stages), "shortcut"),
        (lambda: Stage(embed_dim=16, blocks=(Block(num_heads=5),)), "num_heads"),
        (lambda: Stage(embed_dim=0, blocks=()), "embed_dim"),
        (lambda: Architecture(stages=(Stage(embed_dim=16, blocks=()),)), "block"),
        (lambda: replace(small(), mean_head=True), "mean_head"),
        (lambda: small(blocks=(Block(layer_scale=True),)), "layer_scale"),
        (lambda: Architecture(stages=()), "stage"),
        (lambda: small(time_steps=0), "time_steps"),
    ],
)
def test_constructors_reject_invalid_values(build: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        build()
