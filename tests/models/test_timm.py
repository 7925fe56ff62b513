"""The interface of a timm model, causality in time, frames and fusion, for a small model of every family and shortcut."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from builders import one_line_error
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import autospike  # noqa: F401  (registers the models with timm)
from autospike.errors import UserError
from autospike.evaluation.calibration import calibrate
from autospike.model_folder import InputSpec, write_model
from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model, first_conv
from autospike.nn.fusion import fuse
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron

MLP = Block(num_heads=2, mlp_ratio=2)
CONVOLUTIONAL = Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=2)
TRANSFORMER = Block(num_heads=2, qkv="repconv", projection="repconv", mlp_ratio=2)


def stage(embed_dim: int, stride: int, *blocks: Block) -> Stage:
    return Stage(embed_dim=embed_dim, embedding=Embedding(stride=stride), blocks=blocks)


META = (stage(6, 2, CONVOLUTIONAL), stage(12, 2, CONVOLUTIONAL), stage(16, 1, TRANSFORMER, TRANSFORMER))
SMALL = {
    "spikformer": Architecture(stages=(stage(16, 4, MLP, MLP),)),
    "spikformer vanilla": Architecture(shortcut="vanilla", qkv_bias=True, stages=(stage(16, 8, MLP),)),
    "spike_driven": Architecture(
        family="spike_driven", shortcut="membrane", stages=(stage(16, 4, Block(token_mixer="sdsa_1", mlp_ratio=2)),)
    ),
    "spike_driven events": Architecture(
        family="spike_driven",
        shortcut="membrane",
        stages=(stage(16, 2, Block(token_mixer="sdsa_1_dilated", num_heads=2, mlp_ratio=2)),),
    ),
    "meta_spikeformer": Architecture(family="meta_spikeformer", shortcut="membrane", stages=META),
    "meta_spikeformer sew": Architecture(family="meta_spikeformer", shortcut="sew", stages=META),
    "meta_spikeformer vanilla": Architecture(family="meta_spikeformer", shortcut="vanilla", stages=META),
    "meta_spikeformer distilled": Architecture(family="meta_spikeformer", shortcut="membrane", distilled=True, stages=META),
    "qkformer": Architecture(
        family="qkformer",
        stages=(stage(8, 4, Block(token_mixer="token_qk", num_heads=2)), stage(12, 2, MLP), stage(16, 2, MLP)),
    ),
    "qkformer compact": Architecture(
        family="qkformer",
        compact_embedding=True,
        stages=(stage(8, 1, Block(token_mixer="channel_qk", mlp_ratio=2)), stage(16, 2, MLP)),
    ),
}
INTEGERS = Neuron(levels=4, normalised=True)
SINGLE_FRAMES = Neuron(levels=4, integrates=False)
SMALL |= {
    "e_spikeformer": Architecture(
        family="e_spikeformer",
        shortcut="membrane",
        time_steps=4,
        stages=(
            stage(6, 2, Block(token_mixer="spiking_sepconv_7", channel_mixer="conv", mlp_ratio=2, neuron=INTEGERS)),
            stage(
                16,
                2,
                Block(token_mixer="spiking_sepconv_3", channel_mixer="none", neuron=INTEGERS),
                Block(token_mixer="e_sdsa", num_heads=2, mlp_ratio=2, neuron=INTEGERS),
            ),
        ),
    ),
    "e_spikeformer large": Architecture(
        family="e_spikeformer",
        shortcut="membrane",
        time_steps=4,
        distilled=True,
        conv_bias=True,
        mean_head=True,
        stages=(
            stage(6, 2, Block(token_mixer="none", channel_mixer="conv", mlp_ratio=2, neuron=INTEGERS)),
            stage(
                16,
                2,
                Block(token_mixer="none", channel_mixer="replinear", neuron=INTEGERS),
                Block(num_heads=2, qkv="replinear", projection="replinear", mlp_ratio=2, layer_scale=True, neuron=INTEGERS),
            ),
        ),
    ),
    "e_spikeformer events": Architecture(
        family="e_spikeformer",
        shortcut="membrane",
        time_steps=4,
        stages=(
            stage(6, 2, Block(token_mixer="spiking_sepconv_7", channel_mixer="conv", mlp_ratio=2, neuron=SINGLE_FRAMES)),
            stage(8, 2, Block(token_mixer="e_sdsa", num_heads=2, mlp_ratio=2, layer_scale=True, neuron=SINGLE_FRAMES)),
            stage(16, 1),
        ),
    ),
    "max_former": Architecture(
        family="max_former",
        shortcut="membrane",
        stages=(
            stage(8, 4, Block(token_mixer="dwc_7", mlp_ratio=2)),
            stage(16, 2, Block(token_mixer="dwc_5", channel_mixer="mlp_residual"), MLP),
        ),
    ),
    "max_former events": Architecture(
        family="max_former",
        shortcut="sew",
        stages=(
            Stage(
                embed_dim=16,
                embedding=Embedding(stride=4, kind="embed_max_plus"),
                blocks=(Block(token_mixer="dwc_3", channel_mixer="mlp_residual"),),
            ),
        ),
    ),
}
# Channels and reductions of the feature maps after each stage.
MAPS = dict.fromkeys(SMALL, ((16,), (4,))) | {
    "spikformer vanilla": ((16,), (8,)),
    "spike_driven events": ((16,), (2,)),
    **{name: ((6, 12, 16), (2, 4, 4)) for name in SMALL if name.startswith("meta")},
    "qkformer": ((8, 12, 16), (4, 8, 16)),
    "qkformer compact": ((8, 16), (1, 2)),
    "e_spikeformer": ((6, 16), (2, 4)),
    "e_spikeformer large": ((6, 16), (2, 4)),
    "e_spikeformer events": ((6, 8, 16), (2, 4, 4)),
    "max_former": ((8, 16), (4, 8)),
    "max_former events": ((16,), (4,)),
}
SIZE = (30, 21)  # not square, and divisible by none of the strides
IMAGES = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))

each = pytest.mark.parametrize("name", SMALL)


def with_spikes(model: SpikingModel) -> SpikingModel:
    """Return the model in eval mode, with BatchNorm parameters that lead to spikes in all LIF layers."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 1, 3)
            nn.init.uniform_(module.bias, -0.5, 1)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    calibrate(model, [torch.randn(8, channels, *SIZE)], time_steps=model.architecture.time_steps)
    return model.requires_grad_(False)


