"""The single-step form: one time step of the network, with the membrane potentials as inputs and outputs.

    logits, *potentials = step(frame, *potentials)

The caller keeps the potentials between steps, starts them at 0, and averages the logits of T steps. This is the form for a stream
of frames, and for accelerators that have no loop over time. It is written as a `torch.export` program, and as ONNX if the packages
are installed. Other tools have no LIF operator, so the LIF layers are replaced by layers of elementary operators, whose potentials
are inputs and outputs; in Python, `autospike.nn.neuron.continued` continues a model without replacing layers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autospike import files
from autospike.errors import UserError
from autospike.exporting import onnx_model, program
from autospike.exporting.variants import Variant
from autospike.kernels.lif import one_step
from autospike.models.contract import SpikingModel
from autospike.nn.neuron import LIF

PROGRAM, ONNX, DESCRIPTION = "step.pt2", "step.onnx", "step.json"


class _StepLIF(nn.Module):
    """One time step of a LIF layer, with its potential in a list that it shares with the other layers.

    Args:
        lif: The layer.
        potentials: The potentials of all layers.
        index: Position of this layer.
    """

    def __init__(self, lif: LIF, potentials: list[Tensor | None], index: int) -> None:
        super().__init__()
        self.neuron, self.potentials, self.index = lif.parameters_of_neuron(), potentials, index

    def forward(self, x: Tensor) -> Tensor:
        """Integrate `x` `[1, B, ...]`, fire and reset."""
        v = self.potentials[self.index]
        v = torch.zeros_like(x[0]) if v is None else v
        s, self.potentials[self.index] = one_step(x[0], v, self.neuron)
        return s[None]


class SingleStep(nn.Module):
    """One time step of a model.

    Args:
        model: The model. Its LIF layers are replaced, so it must not be used any more.

    Attributes:
        names: Paths of the LIF layers, in the order of the potentials.
    """

    def __init__(self, model: SpikingModel) -> None:
        super().__init__()
        self.names = [name for name, module in model.named_modules() if isinstance(module, LIF)]
        self._potentials: list[Tensor | None] = [None] * len(self.names)
        for index, name in enumerate(self.names):
            lif = model.get_submodule(name)
            assert isinstance(lif, LIF)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _StepLIF(lif, self._potentials, index))
        self.model = model

    def forward(self, frame: Tensor, potentials: list[Tensor]) -> tuple[Tensor, ...]:
        """Compute one step.

        Args:
            frame: `[B, C, H, W]`.
            potentials: Of each LIF layer, `[B, ...]`; empty for the first step.

        Returns:
            Logits of this step, `[B, classes]`, and the new potentials.
        """
        start: list[Tensor | None] = [*potentials] or [None] * len(self.names)
        self._potentials[:] = start
        logits = self.model.forward_steps(frame[None], 1)[0]
        found = tuple(v for v in self._potentials if v is not None)
        self._potentials[:] = [None] * len(self.names)
        return logits, *found


@torch.no_grad()
def write(variant: Variant, folder: Path, images: Tensor) -> tuple[str, ...]:
    """Write the single-step form.

    Args:
        variant: The model.
        folder: The folder to write to.
        images: Example input, at least 2 images.

    Returns:
        Names of the files.
    """
    from copy import deepcopy

    step = SingleStep(deepcopy(variant.model)).eval()
    frame = images if images.dim() == 4 else images[0]
    _, *potentials = step(frame, [])
    zeros = [torch.zeros_like(v) for v in potentials]
    batch = torch.export.Dim("batch", min=1)
    exported = program.export_program(step, (frame, zeros), ({0: batch}, [{0: batch}] * len(zeros)))
    program.save(exported, folder / PROGRAM)
    names = [f"v.{name}" for name in step.names]
    described = {
        "inputs": {"frame": ["B", *frame.shape[1:]], **{n: ["B", *v.shape[1:]] for n, v in zip(names, zeros, strict=True)}},
        "outputs": ["logits", *(f"{name}.next" for name in names)],
        "first_step": "all potentials 0",
        "prediction": f"mean of the logits over {variant.model.architecture.time_steps} steps",
    }
    files.write_json(folder / DESCRIPTION, described)
    written = [PROGRAM, DESCRIPTION]
    try:
        onnx_model.require()
    except UserError:
        return tuple(written)
    outputs = ["logits", *(f"{name}.next" for name in names)]
    onnx_model.save(exported, folder / ONNX, ["frame", *names], outputs, int8=bool(variant.int8))
    return *written, ONNX


def load(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return the logits of the written step over all T steps as a function of images; of the ONNX file if there is one.

    Args:
        folder: The folder that `write` wrote to.
    """
    described = files.read_json(folder / DESCRIPTION)
    shapes = [shape[1:] for shape in described["inputs"].values()][1:]
    steps = int(described["prediction"].split()[-2])
    step = onnx_model.session(folder / ONNX) if (folder / ONNX).exists() else _program(folder / PROGRAM)

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        batch = images.shape[images.dim() - 4]
        potentials, total = [torch.zeros(batch, *shape) for shape in shapes], []
        for t in range(steps):
            found, *potentials = step(images if images.dim() == 4 else images[t], *potentials)
            total.append(found)
        return torch.stack(total).mean(dim=0)

    return logits


def _program(path: Path) -> Callable[..., Any]:
    module = torch.export.load(path).module()
    return lambda frame, *potentials: module(frame, list(potentials))
