"""Semantic FPN against the published neck and head of Meta-SpikeFormer, and its parameter counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autospike.models.semantic_fpn import SemanticFPN
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron

LEVELS = 4


def renamed(key: str) -> str:
    """The name of a parameter of the published code in this package."""
    words = key.removeprefix("sd/").split(".")
    if words[0] == "neck":
        _, kind, level, *_, leaf = words
        return f"neck.{'laterals' if kind == 'lateral_convs' else 'outputs'}.{level}.conv.conv.{leaf}"
    if words[1] == "conv_seg":
        return f"head.classifier.conv.conv.{words[-1]}"
    _, _, level, i, _, _, layer, leaf = words
    return f"head.scales.{level}.{int(i)}.conv.{layer}.{leaf}"


@pytest.fixture(scope="module")
def stored(vectors: Path) -> dict[str, np.ndarray]:
    with np.load(vectors / "segmentation_sdt2_fpn.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def decoder(stored: dict[str, np.ndarray]) -> SemanticFPN:
    decoder = SemanticFPN([8, 16, 32, 40], [2, 4, 8, 16], channels=16, head_channels=12, num_classes=6, neuron=Neuron()).eval()
    decoder.load_state_dict({renamed(key): torch.from_numpy(x) for key, x in stored.items() if key.startswith("sd/")})
    return decoder


def channels_last(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).permute(0, 1, 3, 4, 2).contiguous()


def test_outputs_and_gradients_are_those_of_the_published_code(stored: dict[str, np.ndarray], decoder: SemanticFPN) -> None:
    pyramid = decoder.neck([channels_last(stored[f"input_{i}"]) for i in range(LEVELS)])
    logits = decoder.head(pyramid)[0].permute(0, 3, 1, 2)
    for i, level in enumerate(pyramid):
        torch.testing.assert_close(level, channels_last(stored[f"neck_{i}"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, torch.from_numpy(stored["out"]), rtol=1e-5, atol=1e-5)
    total = (logits * torch.from_numpy(stored["cotangent/out"])).sum()
    total = total + sum((x * channels_last(stored[f"cotangent/neck_{i}"])).sum() for i, x in enumerate(pyramid))
    total.backward()
    expected = {renamed(key.removeprefix("grad/")): x for key, x in stored.items() if key.startswith("grad/")}
    parameters = dict(decoder.named_parameters())
    assert len(expected) == 5 and expected.keys() <= parameters.keys()
    for name, gradient in expected.items():
        scale = float(np.abs(gradient).max())
        torch.testing.assert_close(parameters[name].grad, torch.from_numpy(gradient), rtol=1e-4, atol=1e-5 * scale)


def test_firing_rates_are_those_of_the_published_code(stored: dict[str, np.ndarray], decoder: SemanticFPN) -> None:
    rates: list[float] = []
    for lif in (module for module in decoder.modules() if isinstance(module, LIF)):
        lif.register_forward_hook(lambda _lif, _args, spikes: rates.append(float(spikes.double().mean())))
    with torch.no_grad():
        decoder([channels_last(stored[f"input_{i}"]) for i in range(LEVELS)], 1, (32, 48))
    assert sorted(rates) == pytest.approx(sorted(stored["lif_rate_per_step"][:, 0].tolist()), abs=1e-9)