def create(name: str, **rest: object) -> SpikingModel:
    torch.manual_seed(1)
    return timm.create_model("autospike_subnet", architecture=SMALL[name].to_dict(), **{"num_classes": 5, **rest})


@cache
def shared_model(name: str) -> SpikingModel:
    """Return a model that is shared by tests that do not change it."""
    return with_spikes(create(name))


def copied_model(name: str) -> SpikingModel:
    """Return a copy that a test may change."""
    return deepcopy(shared_model(name))


@each
def test_the_output_of_the_test_models_depends_on_image_and_step(name: str) -> None:
    """A precondition: otherwise the tests below would compare zeros."""
    steps = shared_model(name).forward_steps(IMAGES)
    assert steps.std(dim=0).max() > 1e-3
    assert steps.std(dim=1).max() > 1e-3


@each
def test_forward_is_head_of_features(name: str) -> None:
    model = shared_model(name)
    features = model.forward_features(IMAGES)
    assert torch.equal(model.forward_head(features), model(IMAGES))
    assert model(IMAGES).shape == (3, 5)


@each
def test_pre_logits_are_pooled_features(name: str) -> None:
    """The input of the head, mean over time: a head is linear, so it can be applied to the mean."""
    model = shared_model(name)
    pooled = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    assert pooled.shape == (3, model.num_features)
    heads = [model.head, model.head_dist] if SMALL[name].distilled else [model.head]
    if SMALL[name].mean_head:  # the second head has neurons, and so is not linear
        of_steps = model.head_dist(model.forward_features(IMAGES).mean(dim=(2, 3)))
        logits = (model.head(pooled) + of_steps.mean(dim=0)) / 2
    else:
        logits = sum(head(pooled) for head in heads) / len(heads)
    torch.testing.assert_close(logits, model(IMAGES), rtol=1e-5, atol=1e-5)


@each
def test_features_after_membrane_shortcuts_are_spike_rates(name: str) -> None:
    """The head reads spikes there, so that their mean over 4 steps is a multiple of 1/4."""
    pooled = shared_model(name).forward_head(shared_model(name).forward_features(IMAGES), pre_logits=True)
    levels = SMALL[name].head_neuron.levels
    quarters = torch.equal((4 * pooled).round(), 4 * pooled) and pooled.min() >= 0 and pooled.max() <= levels
    assert quarters == (SMALL[name].shortcut == "membrane" and not SMALL[name].mean_head)


