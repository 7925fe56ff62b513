"""E-SpikeFormer against the reference outputs of the published code: logits, integers of every neuron, gradients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autospike.models.checkpoint_import import load_reference, published_keys, recognise_format
from autospike.models.contract import SpikingModel
from autospike.nn.neuron import LIF
from autospike.space.published import e_spikeformer


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A file of reference outputs, and the model that is imported from its state dict."""

    stored: dict[str, np.ndarray]
    meta: dict[str, Any]
    state: dict[str, Tensor]
    model: SpikingModel

    @property
    def images(self) -> Tensor:
        return torch.from_numpy(self.stored["input"])


@pytest.fixture(scope="module", params=["espikeformer_full", "espikeformer_sq"])
def reference(request: pytest.FixtureRequest, vectors: Path) -> Reference:
    with np.load(vectors / f"{request.param}.npz", allow_pickle=False) as file:
        stored = {key: file[key] for key in file.files}
    state = {key.removeprefix("sd/"): torch.from_numpy(value) for key, value in stored.items() if key.startswith("sd/")}
    model, _ = load_reference(state)
    return Reference(stored=stored, meta=json.loads(str(stored["meta_json"])), state=state, model=model)


def test_architecture(reference: Reference) -> None:
    depths = tuple(max(int(key.split(".")[1]) for key in reference.state if key.startswith(f"block{n}.")) + 1 for n in (3, 4))
    assert reference.model.architecture == e_spikeformer(tuple(reference.meta["kwargs"]["embed_dim"]), depths)
    assert sum(p.numel() for p in reference.model.parameters()) == reference.meta["params"]


def test_logits(reference: Reference) -> None:
    with torch.no_grad():
        np.testing.assert_allclose(reference.model(reference.images).numpy(), reference.stored["out"], rtol=1e-5, atol=1e-5)


def test_integers_are_identical_layer_by_layer(reference: Reference) -> None:
    """Sums and numbers of non-zeros are whole numbers, which follow from the stored means. Inputs keep 1e-4 from the ties."""
    seen: list[Tensor] = []

    def record(_module: Any, _inputs: Any, spikes: Tensor) -> None:
        seen.append(spikes)

    hooks = [module.register_forward_hook(partial(record)) for module in reference.model.modules() if isinstance(module, LIF)]
    with torch.no_grad():
        reference.model(reference.images)
    for hook in hooks:
        hook.remove()
    names, means, shares = (reference.stored[key] for key in ("spike_names", "spike_mean_integer", "spike_share_nonzero"))
    assert len(seen) == len(names)
    for name, spikes, mean, share in zip(names, seen, means, shares, strict=True):
        assert spikes.sum(dtype=torch.float64).item() == pytest.approx(mean * spikes.numel(), abs=0.01), name
        assert spikes.count_nonzero().item() == pytest.approx(share * spikes.numel(), abs=0.01), name
        assert set(spikes.unique().tolist()) <= {0, 1, 2, 3, 4}


def test_gradients(reference: Reference) -> None:
    reference.model.zero_grad()
    (reference.model(reference.images) * torch.from_numpy(reference.stored["cotangent"])).sum().backward()
    parameters = dict(reference.model.named_parameters())
    keys = published_keys(recognise_format(reference.state), reference.state, parameters)
    grads = {key: parameters[name].grad for name, key in keys.items()}
    norms = reference.meta["grad_norms"]
    assert set(grads) == set(norms)
    for key, grad in grads.items():
        assert grad is not None
        assert grad.double().norm().item() == pytest.approx(norms[key], rel=2e-5), key
