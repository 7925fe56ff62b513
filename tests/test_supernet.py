"""Weight entanglement: leading corners, bit-identical views, extraction and export, and the effect of every gene."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from builders import FAMILIES, READS, WITH_HEADS, groups_of
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.func import functional_call

import autospike  # noqa: F401  (registers the models with timm)
from autospike.counting.counter import Counter
from autospike.energy.counts import LayerCount
from autospike.evaluation.calibration import calibrate
from autospike.model_folder import InputSpec, write_model
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes
from autospike.supernet import Supernet, corner

NEURON = {"v_threshold": [0.4, 0.8], "tau": [1.5, 3.0]}
OVERRIDE = {"v_threshold": [0.3, 0.7], "tau": [1.25, 2.5]}

# Attention neurons read sums of spikes, so their thresholds are large; with a small threshold any spike would cause a spike.
ATTENTION = {"v_threshold": [5.0, 9.0], "tau": [1.25, 2.5]}
ATTENTION_OF_A_HEAD = {"v_threshold": [1.0, 2.0], "tau": [1.25, 2.5]}

BLOCK = {
    "token_mixer": list(READS),
    "channel_mixer": ["mlp", "conv"],
    "num_heads": [2, 4],
    "qkv": ["linear", "repconv"],
    "projection": ["linear", "repconv"],
    "mlp_ratio": [1, 2],
    "neuron": NEURON,
}

# The family with all shortcuts. In this family genes are changed with every token mixer.
ALL_MIXERS = "meta_spikeformer"

# Fields that are no genes but change the parameters.
SETTINGS: dict[str, dict[str, bool]] = {
    "spikformer": {"qkv_bias": True},
    "meta_spikeformer": {"distilled": True},
    "qkformer": {"compact_embedding": True},
}


def all_sizes(family: str) -> dict[str, Any]:
    """Return a space with every gene except those of neuron groups; two stages if the family allows several."""
    shortcuts, _, later, _ = FAMILIES[family]
    stages = [
        {"embed_dim": widths, "embedding": {"stride": [1, 2], "neuron": NEURON}, "depth": [1, 2], "block": BLOCK}
        for widths in ([16, 24], [16, 32])
    ]
    count = 2 if later else 1
    return {
        "family": family,
        "time_steps": [2, 3],
        "shortcut": list(shortcuts),
        **SETTINGS.get(family, {}),
        "stages": stages[:count],
    }


def all_groups(family: str) -> dict[str, Any]:
    """Return a space with the neuron groups of one block for each token mixer, in some families for a part of the mixers."""
    shortcuts = FAMILIES[family][0]
    blocks: list[dict[str, Any]] = []
    for mixer in READS if family == ALL_MIXERS else ("sdsa_3", "sepconv", "token_qk"):
        groups = {group: OVERRIDE for shortcut in shortcuts for group in sorted(groups_of(mixer, shortcut))}
        if "attention" in groups:
            groups["attention"] = ATTENTION_OF_A_HEAD if mixer in ("token_qk", "sdsa_3", "sdsa_4") else ATTENTION
        blocks.append({"token_mixer": mixer, "mlp_ratio": 1, "groups": groups, **({"num_heads": 2} if mixer in WITH_HEADS else {})})
    stage = {"embed_dim": 16, "depth": len(blocks), "blocks": blocks}
    return {"family": family, "time_steps": 3, "shortcut": list(shortcuts), "attention_scale": 0.5, "stages": [stage]}


# Integer neurons, with more and fewer levels in every group.
LEVELS = {
    "family": "meta_spikeformer",
    "time_steps": [1, 2],
    "shortcut": ["membrane", "sew"],
    "attention_scale": 0.5,
    "stages": [
        {
            "embed_dim": 16,
            "embedding": {"stride": 2, "neuron": {"levels": [1, 4]} if stage else {}},
            "depth": 1,
            "block": {
                "token_mixer": ["sdsa_3", "sdsa_1"],
                "num_heads": 2,
                "mlp_ratio": 1,
                "neuron": {"levels": [2, 4], "normalised": bool(stage), "v_threshold": 0.5},
                "groups": {"q": {"levels": [1, 3]}, "attention": {"levels": [2, 4]}, "fc1": {"levels": [1, 5]}},
            },
        }
        for stage in (0, 1)
    ],
}

NEURON_LEVELS = {"levels": [1, 4], "v_threshold": 0.5, "normalised": True}
# Blocks of E-SpikeFormer: convolutional ones, and transformer blocks in two parts.
E_SPIKEFORMER = {
    "family": "e_spikeformer",
    "time_steps": [1, 2],
    "shortcut": "membrane",
    "stages": [
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": 2},
            "depth": 1,
            "block": {
                "token_mixer": ["spiking_sepconv_7", "spiking_sepconv_3"],
                "channel_mixer": ["conv", "none"],
                "mlp_ratio": 1,
                "neuron": NEURON_LEVELS,
                "groups": {"depthwise": {"v_threshold": [0.3, 0.7]}, "sepconv": {"tau": [1.5, 3.0]}},
            },
        },
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": 1, "neuron": NEURON_LEVELS},
            "depth": [2, 3],
            "block": {"token_mixer": ["e_sdsa", "sdsa_3"], "num_heads": [2, 4], "mlp_ratio": [1, 2], "neuron": NEURON_LEVELS},
        },
    ],
}
# The event forms of E-SpikeFormer with neurons that integrate without a leak.
INTEGERS_WITHOUT_LEAK = {"levels": [2, 4], "v_threshold": 0.5, "leak": False}
E_SPIKEFORMER_INTEGRATING = {
    "family": "e_spikeformer",
    "time_steps": [1, 2],
    "shortcut": "membrane",
    "stages": [
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": 2},
            "depth": 1,
            "block": {
                "token_mixer": ["spiking_sepconv_3", "spiking_sepconv_7"],
                "channel_mixer": ["conv", "none"],
                "mlp_ratio": [1, 2],
                "neuron": INTEGERS_WITHOUT_LEAK,
            },
        },
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": 2, "neuron": INTEGERS_WITHOUT_LEAK},
            "depth": [2, 3],
            "block": {
                "token_mixer": ["e_sdsa", "sdsa_3"],
                "num_heads": 2,
                "mlp_ratio": 1,
                "layer_scale": True,
                "neuron": INTEGERS_WITHOUT_LEAK,
            },
        },
    ],
}
# The large forms of E-SpikeFormer, with a stage that is an embedding alone.
E_SPIKEFORMER_LARGE = {
    "family": "e_spikeformer",
    "time_steps": [1, 2],
    "shortcut": "membrane",
    "distilled": True,
    "conv_bias": True,
    "mean_head": True,
    "stages": [
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": 2},
            "depth": 1,
            "block": {"token_mixer": "none", "channel_mixer": ["conv", "replinear"], "mlp_ratio": [1, 2], "neuron": NEURON_LEVELS},
        },
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": 2, "neuron": NEURON_LEVELS},
            "depth": [2, 3],
            "block": {
                "token_mixer": ["sdsa_3", "none"],
                "channel_mixer": ["mlp", "replinear"],
                "qkv": ["replinear", "linear"],
                "projection": ["linear", "replinear"],
                "num_heads": 2,
                "mlp_ratio": 1,
                "layer_scale": True,
                "neuron": {**NEURON_LEVELS, "integrates": False, "tau": 2.0},
            },
        },
        {"embed_dim": [16, 24], "depth": 0},
    ],
}
# Mixers and embeddings of Max-Former.
MAX_FORMER = {
    "family": "max_former",
    "time_steps": 2,
    "shortcut": ["membrane", "sew"],
    "stages": [
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": [1, 2], "kind": ["family", "embed_max"], "neuron": NEURON},
            "depth": 1,
            "block": {
                "token_mixer": ["dwc_3", "dwc_5", "none"],
                "channel_mixer": ["mlp", "mlp_residual"],
                "mlp_ratio": [1, 2],
                "neuron": NEURON,
                "groups": {"fc1": {"tau": [1.25, 2.5]}},
            },
        },
        {
            "embed_dim": [16, 24],
            "embedding": {"stride": [1, 2], "kind": ["family", "embed_orig", "embed_max_plus"], "neuron": NEURON},
            "depth": 1,
            "block": {"token_mixer": ["sdsa_3", "dwc_7"], "num_heads": 2, "mlp_ratio": 1, "neuron": NEURON},
        },
    ],
}

# Small spaces of each family that together vary every gene of the family.
FREE_SPACES: dict[str, dict[str, Any]] = {
    **{family: all_sizes(family) for family in FAMILIES},
    **{f"{family}, neuron groups": all_groups(family) for family in FAMILIES},
    "integer neurons": LEVELS,
    "e_spikeformer": E_SPIKEFORMER,
    "e_spikeformer integrating": E_SPIKEFORMER_INTEGRATING,
    "e_spikeformer large": E_SPIKEFORMER_LARGE,
    "max_former": MAX_FORMER,
}


def free_space(name: str) -> SearchSpace:
    return SearchSpace.from_dict(FREE_SPACES[name])


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


@cache
def spiking_supernet(name: str) -> Supernet:
    """Return a supernet with normalisations that lead to spikes in most neurons, including those of the head."""
    torch.manual_seed(0)
    supernet = Supernet(free_space(name), num_classes=4, in_chans=1)
    for key, parameter in supernet.shared.named_parameters():
        if key.endswith("threshold_scale"):
            nn.init.constant_(parameter, 0.7)  # with the initial value 1, SDSA-4 equals SDSA-3
        elif key.split(".")[-2].endswith("bn"):
            nn.init.normal_(parameter, 1 if key.endswith("weight") else 0.4, 0.5)
    return supernet


def calibrated(model: SpikingModel) -> SpikingModel:
    calibrate(model, [images(12)], time_steps=3)
    return model


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the parameters of a plain model."""
    model = build_model(architecture, num_classes=4, in_chans=1)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def samples(name: str, count: int) -> list[Architecture]:
    rng = random.Random(3)
    return [free_space(name).sample(rng) for _ in range(count)]


