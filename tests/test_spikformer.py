"""The plain Spikformer: parameter counts, structure, timm's contract, and the published code's outputs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import autospike  # noqa: F401  (registers the models with timm)
from autospike.architecture import Architecture, Block, Stage, Stem
from autospike.evaluation.calibration import calibrate
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.nn.attention import AttentionProduct, Heads


def spikformer(embed_dim: int, depth: int, num_heads: int, *, pools: int = 2, time_steps: int = 4) -> Architecture:
    stage = Stage(embed_dim=embed_dim, blocks=(Block(num_heads=num_heads),) * depth)
    return Architecture(time_steps=time_steps, stem=Stem(pools=pools), stages=(stage,))


@pytest.mark.parametrize(("depth", "embed_dim", "published"), [(4, 256, 4_155_178), (2, 384, 5_765_050), (4, 384, 9_324_730)])
def test_parameters_of_the_published_cifar_models(depth: int, embed_dim: int, published: int) -> None:
    model = build_model(spikformer(embed_dim, depth, 8), num_classes=10, in_chans=3)
    assert sum(p.numel() for p in model.parameters()) == published


@pytest.mark.parametrize(("pools", "tokens"), [(0, 256), (1, 64), (2, 16), (4, 1)])
def test_each_pool_quarters_the_tokens(pools: int, tokens: int) -> None:
    model = build_model(spikformer(16, 1, 2, pools=pools), num_classes=5, in_chans=1).eval()
    assert model.forward_tokens(torch.rand(2, 1, 16, 16)).shape == (4, 2, tokens, 16)


def test_the_stream_holds_small_integers() -> None:
    depth = 2
    model = build_model(spikformer(16, depth, 2), num_classes=5, in_chans=1)
    stream = model.forward_tokens(torch.rand(8, 1, 16, 16) * 4)
    assert torch.equal(stream, stream.round())
    assert 0 < stream.max() <= 2 + 2 * depth


@pytest.mark.parametrize(("tokens", "head_dim"), [(4, 16), (16, 4), (8, 8)])
def test_both_orders_of_attention_are_equal_bit_for_bit(tokens: int, head_dim: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randint(0, 2, (2, 3, 2, tokens, head_dim), generator=generator).float() for _ in range(3))
    assert torch.equal(AttentionProduct()(Heads(q, k, v)), (q @ k.transpose(-1, -2)) @ v * 0.125)


def test_one_run_answers_for_every_smaller_t() -> None:
    """With statistics fixed, the network is causal in time: step t knows nothing of later steps."""
    model = calibrated(spikformer(16, 2, 2, time_steps=4))
    images = torch.rand(6, 1, 16, 16)
    with torch.no_grad():
        whole = model.forward_steps(images)
        for t in (1, 2, 3):
            assert torch.equal(model.forward_steps(images, t), whole[:t])


def test_frames_of_one_image_are_that_image() -> None:
    model = calibrated(spikformer(16, 1, 2))
    images = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), model(images.expand(4, *images.shape)))


def test_timm_contract() -> None:
    architecture = spikformer(16, 1, 2)
    model = timm.create_model("autospike_subnet", architecture=architecture.to_dict(), num_classes=7, in_chans=1).eval()
    images = torch.rand(2, 1, 16, 16)
    tokens = model.forward_features(images)
    assert (model.num_classes, model.num_features, tokens.shape) == (7, 16, (2, 16, 16))
    assert model.forward_head(tokens, pre_logits=True).shape == (2, 16)
    torch.testing.assert_close(model.forward_head(tokens), model(images), rtol=1e-5, atol=1e-6)
    model.reset_classifier(3)
    assert (model.num_classes, model(images).shape, model.get_classifier().out_features) == (3, (2, 3), 3)
    model.reset_classifier(0)
    assert model(images).shape == (2, 16)


def calibrated(architecture: Architecture) -> SpikingModel:
    """A small model whose statistics come from some images, so that neurons fire."""
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=5, in_chans=1)
    calibrate(model, [torch.rand(16, 1, 16, 16)], time_steps=architecture.time_steps)
    return model


def test_published_code_gives_the_same_logits(vectors: Path) -> None:
    """The published CIFAR model's weights under our names, at T = 1, 2, 4."""
    stored = np.load(vectors / "spikformer_cifar_d64_L2.npz", allow_pickle=False)
    state = {ours(name): torch.from_numpy(stored[f"sd/{name}"]) for name in names(stored) if "norm" not in name}
    model = build_model(spikformer(64, 2, num_heads=4), num_classes=10, in_chans=3).eval()
    model.load_state_dict(state)
    images = torch.from_numpy(stored["input"])
    with torch.no_grad():
        for time_steps in (1, 2, 4):
            logits = model.forward_steps(images, time_steps).mean(dim=0)
            np.testing.assert_allclose(logits.numpy(), stored[f"out_T{time_steps}"], rtol=1e-5, atol=1e-5)


def names(stored: np.lib.npyio.NpzFile) -> list[str]:
    return [name.removeprefix("sd/") for name in stored.files if name.startswith("sd/")]


def ours(name: str) -> str:
    """The published code's name of a parameter as ours."""
    name = re.sub(r"patch_embed\.rpe_(conv|bn)", r"stem.position.\1", name)
    name = re.sub(r"patch_embed\.proj_(conv|bn)(\d?)", lambda m: f"stem.stages.{m[2] or 0}.{m[1]}", name)
    name = re.sub(r"block\.(\d+)\.attn\.(q|k|v)_", r"blocks.\1.attention.\2.", name)
    name = re.sub(r"block\.(\d+)\.attn\.proj_", r"blocks.\1.attention.projection.", name)
    return re.sub(r"block\.(\d+)\.mlp\.fc(1|2)_", r"blocks.\1.mlp.fc\2.", name)
