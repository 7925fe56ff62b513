"""Plain PyTorch: one file of code that was generated from the model, which imports torch and safetensors only, and its weights.

`torch.fx` records the model as a list of layer calls, because neurons and synapses are single calls in its graph
(`autospike.nn.tracing`). Each layer becomes one of `plain_layers.py`, whose source is copied into the file. The same graph with
spikingjelly's neurons is the format `spikingjelly`.
"""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn

from autospike import files
from autospike.errors import UserError
from autospike.exporting import plain_layers as plain
from autospike.exporting.variants import Variant
from autospike.models.contract import SpikingModel, initial_stream
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, RepLinear, SeparableConvNorm
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF, ONE_STEP
from autospike.nn.norm import ScaledNorm
from autospike.tensors import write_tensors

Neurons = Literal["plain", "spikingjelly"]

SPIKINGJELLY_LIF = '''class LIF(neuron.LIFNode):
    """spikingjelly's LIF neurons over all time steps, with the surrogate of the training."""

    def __init__(self, v_threshold: float, tau: float) -> None:
        super().__init__(tau=tau, v_threshold=v_threshold, v_reset=0.0, surrogate_function=surrogate.Sigmoid(4.0),
                         detach_reset=True, step_mode="m")
'''

SPIKINGJELLY_INTEGER_LIF = '''class IntegerLIF(neuron.ILIFNode):
    """spikingjelly's integer neurons over all time steps. Without a leak, tau is the largest number.

    With tau 1 they do not integrate: spikingjelly computes all time steps as one batch.
    """

    def __init__(self, v_threshold: float, levels: int, tau: float | None) -> None:
        super().__init__(tau=torch.finfo(torch.float32).max if tau in (None, 1.0) else tau, v_threshold=v_threshold,
                         surrogate_function=surrogate.MultiLevelSpikeCount(levels), detach_reset=True, step_mode="m")
        self.integrates = tau != 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Compute the integers of `x`, the input current."""
        return super().forward(x) if self.integrates else super().forward(x.flatten(0, 1)[None])[0].unflatten(0, x.shape[:2])
'''


class Unsupported(UserError):  # noqa: N818 - a format that cannot express a model is no error of the program
    """A model has a layer that a format cannot express."""