@each
def test_attributes_that_timm_reads(name: str) -> None:
    model = shared_model(name)
    assert (model.num_classes, model.num_features, model.head_hidden_size) == (5, 16, 16)
    second = "head_dist.linear" if SMALL[name].mean_head else "head_dist"
    heads = ("head", second) if SMALL[name].distilled else "head"
    assert tuple(model.pretrained_cfg["classifier"]) == tuple(heads)
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model.get_classifier() is model.head


@each
def test_a_new_classifier(name: str) -> None:
    model = copied_model(name)
    old = model.get_classifier()
    model.reset_classifier(3)
    assert model.get_classifier() is not old
    assert (model.num_classes, model.get_classifier().out_features) == (3, 3)
    assert model(IMAGES).shape == (3, 3)
    assert model.forward_steps(IMAGES).shape == (4, 3, 3)


@each
def test_a_model_without_classifier_returns_features(name: str) -> None:
    model = copied_model(name)
    pooled = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(IMAGES), pooled)
    assert torch.equal(model.forward_steps(IMAGES).mean(dim=0), pooled)
    assert not [key for key in model.state_dict() if key.startswith("head")]
    assert set(create(name, num_classes=0).state_dict()) == set(model.state_dict())


@pytest.mark.parametrize("time_steps", [1, 2, 3])
@each
def test_steps_do_not_depend_on_later_steps(name: str, time_steps: int) -> None:
    """With fixed BatchNorm statistics the network is causal in time."""
    whole = shared_model(name).forward_steps(IMAGES)
    assert torch.equal(shared_model(name).forward_steps(IMAGES, time_steps), whole[:time_steps])


@pytest.mark.parametrize("time_steps", [1, 2, 3, 4])
@each
def test_logits_at_fewer_steps_are_the_mean_of_the_first_steps(name: str, time_steps: int) -> None:
    """Bit-identical: a search measures all T in one run, and the exported model runs at its own T."""
    fewer = build_model(replace(SMALL[name], time_steps=time_steps), num_classes=5, in_chans=3)
    fewer.load_state_dict(shared_model(name).state_dict())
    assert torch.equal(fewer.eval()(IMAGES), shared_model(name).forward_steps(IMAGES)[:time_steps].mean(dim=0))


@each
def test_repeated_frames_give_the_output_of_the_image(name: str) -> None:
    """The first convolution runs once for an image, and at every step for frames."""
    frames = IMAGES.expand(4, *IMAGES.shape)
    assert torch.equal(shared_model(name)(frames), shared_model(name)(IMAGES))
    assert torch.equal(shared_model(name).forward_steps(frames, 2), shared_model(name).forward_steps(IMAGES, 2))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 2, 3, 8, 8), "3 frames .* T = 4 needs as many"), ((3, 8, 8), "give images"), ((8, 8), r"frames \[T, B, C, H, W\]")],
)
def test_inputs_without_a_meaning_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shared_model("spikformer")(torch.zeros(shape), at=[4])


@each
def test_each_step_reads_its_own_frame(name: str) -> None:
    """The first step depends on the first frame only; a change of the last frame changes only the last step."""
    model = shared_model(name)
    frames = torch.randn(4, *IMAGES.shape, generator=torch.Generator().manual_seed(2))
    steps = model.forward_steps(frames)
    assert torch.equal(steps[0], model.forward_steps(frames[0], 1)[0])
    changed = model.forward_steps(torch.cat([frames[:3], -frames[3:]]))
    assert torch.equal(changed[:3], steps[:3])
    assert not torch.equal(changed[3], steps[3])


@each
def test_outputs_do_not_depend_on_the_batch(name: str) -> None:
    model = shared_model(name)
    apart = torch.cat([model(image[None]) for image in IMAGES])
    torch.testing.assert_close(model(IMAGES), apart, rtol=1e-5, atol=1e-5)


@each
def test_a_fused_model_has_the_same_output(name: str) -> None:
    """Fusion rounds differently and could move a potential across its threshold; in these models it does not."""
    fused = fuse(copied_model(name))
    assert not [module for module in fused.modules() if isinstance(module, _BatchNorm)]
    torch.testing.assert_close(fused.forward_steps(IMAGES), shared_model(name).forward_steps(IMAGES), rtol=1e-4, atol=1e-4)
    assert torch.equal(fused(IMAGES.expand(4, *IMAGES.shape)), fused(IMAGES))


@each
@pytest.mark.parametrize("in_chans", [1, 2])
def test_other_numbers_of_channels(name: str, in_chans: int) -> None:
    model = with_spikes(create(name, in_chans=in_chans))
    first = model.get_submodule(first_conv(SMALL[name]))
    assert first.in_channels == in_chans
    assert model(torch.randn(2, in_chans, *SIZE)).shape == (2, 5)


