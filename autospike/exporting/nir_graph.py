"""NIR, the Neuromorphic Intermediate Representation, for the networks that it can express.

NIR has linear layers, convolutions, average pools and LIF neurons, and adds the inputs of a node. It has no product of two signals,
so no attention, and no max-pool. What is left are networks of convolutional blocks. Time is in steps (dt = 1): `tau` is that of the
architecture, `r` is 1. The input is the image, at every step; the output are the logits of a step, whose mean is the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autospike import files
from autospike.errors import UserError
from autospike.exporting.plain import Unsupported, logits_only, record
from autospike.exporting.variants import Variant
from autospike.models.contract import SpikingModel, initial_stream
from autospike.nn.attention import Gate, SumOfSpikes
from autospike.nn.attention_product import AttentionProduct
from autospike.nn.layers import ConvNorm, LinearNorm
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF

FILE = "model.nir"
# Layers that NIR 1.0 has no node for, and why.
REASONS: dict[type[nn.Module], str] = {
    AttentionProduct: "multiplies signals of spikes with each other (q k^T v); a NIR node has constant weights",
    Gate: "multiplies two signals of spikes; a NIR node has constant weights",
    SumOfSpikes: "sums over tokens or channels for a gate, which NIR cannot apply",
    TimewiseMaxPool: "max-pool; NIR has sum and average pools only",
}


def require() -> Any:
    """Return the package `nir`.

    Raises:
        UserError: It is not installed.
    """
    try:
        import nir
    except ImportError:
        raise UserError("--format nir: needs nir; install it with: pip install 'autospike[nir]'") from None
    return nir


def reasons(model: SpikingModel) -> dict[str, str]:
    """Return what of a model NIR cannot express: the reason by the path of the layer.

    Args:
        model: The model.
    """
    found = {name: REASONS[type(module)] for name, module in model.named_modules() if type(module) in REASONS}
    for name, module in model.named_modules():
        if isinstance(module, LIF) and not module.is_binary_lif:
            found[name] = "integer neurons, or other dynamics than hard reset and decaying input"
    if model.architecture.distilled:
        found["head_dist"] = "the mean of two heads is written as two outputs, which other tools do not average"
    return found


def _refuse(found: dict[str, str]) -> None:
    """Raise an error that lists what cannot be expressed, one reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in found.items():
        by_reason.setdefault(reason, []).append(name)
    listed = "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {r}" for r, names in by_reason.items()
    )
    raise Unsupported(f"--format nir: NIR cannot express {listed}")


def write(variant: Variant, folder: Path, images: Tensor) -> tuple[str, ...]:
    """Write a NIR graph.

    Args:
        variant: The model, with BatchNorm folded.
        folder: The folder to write to.
        images: Example input.

    Returns:
        Names of the files.

    Raises:
        UserError: The package is missing, or NIR cannot express the model.
    """
    nir = require()
    found = reasons(variant.model)
    if found:
        _refuse(found)
    graph = _Writer(nir, variant.model, images).built()
    with files.replacing(folder / FILE) as temporary:
        nir.write(str(temporary), graph)
    return (FILE,)


class _Writer(fx.Interpreter):
    """Runs the recorded graph of a model on shapes and names: a value is the nodes whose sum it is, and its shape `[C, H, W]`."""

    def __init__(self, nir: Any, model: SpikingModel, images: Tensor) -> None:
        recorded = logits_only(model)
        super().__init__(fx.GraphModule(recorded, record(recorded)))
        self.nir, self.shape = nir, tuple(images.shape[-3:])
        self.nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": _array(self.shape)})}
        self.edges: list[tuple[str, str]] = []

    def built(self) -> Any:
        sources, shape = self.run((("input",), self.shape))
        self._add("output", self.nir.Output(output_type={"output": _array(shape)}), sources)
        return self.nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata={"dt": "1 time step"})

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        del kwargs
        module, name = self.fetch_attr(str(target)), str(target).removeprefix("model.").replace(".", "_")
        sources, shape = args[0]
        if isinstance(module, nn.Identity):
            return args[0]
        if isinstance(module, LIF):
            full = partial(_full, shape)
            neuron = self.nir.LIF(
                tau=full(module.neuron.tau), r=full(1.0), v_leak=full(0.0), v_threshold=full(module.neuron.v_threshold)
            )
            return self._add(name, neuron, sources), shape
        layer = module.linear if isinstance(module, LinearNorm) else module.conv if isinstance(module, ConvNorm) else module
        if isinstance(layer, nn.Linear) and len(shape) == 1:
            node, out = self.nir.Affine(weight=_numpy(layer.weight), bias=_bias(layer)), [layer.out_features]
        else:
            node = _conv_node(self.nir, layer, shape)
            out = [int(n) for n in node.output_type["output"]]
        return self._add(name, node, sources), tuple(out)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        del kwargs
        if target is initial_stream:
            return args[0], None
        if target.__name__ == "getitem":
            return args[0][args[1]]
        if target.__name__ == "add":
            return (*args[0][0], *args[1][0]), args[0][1]
        if target.__name__ == "mean":  # over time
            return args[0]
        raise Unsupported(f"--format nir: NIR cannot express {target.__name__}")

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        del kwargs
        sources, shape = args[0]
        if target == "flatten":  # of positions, before their mean
            return args[0]
        if target == "mean":
            channels, *size = shape
            pool = self.nir.AvgPool2d(kernel_size=_array(size), stride=_array(size), padding=_array((0, 0)))
            pooled = self._add("mean", pool, sources)
            flat = self.nir.Flatten(input_type={"input": _array((channels, 1, 1))}, start_dim=0, end_dim=-1)
            return self._add("flatten", flat, pooled), (channels,)
        raise Unsupported(f"--format nir: NIR cannot express {target}")

    def _add(self, name: str, node: Any, sources: Sequence[str]) -> tuple[str, ...]:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return (name,)