class _LayerTracer(fx.Tracer):
    """Records layers with parameters as single calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear | nn.Conv2d | nn.BatchNorm1d) or super().is_leaf_module(m, module_qualified_name)


@singledispatch
def layer_source(module: nn.Module) -> tuple[str, dict[str, str]]:
    """Return how a layer is constructed in the file, and its parameters there.

    Args:
        module: A layer of the model. A new kind of layer registers a function of its own.

    Returns:
        The expression, and the name of each of its tensors by the name in the model.

    Raises:
        Unsupported: There is no plain form of it.
    """
    raise Unsupported(f"a layer of type {type(module).__name__} has no form in plain PyTorch; export as timm, pt2 or onnx")


@layer_source.register
def _(module: LIF) -> tuple[str, dict[str, str]]:
    if module.neuron.levels > 1:
        neuron = module.neuron
        tau = ONE_STEP if not neuron.integrates else neuron.tau if neuron.leak else None
        return f"IntegerLIF(v_threshold={module.neuron.v_threshold!r}, levels={module.neuron.levels}, tau={tau!r})", {}
    if not module.is_binary_lif:
        raise Unsupported(
            f"binary neurons with other dynamics than the published ones ({module.neuron}, {module.dynamics}) have no form in "
            "plain PyTorch; export as timm, pt2 or onnx"
        )
    return f"LIF(v_threshold={module.neuron.v_threshold!r}, tau={module.neuron.tau!r})", {}


@layer_source.register
def _(module: nn.Linear) -> tuple[str, dict[str, str]]:
    names = [name for name, _ in module.named_parameters()]
    return f"nn.Linear({module.in_features}, {module.out_features}, bias={module.bias is not None})", {name: name for name in names}


@layer_source.register
def _(module: nn.Conv2d) -> tuple[str, dict[str, str]]:
    groups = f", groups={module.groups}" if module.groups > 1 else ""
    source = (
        f"Conv({module.in_channels}, {module.out_channels}, {module.kernel_size[0]}, stride={module.stride[0]}, "
        f"padding={module.padding[0]}{groups}, bias={module.bias is not None})"
    )
    return source, {name: name for name, _ in module.named_parameters()}


@layer_source.register
def _(module: LinearNorm) -> tuple[str, dict[str, str]]:
    return _chain(module.linear, module.bn, "linear", "bn", sequence="nn.Sequential", names=("0", "1"))


@layer_source.register
def _(module: ConvNorm) -> tuple[str, dict[str, str]]:
    return _chain(module.conv, module.bn, "conv", "bn", sequence="ConvNorm", names=("conv", "bn"))


@layer_source.register
def _(module: SeparableConvNorm) -> tuple[str, dict[str, str]]:
    (depthwise, _), (pointwise, _) = layer_source(module.depthwise), layer_source(module.pointwise)
    width = module.pointwise.out_features
    names = {"depthwise.weight": "0.weight", "pointwise.weight": "1.weight", **_norm_names("bn.", "2.")}
    return f"nn.Sequential({depthwise}, {pointwise}, BatchNorm({width}))", names


@layer_source.register
def _(module: RepConv) -> tuple[str, dict[str, str]]:
    return f"RepConv({module.first.in_features})", {name: name for name in module.state_dict()}


@layer_source.register
def _(module: RepLinear) -> tuple[str, dict[str, str]]:
    layers = ["first", "first_bn", "last", *(["last_bn"] if module.last_bn is not None else []), "bn"]
    hidden, channels = module.first.out_features, module.last.out_features
    sources = {
        "first": f"nn.Linear({channels}, {hidden}, bias=False)",
        "first_bn": f"BatchNorm({hidden})",
        "last": f"nn.Linear({hidden}, {channels}, bias=False)",
        **dict.fromkeys(("last_bn", "bn"), f"BatchNorm({channels})"),
    }
    names: dict[str, str] = {}
    for i, layer in enumerate(layers):
        names |= {f"{layer}.weight": f"{i}.weight"} if layer in ("first", "last") else _norm_names(f"{layer}.", f"{i}.")
    return f"nn.Sequential({', '.join(sources[layer] for layer in layers)})", names


@layer_source.register
def _(_module: TimewiseMaxPool) -> tuple[str, dict[str, str]]:
    return "MaxPool()", {}


@layer_source.register
def _(module: AttentionProduct) -> tuple[str, dict[str, str]]:
    return f"AttentionProduct({module.scale!r})", {}


def _chain(
    inner: nn.Module, bn: nn.Module, inner_name: str, bn_name: str, *, sequence: str, names: tuple[str, str]
) -> tuple[str, dict[str, str]]:
    """A linear layer or convolution with its normalisation, or alone if that is folded."""
    source, parameters = layer_source(inner)
    if isinstance(bn, nn.Identity):
        return source, {f"{inner_name}.{name}": name for name in parameters}
    assert isinstance(bn, nn.BatchNorm1d)
    own = {f"{inner_name}.{name}": f"{names[0]}.{name}" for name in parameters}
    return f"{sequence}({source}, BatchNorm({bn.num_features}))", {**own, **_norm_names(f"{bn_name}.", f"{names[1]}.")}


def _norm_names(old: str, new: str) -> dict[str, str]:
    return {f"{old}{n}": f"{new}{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def generate(variant: Variant, *, neurons: Neurons = "plain", title: str) -> tuple[str, dict[str, Tensor]]:
    """Generate the code of a model and its weights.

    Args:
        variant: The model.
        neurons: Whose neurons the code uses.
        title: First line of the file's docstring.

    Returns:
        The source, and the tensors by their names in it.

    Raises:
        Unsupported: A layer has no plain form.
    """
    model = variant.model
    graph = record(logits_only(model))
    layers = _simplified(graph, model)
    lines: list[str] = []
    renamed: dict[str, str] = {}
    for path, flat in layers.items():
        source, names = layer_source(model.get_submodule(path))
        lines.append(f"        self.{flat} = {source}")
        renamed |= {f"{path}.{old}": f"{flat}.{new}" for old, new in names.items()}
    for node in graph.find_nodes(op="get_attr"):
        old = str(node.target).removeprefix("model.")
        shape = tuple(cast("Tensor", model.get_parameter(old)).shape)
        node.target = renamed[old] = old.replace(".", "_")
        lines.append(f"        self.{node.target} = nn.Parameter(torch.ones({shape}))")
    body = _forward_source(graph, reset=neurons == "spikingjelly")
    source = _file(title, model, lines, body, neurons)
    return source, _tensors(variant, renamed)


def record(model: nn.Module) -> fx.Graph:
    """Return the calls of layers of a model, in order.

    Args:
        model: What `logits_only` returns.

    Raises:
        Unsupported: The calls depend on values.
    """
    try:
        return _LayerTracer().trace(model)
    except (TypeError, AttributeError, fx.proxy.TraceError) as error:
        reason = " ".join(str(error).split())[:120]
        raise Unsupported(f"its layers cannot be recorded as a list of calls ({reason}); export as timm, pt2 or onnx") from None


def logits_only(model: SpikingModel) -> nn.Module:
    """Return the model as a module `model` of another one, whose only argument is the input.

    Args:
        model: The model.
    """

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x)
            return logits

    return Logits()


def _simplified(graph: fx.Graph, model: nn.Module) -> dict[str, str]:
    """Replace calls in the graph by those of plain layers; return the name of each layer in the file by its path."""
    layers: dict[str, str] = {}
    replaced: dict[Any, Callable[..., Any]] = {initial_stream: plain.as_stream, Heads: _as_tuple}
    for node in graph.nodes:
        node.name = node.name.removeprefix("model_")
        if node.op == "call_module":
            path = str(node.target).removeprefix("model.")
            given = [*node.args, *node.kwargs.values()]
            node.args, node.kwargs = tuple(arg for arg in given if arg is not None), {}
            if isinstance(model.get_submodule(path), nn.Identity):
                node.replace_all_uses_with(node.args[0])
                continue
            node.target = layers[path] = path.replace(".", "_")
        elif node.op == "call_function":
            node.target = replaced.get(node.target, node.target)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return layers


def _as_tuple(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tensors


def _forward_source(graph: fx.Graph, *, reset: bool) -> str:
    """Source of `forward` and the methods it calls, from a simplified graph."""
    graph.lint()
    source = graph.python_code("self").src
    source = re.sub(r";  (?:\w+ = )+None", "", source)
    for function in (plain.as_stream, _as_tuple):
        source = re.sub(rf"\w*{function.__name__}\(", f"{function.__name__.removeprefix('_as_tuple')}(", source)
    body = re.split(r"def forward\(.*\n", source)[1]
    body = "\n".join(line for line in body.splitlines() if line.strip())
    body = body.replace("torch._C._nn.", "F.").replace("torch.nn.functional.", "F.")
    start = "        functional.reset_net(self)\n" if reset else ""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return f"    def forward(self, x: Tensor) -> Tensor:\n{start}{indented}\n"


def _file(title: str, model: SpikingModel, lines: list[str], body: str, neurons: Neurons) -> str:
    constructed = "\n".join(lines)
    parts = [part for part in _plain_parts() if re.search(rf"\b{part.__name__}\(", constructed + body)]
    theirs = {plain.LIF: SPIKINGJELLY_LIF, plain.IntegerLIF: SPIKINGJELLY_INTEGER_LIF} if neurons == "spikingjelly" else {}
    if plain.RepConv in parts and plain.BatchNorm not in parts:
        parts.insert(0, plain.BatchNorm)
    parts.sort(key=lambda part: _plain_parts().index(part))
    used = [theirs.get(part) or inspect.getsource(part) for part in parts]
    needs_f = any("F." in text for text in (*used, body))
    channels = f"{model.architecture.family}, T = {model.architecture.time_steps}, {model.num_classes} classes"
    imports = ["import torch", *(["import torch.nn.functional as F"] if needs_f else []), "from safetensors.torch import load_file"]
    imports += ["from spikingjelly.activation_based import functional, neuron, surrogate"] if neurons == "spikingjelly" else []
    return "\n".join(
        [
            f'"""{title}',
            "",
            f"{channels}. Generated by autospike; needs only the packages that it imports.",
            "",
            '    model = load_weights(Model(), "model.safetensors")',
            "    logits = model(images)  # images [B, C, H, W], or event frames [T, B, C, H, W]; logits [B, classes]",
            '"""',
            "",
            "from __future__ import annotations",
            "",
            "from collections.abc import Sequence",
            "from pathlib import Path",
            "",
            *imports,
            "from torch import Tensor, nn",
            "\n",
            "\n\n".join([*used, _model_source(constructed, body), inspect.getsource(plain.load_weights)]),
        ]
    )


