"""Both ONNX exporters of torch, verified in onnxruntime.

A potential at its threshold may cross it by rounding in another runtime, and move the logits by more than rounding. None does in
these small models, so that the logits agree to 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from slow_parameters import slow_except
from torch import Tensor, nn
from traced_models import ARCHITECTURES, firing_model, images

from autospike.models.contract import SpikingModel

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-4


def logits_in_onnxruntime(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert isinstance(found, np.ndarray)
    return torch.from_numpy(found)


def with_torch_export(model: nn.Module, x: Tensor, path: Path) -> None:
    """The batch size is dynamic."""
    batch = torch.export.Dim("batch")
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)


def with_torchscript(model: nn.Module, x: Tensor, path: Path) -> None:
    """The batch size is that of the example."""
    torch.onnx.export(model, (x,), path, dynamo=False)


def assert_equal_logits(export: Callable[[nn.Module, Tensor, Path], None], name: str, folder: Path, *counts: int) -> None:
    model: SpikingModel = firing_model(name)
    path = folder / "model.onnx"
    with torch.no_grad():
        export(model, images(6).flip(0) * 2, path)
        assert len(model(images()).unique(dim=0)) > 1
        for count in counts:
            expected = model(images(count))
            torch.testing.assert_close(logits_in_onnxruntime(path, images(count)), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_export_with_torch_export(name: str, tmp_path: Path) -> None:
    assert_equal_logits(with_torch_export, name, tmp_path, 6, 3, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", slow_except(["spikformer"], ARCHITECTURES))
def test_export_with_torchscript(name: str, tmp_path: Path) -> None:
    assert_equal_logits(with_torchscript, name, tmp_path, 6)