@dataclass
class Observation:
    """Outputs of the segments of a model, its logits and its counts."""

    segments: list[Tensor]
    logits: Tensor
    counts: tuple[LayerCount, ...]


def with_inherited_weights(supernet: Supernet, architecture: Architecture) -> SpikingModel:
    """Return a new model with the leading corners of the shared parameters."""
    model, shared = build_model(architecture, num_classes=4, in_chans=1), dict(supernet.shared.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(shared[name][tuple(slice(size) for size in parameter.shape)])
    return model


def observe(supernet: Supernet, architecture: Architecture) -> Observation:
    model, counter, seen = calibrated(with_inherited_weights(supernet, architecture)), Counter(), []
    for stage in model.stages:
        for segment in (stage.embedding, *stage.blocks):  # type: ignore[misc]
            segment.register_forward_hook(lambda _m, _a, out: seen.append(out))
    x = images(8)
    with torch.no_grad(), counter.watch(model, images=8, time_steps=architecture.time_steps):
        logits = model(x)
    return Observation(seen, logits, counter.operations().counts)


@dataclass
class Change:
    """A gene with another value, with the same shared parameters."""

    path: GenePath
    value: Any
    start: Architecture
    changed: Architecture
    before: Observation
    after: Observation

    @property
    def is_alive(self) -> bool:
        return self.before.counts != self.after.counts or not torch.equal(self.before.logits, self.after.logits)

    @property
    def segments_before(self) -> int:
        """Return the number of segments before that of the gene."""
        match self.path:
            case ("stages", int(stage), "blocks", int(block), *_):
                inside = 1 + block
            case ("stages", int(stage), "depth"):
                inside = 1 + min(len(a.stages[stage].blocks) for a in (self.start, self.changed))
            case ("stages", int(stage), *_):
                inside = 0
            case ("time_steps",):  # the first steps are equal
                return len(self.before.segments)
            case _:
                return 0
        return sum(1 + len(s.blocks) for s in self.start.stages[:stage]) + inside


def replaced(space: SearchSpace, architecture: Architecture, path: GenePath, value: Any) -> Architecture:
    return visit_genes(space, lambda gene, at, *v: value if at == path else (v[0] if v else gene.values[0]), architecture)


def initial_architectures(space: SearchSpace) -> list[Architecture]:
    """Return architectures with every shortcut, and with every token mixer at every position."""
    return [replaced(space, a, ("shortcut",), shortcut) for shortcut in space.shortcut.values for a in space.cover()]


def other_values(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Return the other values of a gene, but a single one of many token mixers, to limit the number of pairs."""
    if len(values) <= 3:
        return tuple(v for v in values if v != value)
    return (values[(values.index(value) + 1) % len(values)],)


def context_of(architecture: Architecture, path: GenePath) -> str:
    """Return the gene and the token mixer of its block, on which its effect depends."""
    match path:
        case ("stages", int(stage), "blocks", int(block), *_):
            return architecture.stages[stage].blocks[block].token_mixer
    return ""


def changes(name: str) -> Iterator[Change]:
    """Yield a change of every gene at every position, and in one family with every token mixer."""
    space = free_space(name)
    done: set[tuple[Any, ...]] = set()
    for start in initial_architectures(space):
        before = None
        for found in space.genes(start):
            for value in other_values(found.gene.values, found.value):
                mixer = context_of(start, found.path) if space.family == ALL_MIXERS else ""
                keys = {(found.path, value), (found.path[4:] or found.path, value, mixer)}
                if not keys <= done:
                    done |= keys
                    before = before or observe(spiking_supernet(name), start)
                    changed = replaced(space, start, found.path, value)
                    yield Change(found.path, value, start, changed, before, observe(spiking_supernet(name), changed))


@pytest.mark.parametrize("name", slow_except(["spikformer", "spike_driven", "e_spikeformer", "e_spikeformer large"], FREE_SPACES))
class TestContract:
    """Requirements of a supernet that every family fulfils."""

    @settings(max_examples=4, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_every_parameter_of_a_subnet_is_a_corner_of_a_shared_one(self, name: str, seed: int) -> None:
        shared = {key: tuple(p.shape) for key, p in spiking_supernet(name).shared.named_parameters()}
        needed = parameter_shapes(free_space(name).sample(random.Random(seed)))
        assert needed.keys() <= shared.keys()
        for key, shape in needed.items():
            assert len(shape) == len(shared[key])
            assert all(small <= large for small, large in zip(shape, shared[key], strict=True))

    def test_views_and_extracted_subnets_are_bit_identical(self, name: str) -> None:
        supernet = spiking_supernet(name)
        for architecture in samples(name, 3):
            extracted = calibrated(supernet.extract(architecture))
            state = {**dict(extracted.named_buffers()), **supernet.view(architecture)}
            with torch.no_grad():
                assert torch.equal(functional_call(extracted, state, (images(),)), extracted(images()))

    def test_extracted_parameters_equal_the_corners(self, name: str) -> None:
        shared = dict(spiking_supernet(name).shared.named_parameters())
        for architecture in [free_space(name).smallest(), *samples(name, 3)]:
            for key, parameter in spiking_supernet(name).extract(architecture).named_parameters():
                for index in ([0] * parameter.dim(), [size - 1 for size in parameter.shape]):
                    assert parameter[tuple(index)] == shared[key][tuple(index)]

    def test_training_a_subnet_changes_only_its_corners(self, name: str) -> None:
        supernet = spiking_supernet(name)
        for architecture in [free_space(name).smallest(), *samples(name, 3)]:
            supernet.zero_grad(set_to_none=True)
            (answer,) = supernet(images(16), [architecture])
            sum(logits.square().sum() for logits in (answer if isinstance(answer, tuple) else (answer,))).backward()
            sizes, touched = parameter_shapes(architecture), 0
            for key, parameter in supernet.shared.named_parameters():
                if key not in sizes:
                    assert parameter.grad is None
                    continue
                assert parameter.grad is not None
                inside = corner(parameter.grad, sizes[key])
                assert parameter.grad.count_nonzero() == inside.count_nonzero()
                touched += int(inside.count_nonzero() > 0)
            assert touched > 0.8 * len(sizes)
        supernet.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", slow_except(["spikformer"], FREE_SPACES))
def test_every_gene_changes_its_segment_and_no_earlier_one(name: str) -> None:
    """The outputs or the counts change."""
    for change in changes(name):
        said = f"{change.path} = {change.value} beside {context_of(change.start, change.path)}"
        assert change.is_alive, f"{said} is a dead gene"
        pairs = list(zip(change.before.segments, change.after.segments, strict=False))[: change.segments_before]
        steps = change.changed.time_steps
        assert all(torch.equal(a[:steps], b[: len(a)]) for a, b in pairs), f"{said} changes an earlier segment"


def test_the_test_spaces_vary_every_gene_of_every_family() -> None:
    """Genes of sizes, and the neuron groups of all token mixers and shortcuts of the family."""
    for family, (shortcuts, _, later, _) in FAMILIES.items():
        embedding = {"embed_dim", "depth", "embedding.stride", "embedding.neuron.v_threshold", "embedding.neuron.tau"}
        block = {*BLOCK.keys() - {"neuron"}, "neuron.v_threshold", "neuron.tau"}
        groups = {group for mixer in READS for shortcut in shortcuts for group in groups_of(mixer, shortcut)}
        block |= {f"groups.{group}.{name}" for group in groups for name in ("v_threshold", "tau")}
        expected = {"time_steps"} | ({"shortcut"} if len(shortcuts) > 1 else set())
        for stage in range(2 if later else 1):
            expected |= {f"stages.{stage}.{name}" for name in embedding}
        assert expected <= free_genes(family)
        assert {f"stages.0.blocks.{name}" for name in block} <= free_genes(family)


def free_genes(family: str) -> set[str]:
    """Return the genes with several values in a test space of a family, without the block indices."""
    found = set()
    for name, written in FREE_SPACES.items():
        if written["family"] == family:
            space = free_space(name)
            for gene in (gene for start in initial_architectures(space) for gene in space.genes(start) if gene.gene.size > 1):
                path = [str(part) for part in gene.path]
                found.add(".".join(path[:3] + path[4:] if "blocks" in path else path))
    return found


def test_several_subnets_accumulate_gradients_of_a_batch() -> None:
    supernet = spiking_supernet("qkformer")
    architectures = samples("qkformer", 3)
    with torch.no_grad():
        together = supernet(images(), architectures)
        assert all(torch.equal(logits, supernet(images(), [a])[0]) for logits, a in zip(together, architectures, strict=True))
        assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_opened_by_timm_is_bit_identical(family: str, tmp_path: Path) -> None:
    for i, architecture in enumerate(samples(family, 3)):
        folder, model = tmp_path / str(i), calibrated(spiking_supernet(family).extract(architecture))
        write_model(folder, model, architecture, classes=("a", "b", "c", "d"), input_spec=InputSpec.of_training(1, 8))
        for said in ({}, {"pretrained": True}):
            opened = timm.create_model(f"local-dir:{folder}", **said).eval()
            with torch.no_grad():
                assert torch.equal(opened(images()), model(images()))
                assert len(model(images()).unique(dim=0)) > 1
        assert opened.architecture == architecture
        assert opened.pretrained_cfg["input_size"] == (1, 8, 8)


def test_a_shape_that_is_not_a_corner_is_rejected() -> None:
    with pytest.raises(ValueError, match="not a corner"):
        corner(torch.zeros(3, 4), (3, 5))
    with pytest.raises(ValueError, match="not a corner"):
        corner(torch.zeros(3, 4), (3,))


def test_shared_parameters_of_one_mixer_have_the_largest_shapes(tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_space, num_classes=4, in_chans=1)
    assert {n: tuple(p.shape) for n, p in supernet.shared.named_parameters()} == parameter_shapes(tiny_space.largest())
    assert not list(supernet.buffers())


def normalised(name: str, *shape: int, bn: str = "bn") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a weight and of the normalisation after it."""
    stem, _, _ = name.rpartition(".")
    return {f"{name}.weight": shape, f"{stem}.{bn}.weight": shape[:1], f"{stem}.{bn}.bias": shape[:1]}


def test_shared_parameters_are_the_union_over_all_choices() -> None:
    """One block with three token mixers, two channel mixers and two kinds of linear layers; all names and shapes."""
    block = {"token_mixer": ["sepconv", "sdsa_2", "sdsa_4"], "channel_mixer": ["conv", "mlp"], "num_heads": 2, "mlp_ratio": [1, 3]}
    synapses = {"qkv": ["linear", "repconv"], "projection": ["repconv", "linear"]}
    stage = {"embed_dim": [6, 8], "depth": 1, "block": {**block, **synapses}}
    space = SearchSpace.from_dict({"family": "meta_spikeformer", "shortcut": "membrane", "stages": [stage]})
    token, channel = "stages.0.blocks.0.token.mixer", "stages.0.blocks.0.channel.mixer"
    expected: dict[str, tuple[int, ...]] = {
        **normalised("stages.0.embedding.conv.conv", 8, 1, 7, 7),
        "stages.0.embedding.conv.conv.bias": (8,),
        **normalised(f"{token}.expand.linear", 16, 8),
        f"{token}.separable.depthwise.weight": (16, 1, 7, 7),
        **normalised(f"{token}.separable.pointwise", 8, 16),
        f"{token}.operator.threshold_scale": (1,),
        f"{token}.projection.linear.bias": (8,),
        **normalised(f"{channel}.conv1.conv", 24, 8, 3, 3),
        **normalised(f"{channel}.conv2.conv", 8, 24, 3, 3),
        **normalised(f"{channel}.fc1.linear", 24, 8),
        **normalised(f"{channel}.fc2.linear", 8, 24),
        f"{channel}.fc1.linear.bias": (24,),
        f"{channel}.fc2.linear.bias": (8,),
        "head.weight": (4, 8),
        "head.bias": (4,),
    }
    for synapse in ("q", "k", "v", "projection"):
        expected |= normalised(f"{token}.{synapse}.linear", 8, 8)
        expected |= normalised(f"{token}.{synapse}.first", 8, 8, bn="first_bn")
        expected |= normalised(f"{token}.{synapse}.last", 8, 8, bn="last_bn")
        expected |= {f"{token}.{synapse}.depthwise.weight": (8, 1, 3, 3)}
        expected |= {f"{token}.{synapse}.outer_bn.{leaf}": (8,) for leaf in ("weight", "bias")}
    supernet = Supernet(space, num_classes=4, in_chans=1)
    assert {name: tuple(p.shape) for name, p in supernet.shared.named_parameters()} == expected


def test_the_surrogate_changes_only_gradients(tiny_space: SearchSpace) -> None:
    images, found = torch.rand(4, 1, 8, 8), {}
    for surrogate in ("sigmoid", "arctan"):
        torch.manual_seed(0)
        supernet = Supernet(tiny_space, num_classes=10, in_chans=1, surrogate=surrogate)
        (logits,) = supernet(images, [tiny_space.largest()])
        logits.square().sum().backward()
        gradient = supernet.shared.get_parameter("stages.0.embedding.convs.0.conv.weight").grad
        assert gradient is not None
        found[surrogate] = (logits, gradient)
    assert torch.equal(found["sigmoid"][0], found["arctan"][0])
    assert not torch.allclose(found["sigmoid"][1], found["arctan"][1])