def _model_source(constructed: str, body: str) -> str:
    return (
        f'class Model(nn.Module):\n    """The network, layer by layer."""\n\n    def __init__(self) -> None:\n'
        f"        super().__init__()\n{constructed}\n\n{body}"
    )


def _plain_parts() -> list[Any]:
    """Classes and functions that a file may contain, in their order."""
    return [
        plain.LIF,
        plain.IntegerLIF,
        plain.Conv,
        plain.BatchNorm,
        plain.ConvNorm,
        plain.RepConv,
        plain.MaxPool,
        plain.AttentionProduct,
        plain.as_stream,
    ]


def _tensors(variant: Variant, renamed: dict[str, str]) -> dict[str, Tensor]:
    """The weights by their names in the file, with the integers and scales of those in 8 bits.

    A layer behind normalised integer neurons has its factor (`Neuron.output_scale`) in its weight or the scale of its weight; a
    normalisation with a layer scale has it in weight and bias.
    """
    tensors = {}
    factors: dict[str, Any] = {}
    for name, module in variant.model.named_modules():
        if isinstance(module, ScaledNorm):
            factors |= dict.fromkeys((f"{name}.weight", f"{name}.bias"), module.layer_scale.detach())
        else:
            factors[f"{name}.weight"] = getattr(module, "input_scale", 1.0)
    for old, values in variant.model.state_dict().items():
        if old.endswith(".layer_scale"):
            continue
        new, int8, factor = renamed[old], variant.int8.get(old), factors.get(old, 1.0)
        tensors[new] = (values if isinstance(factor, float) and factor == 1 else values * factor) if int8 is None else int8.integers
        if int8 is not None:
            tensors[f"{new}.scale"] = int8.scale * factor
    return tensors


def write(variant: Variant, folder: Path, *, neurons: Neurons, title: str) -> tuple[str, ...]:
    """Write `model.py` and `model.safetensors`.

    Args:
        variant: The model.
        folder: The folder to write to.
        neurons: Whose neurons the code uses.
        title: First line of the file's docstring.

    Returns:
        Names of the files.

    Raises:
        Unsupported: A layer has no plain form.
    """
    source, tensors = generate(variant, neurons=neurons, title=title)
    files.write_text(folder / "model.py", source)
    write_tensors(folder / "model.safetensors", tensors)
    return "model.py", "model.safetensors"


def load(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return the logits of the written files as a function of images.

    Args:
        folder: The folder that `write` wrote to.
    """
    namespace = runpy.run_path(str(folder / "model.py"))
    model = namespace["load_weights"](namespace["Model"](), folder / "model.safetensors")

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        found: Tensor = model(x)
        return found

    return logits