def _conv_node(nir: Any, layer: nn.Module, shape: tuple[int, ...]) -> Any:
    """A convolution, or a linear layer at every position as a 1x1 convolution."""
    weight = layer.weight if isinstance(layer, nn.Conv2d) else layer.weight[:, :, None, None]  # type: ignore[index]
    stride, padding = (layer.stride[0], int(layer.padding[0])) if isinstance(layer, nn.Conv2d) else (1, 0)
    return nir.Conv2d(
        input_shape=(shape[1], shape[2]),
        weight=_numpy(weight),
        stride=stride,
        padding=padding,
        dilation=1,
        groups=layer.groups if isinstance(layer, nn.Conv2d) else 1,
        bias=_bias(layer),
    )


def _bias(layer: nn.Module) -> Any:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    return _numpy(torch.zeros(len(weight)) if bias is None else bias)  # type: ignore[arg-type]


def _numpy(x: Tensor) -> Any:
    return x.detach().numpy()


def _array(values: Sequence[int]) -> Any:
    return torch.tensor(list(values)).numpy()


def _full(shape: Sequence[int], value: float) -> Any:
    return torch.full(tuple(shape), value).numpy()


def load(folder: Path, time_steps: int) -> Callable[[Tensor], Tensor]:
    """Return the logits of a written graph over T steps as a function of images.

    Args:
        folder: The folder that `write` wrote to.
        time_steps: T.
    """
    graph = require().read(str(folder / FILE))
    return partial(_run, graph, time_steps)


@torch.no_grad()
def _run(graph: Any, time_steps: int, images: Tensor) -> Tensor:
    """Run a graph in topological order, as the documentation of NIR defines its nodes."""
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    order: list[str] = []
    while len(order) < len(before):
        order += [name for name, sources in before.items() if name not in order and set(sources) <= set(order)]
    potentials: dict[str, Tensor] = {}
    total = []
    for t in range(time_steps):
        values: dict[str, Tensor] = {"input": images if images.dim() == 4 else images[t]}
        for name in order:
            if name != "input":
                values[name] = _node(graph.nodes[name], sum(values[s] for s in before[name]), potentials, name)  # type: ignore[arg-type]
        total.append(values["output"])
    return torch.stack(total).mean(dim=0)


def _node(node: Any, x: Tensor, potentials: dict[str, Tensor], name: str) -> Tensor:
    """The output of one node at one step."""
    kind, tensor = type(node).__name__, torch.from_numpy
    if kind == "LIF":
        v = potentials.get(name, torch.zeros_like(x))
        v = v + (tensor(node.v_leak) - v + tensor(node.r) * x) / tensor(node.tau)
        spikes = (v >= tensor(node.v_threshold)).to(x.dtype)
        potentials[name] = v * (1 - spikes)
        return spikes
    if kind == "Conv2d":
        return F.conv2d(x, tensor(node.weight), tensor(node.bias), tuple(node.stride), tuple(node.padding), groups=int(node.groups))
    if kind == "Affine":
        return F.linear(x, tensor(node.weight), tensor(node.bias))
    if kind == "AvgPool2d":
        return F.avg_pool2d(x, tuple(int(n) for n in node.kernel_size))
    return x.flatten(1) if kind == "Flatten" else x