def features(name: str, *out_indices: int, **rest: object) -> nn.Module:
    wanted = {"out_indices": out_indices} if out_indices else {}
    return timm.create_model("autospike_subnet", architecture=SMALL[name].to_dict(), features_only=True, **wanted, **rest).eval()


@each
def test_features_only(name: str) -> None:
    channels, reductions = MAPS[name]
    model = features(name, *range(len(channels)))
    assert tuple(model.feature_info.channels()) == channels
    assert tuple(model.feature_info.reduction()) == reductions
    for size in (SIZE, (32, 48), (17, 64)):
        maps = model(torch.randn(2, 3, *size))
        expected = [(2, c, *(-(-side // r) for side in size)) for c, r in zip(channels, reductions, strict=True)]
        assert [tuple(each_map.shape) for each_map in maps] == expected


@pytest.mark.parametrize("indices", [(0,), (1,), (0, 2), (-1,), (1, -1)])
@pytest.mark.parametrize("name", ["meta_spikeformer", "qkformer"])
def test_features_of_chosen_stages(name: str, indices: tuple[int, ...]) -> None:
    channels, reductions = MAPS[name]
    model = features(name, *indices)
    assert model.feature_info.channels() == [channels[i] for i in indices]
    assert model.feature_info.reduction() == [reductions[i] for i in indices]
    assert [each_map.shape[1] for each_map in model(IMAGES)] == [channels[i] for i in indices]


@pytest.mark.parametrize(("name", "count"), [("spikformer", 1), ("meta_spikeformer", 2), ("qkformer", 3)])
def test_default_feature_stages(name: str, count: int) -> None:
    """All maps; for Meta-SpikeFormer all but the first, as in its detectors."""
    assert features(name).feature_info.channels() == list(MAPS[name][0][-count:])


@pytest.mark.slow
def test_features_of_the_published_meta_spikeformer() -> None:
    """Its published detector uses maps at strides 4, 8, 16 and 16; its segmentation also that at stride 2."""
    with torch.device("meta"):
        usual = timm.create_model("meta_spikeformer_15m", features_only=True, time_steps=1)
        wanted = timm.create_model("meta_spikeformer_15m", features_only=True, time_steps=1, out_indices=(0, 1, 2, 4))
        shapes = [tuple(each_map.shape) for each_map in wanted(torch.empty(1, 3, 64, 96))]
    assert (usual.feature_info.reduction(), usual.feature_info.channels()) == ([4, 8, 16, 16], [64, 128, 256, 360])
    assert (wanted.feature_info.reduction(), wanted.feature_info.channels()) == ([2, 4, 8, 16], [32, 64, 128, 360])
    assert shapes == [(1, 32, 32, 48), (1, 64, 16, 24), (1, 128, 8, 12), (1, 360, 4, 6)]


@each
def test_feature_maps_are_means_of_the_stream_over_time(name: str) -> None:
    model = shared_model(name)
    last, maps = model.forward_intermediates(IMAGES)
    assert torch.equal(last, model.forward_features(IMAGES))
    assert len(maps) == len(MAPS[name][0])
    np.testing.assert_allclose(maps[-1].numpy(), last.numpy().mean(axis=0).transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


@each
def test_options_of_forward_intermediates_agree(name: str) -> None:
    model = shared_model(name)
    _, maps = model.forward_intermediates(IMAGES)
    for i in range(len(maps)):
        (early,) = model.forward_intermediates(IMAGES, indices=[i], stop_early=True, intermediates_only=True)
        assert torch.equal(early, maps[i])
    (last,) = model.forward_intermediates(IMAGES, indices=1, intermediates_only=True)
    assert torch.equal(last, maps[-1])


@pytest.mark.parametrize("asked", [{"output_fmt": "NLC"}, {"output_fmt": "NHWC"}, {"norm": True}])
def test_unsupported_options_of_forward_intermediates_are_errors(asked: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="NCHW"):
        shared_model("qkformer").forward_intermediates(IMAGES, **asked)


@pytest.mark.parametrize("name", ["meta_spikeformer", "meta_spikeformer distilled", "qkformer"])
def test_pruning_does_not_change_the_remaining_stages(name: str) -> None:
    first, second = shared_model(name).forward_intermediates(IMAGES, indices=[0, 1], intermediates_only=True)
    model = copied_model(name)
    assert list(model.prune_intermediate_layers([0, 1])) == [0, 1]
    assert len(model.stages) == 2
    assert (model.num_classes, type(model.head)) == (0, nn.Identity)
    maps = model.forward_intermediates(IMAGES, indices=[0, 1], intermediates_only=True)
    assert torch.equal(maps[0], first)
    assert torch.equal(maps[1], second)


def test_pruning_can_keep_the_head() -> None:
    model = copied_model("meta_spikeformer distilled")
    logits = model(IMAGES)
    assert list(model.prune_intermediate_layers([-1], prune_head=False)) == [2]
    assert torch.equal(model(IMAGES), logits)


def test_distilled_training_returns_the_logits_of_both_heads() -> None:
    model = copied_model("meta_spikeformer distilled")
    together = model(IMAGES)
    stream = model.forward_features(IMAGES)
    model.train()
    torch.testing.assert_close(model.forward_head(stream), together)  # training mode alone does not separate the heads
    model.set_distilled_training(True)
    first, second = model.forward_head(stream)
    assert not torch.equal(first, second)
    torch.testing.assert_close((first + second) / 2, together)
    assert torch.equal(model.eval().forward_head(stream), together)
    model.train().set_distilled_training(False)
    assert isinstance(model.forward_head(stream), Tensor)


def test_both_heads_are_replaced() -> None:
    model = create("meta_spikeformer distilled", num_classes=7)
    assert {model.head.out_features, model.head_dist.out_features} == {7}
    model.reset_classifier(0)
    assert isinstance(model.head_dist, nn.Identity)


def test_time_steps_of_a_published_name() -> None:
    with torch.device("meta"):
        usual, fewer = (timm.create_model("spikformer_cifar_4_256", **given) for given in ({}, {"time_steps": 2}))
    assert (usual.architecture.time_steps, fewer.architecture.time_steps) == (4, 2)
    assert usual.architecture == replace(fewer.architecture, time_steps=4)


def exported(folder: Path, name: str) -> str:
    spec = InputSpec.of_training(channels=3, image_size=32)
    write_model(folder, shared_model(name), SMALL[name], classes=("a", "b", "c", "d", "e"), input_spec=spec)
    return f"local-dir:{folder}"


@each
@pytest.mark.parametrize("time_steps", slow_except([6], [1, 2, 6]))
def test_time_steps_of_an_exported_folder(tmp_path: Path, name: str, time_steps: int) -> None:
    """The weights are those of the folder, and the output is the mean of that many steps."""
    model = timm.create_model(exported(tmp_path, name), time_steps=time_steps).eval()
    assert model.architecture == replace(SMALL[name], time_steps=time_steps)
    assert torch.equal(model(IMAGES), copied_model(name).forward_steps(IMAGES, time_steps).mean(dim=0))


@pytest.mark.parametrize("time_steps", [0, -1, 1.5, "two"])
def test_time_steps_that_are_no_number_of_steps(tmp_path: Path, time_steps: object) -> None:
    for name in (exported(tmp_path, "spikformer"), "spikformer_cifar_4_256"):
        assert "time_steps" in one_line_error(lambda name=name: timm.create_model(name, time_steps=time_steps))  # type: ignore[misc]


def test_time_steps_with_an_architecture() -> None:
    model = timm.create_model("autospike_subnet", architecture=SMALL["spikformer"].to_dict(), time_steps=3)
    assert model.architecture.time_steps == 3


@each
def test_pretrained_weights_with_other_channels_or_without_head(tmp_path: Path, name: str) -> None:
    """As timm fine-tunes: for one channel the weights of three channels are added; without a head none is loaded."""
    source = exported(tmp_path, name)
    grey = IMAGES[:, :1]
    adapted = timm.create_model(source, pretrained=True, in_chans=1).eval()
    assert torch.equal(timm.create_model(source, pretrained=True).eval()(IMAGES), shared_model(name)(IMAGES))
    torch.testing.assert_close(adapted(grey), shared_model(name)(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    maps = timm.create_model(source, pretrained=True, features_only=True, out_indices=(0,)).eval()(IMAGES)
    assert torch.equal(maps[0], shared_model(name).forward_intermediates(IMAGES, indices=[0], intermediates_only=True)[0])


@each
def test_pretrained_weights_with_other_classes(tmp_path: Path, name: str) -> None:
    model = timm.create_model(exported(tmp_path, name), pretrained=True, num_classes=3).eval()
    assert torch.equal(model.forward_features(IMAGES), shared_model(name).forward_features(IMAGES))
    assert model(IMAGES).shape == (3, 3)
