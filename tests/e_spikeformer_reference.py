"""E-SpikeFormer written again: state dicts under the published keys, and the forward pass in plain operations of torch.

It follows the description of the published code, not ours: neurons without time or potentials unless they integrate, attention as
`(q k^T) v`, factors where the published code has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = 8
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Form:
    """A published form of small widths.

    Attributes:
        widths: Widths of the stages, without the first.
        depths: Published blocks of the transformer stages.
        channels: Channels of an image.
        large: Whether it is one of `Model_Large`.
        rep_conv: Whether a block of a large form starts with two linear layers of its own.
        second_head: Whether there is a second head.
        layer_scale: Whether branches of transformer blocks have factors.
        levels: Largest output of a neuron.
        divisor: What the output is divided by, except before a head.
        container: Path of the layers inside a container of a large form.
    """

    widths: tuple[int, ...] = (8, 16, 32, 32)
    depths: tuple[int, ...] = (2, 1)
    channels: int = 3
    large: bool = False
    rep_conv: bool = False
    second_head: bool = False
    layer_scale: bool = False
    levels: int = 4
    divisor: float = 4
    container: str = "module."

    @property
    def all_widths(self) -> tuple[int, ...]:
        return (self.widths[0] // 2, *self.widths)


BASE = Form()
HARDVS = Form(channels=2, layer_scale=True, divisor=1)
GESTURE = Form(channels=2, layer_scale=True, divisor=8, depths=(1, 0))
FORM_172M = Form(large=True, layer_scale=True, widths=(8, 16, 32), depths=(2,), second_head=True)
FORM_83M = Form(large=True, layer_scale=True, widths=(8, 16, 32), depths=(2,), second_head=True, rep_conv=True)


class _Writer:
    """Collects random parameters by key. Normalisations make most neurons emit something."""

    def __init__(self, seed: int) -> None:
        self.state: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def layer(self, key: str, *shape: int, bias: bool = False) -> None:
        fan_in = shape[1] * (shape[2] if len(shape) > 2 else 1) * (shape[3] if len(shape) > 3 else 1)
        self.state[f"{key}.weight"] = torch.randn(shape, generator=self._generator) * fan_in**-0.5
        if bias:
            self.state[f"{key}.bias"] = self.uniform(shape[0], low=-0.5, high=0.5)

    def norm(self, key: str, channels: int, *, largest_bias: float = 1.5) -> None:
        self.state[f"{key}.weight"] = self.uniform(channels, low=0.5, high=1.5)
        self.state[f"{key}.bias"] = self.uniform(channels, low=-0.5, high=largest_bias)
        self.state[f"{key}.running_mean"] = self.uniform(channels, low=-0.2, high=0.2)
        self.state[f"{key}.running_var"] = self.uniform(channels, low=0.2, high=1.0)
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(3)


def state_dict(form: Form, classes: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Return a random state dict of a form under the published keys."""
    writer = _Writer(seed)
    names = ("downsample1_1", "downsample1_2", "downsample2", "downsample3", "downsample4")
    inputs = form.channels
    for i, (name, width) in enumerate(zip(names, form.all_widths, strict=False)):
        size = 3 if i else 7
        writer.layer(f"{name}.encode_conv", width, inputs, size, size, bias=True)
        writer.norm(f"{name}.encode_bn", width)
        inputs = width
    first, second, third = form.all_widths[:3]
    for name, width in {"ConvBlock1_1": first, "ConvBlock1_2": second, "ConvBlock2_1": third, "ConvBlock2_2": third}.items():
        if form.large:
            for n, (i, o) in enumerate(((width, 4 * width), (4 * width, width)), start=1):
                writer.layer(f"{name}.0.conv{n}.0.{form.container}0", o, i, 3, 3, bias=True)
                writer.norm(f"{name}.0.conv{n}.0.{form.container}1", o)
        else:
            _write_sepconv(writer, f"{name}.0.Conv", width, 7)
            for n, (i, o) in enumerate(((width, 4 * width), (4 * width, width)), start=1):
                writer.layer(f"{name}.0.conv{n}", o, i, 3, 3)
                writer.norm(f"{name}.0.bn{n}", o)
    for stage, (depth, width) in enumerate(zip(form.depths, form.all_widths[3:], strict=True), start=3):
        for i in range(depth):
            _write_transformer(writer, f"block{stage}.{i}", width, form)
    writer.layer("head", classes, form.widths[-1], bias=True)
    if form.second_head:
        writer.layer("head_kd", classes, form.widths[-1], bias=True)
    return writer.state


def _write_sepconv(writer: _Writer, key: str, width: int, size: int) -> None:
    layers = {"pwconv1": (2 * width, width, 1, 1), "dwconv": (2 * width, 1, size, size), "pwconv2": (width, 2 * width, 1, 1)}
    for name, shape in layers.items():
        writer.layer(f"{key}.{name}.0", *shape)
        writer.norm(f"{key}.{name}.1", shape[0])


def _write_transformer(writer: _Writer, key: str, width: int, form: Form) -> None:
    values = width if form.large else 4 * width
    sizes = {"q": (width, width), "k": (width, width), "v": (width, values), "proj": (values, width)}
    for name, (i, o) in sizes.items():
        if form.large:
            _write_pair(writer, f"{key}.attn.{name}_conv.0", i, i * 3 // 2, o)
        else:
            writer.layer(f"{key}.attn.{name}_conv.0", o, i, 1, 1)
        writer.norm(f"{key}.attn.{name}_conv.1", o, largest_bias=1.5 if name == "proj" else form.levels)
    if form.rep_conv:
        _write_pair(writer, f"{key}.rep_conv", width, width, width)
    if not form.large:
        _write_sepconv(writer, f"{key}.conv", width, 3)
    for n, (i, o) in enumerate(((width, 4 * width), (4 * width, width)), start=1):
        writer.layer(f"{key}.mlp.fc{n}_conv", o, i, 1, bias=True)
        writer.norm(f"{key}.mlp.fc{n}_bn", o)
    for n in range(1, (3 if form.large else 4) if form.layer_scale else 0):
        writer.state[f"{key}.layer_scale{n}"] = writer.uniform(width, low=0.2, high=1.0)


def _write_pair(writer: _Writer, key: str, inputs: int, hidden: int, outputs: int) -> None:
    for n, (i, o) in enumerate(((inputs, hidden), (hidden, outputs)), start=1):
        writer.layer(f"{key}.conv{n}.0", o, i, 1)
        writer.norm(f"{key}.conv{n}.1", o)


class _ClippedRound(torch.autograd.Function):
    """Rounding to the nearest of 0 to `levels`, whose gradient is 1 where the input is in that interval, ends included."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, levels: int, half_up: bool) -> Tensor:
        ctx.save_for_backward((x >= 0) & (x <= levels))
        clipped = x.clamp(0, levels)
        return torch.floor(clipped + 0.5) if half_up else torch.round(clipped)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * inside, None, None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The forward pass of a form.

    Attributes:
        form: The form.
        state: Its parameters.
        integrated: Frames over which neurons integrate without a leak, and subtract what they emit; with 1 every frame is computed
            alone.
        ties: Numbers of inputs of attention neurons that round up and to even give other integers: 0.5, 2.5. Filled by the calls.
    """

    form: Form
    state: dict[str, Tensor]
    integrated: int = 1
    ties: list[int] = field(default_factory=list)

    def logits(self, frames: Tensor) -> Tensor:
        """Return the logits, mean over frames, of `[T, B, C, H, W]` in the precision of the state dict."""
        steps, images = frames.shape[:2]
        x = frames.flatten(0, 1)
        block = self._large_conv_block if self.form.large else self._conv_block
        x = block(self._downsampled(x, "downsample1_1", 2), "ConvBlock1_1")
        x = block(self._downsampled(x, "downsample1_2", 2), "ConvBlock1_2")
        x = block(block(self._downsampled(x, "downsample2", 2), "ConvBlock2_1"), "ConvBlock2_2")
        for stage, depth in enumerate(self.form.depths, start=3):
            x = self._downsampled(x, f"downsample{stage}", 2 if stage == 3 else 1)
            for i in range(depth):
                x = self._transformer(x, f"block{stage}.{i}")
        features = x.flatten(2).mean(2)
        spikes = self._quantised(features)
        first = self._linear(features if self.form.large else spikes, "head")
        logits = (first + self._linear(spikes, "head_kd")) / 2 if self.form.second_head else first
        return logits.unflatten(0, (steps, images)).mean(0)

    def _quantised(self, x: Tensor) -> Tensor:
        emitted: list[Tensor] = []
        potential = torch.zeros_like(x[: len(x) // self.integrated])
        for frame in x.unflatten(0, (self.integrated, -1)):
            before_reset = potential + frame
            emitted.append(_ClippedRound.apply(before_reset, self.form.levels, self.form.large))
            potential = before_reset - emitted[-1]
        return torch.cat(emitted)

    def _spikes(self, x: Tensor) -> Tensor:
        return self._quantised(x) / self.form.divisor

    def _of(self, key: str) -> Tensor:
        return self.state[key]

    def _linear(self, x: Tensor, key: str) -> Tensor:
        return F.linear(x, self._of(f"{key}.weight"), self._of(f"{key}.bias"))

    def _norm(self, x: Tensor, key: str) -> Tensor:
        mean, variance, weight, bias = (
            self._of(f"{key}.{name}").view(1, -1, *(1,) * (x.dim() - 2))
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + EPSILON) * weight + bias

    def _conv(self, x: Tensor, key: str, *, stride: int = 1) -> Tensor:
        weight = self._of(f"{key}.weight")
        groups = x.shape[1] // weight.shape[1]
        convolve: Callable[..., Tensor] = F.conv2d if weight.dim() == 4 else F.conv1d
        return convolve(x, weight, self.state.get(f"{key}.bias"), stride=stride, padding=weight.shape[-1] // 2, groups=groups)

    def _downsampled(self, x: Tensor, key: str, stride: int) -> Tensor:
        read = x if key == "downsample1_1" else self._spikes(x)
        return self._norm(self._conv(read, f"{key}.encode_conv", stride=stride), f"{key}.encode_bn")

    def _sepconv(self, x: Tensor, key: str) -> Tensor:
        for name in ("pwconv1", "dwconv", "pwconv2"):
            x = self._norm(self._conv(self._spikes(x), f"{key}.{name}.0"), f"{key}.{name}.1")
        return x

    def _conv_block(self, x: Tensor, key: str) -> Tensor:
        x = x + self._sepconv(x, f"{key}.0.Conv")
        y = x
        for n in (1, 2):
            y = self._norm(self._conv(self._spikes(y), f"{key}.0.conv{n}"), f"{key}.0.bn{n}")
        return x + y

    def _large_conv_block(self, x: Tensor, key: str) -> Tensor:
        y = x
        for n in (1, 2):
            path = f"{key}.0.conv{n}.0.{self.form.container}"
            y = self._norm(self._conv(self._spikes(y), f"{path}0"), f"{path}1")
        return x + y

    def _pair(self, x: Tensor, key: str) -> Tensor:
        for n in (1, 2):
            x = self._norm(self._conv(x, f"{key}.conv{n}.0"), f"{key}.conv{n}.1")
        return x

    def _scaled(self, x: Tensor, key: str, number: int) -> Tensor:
        if not self.form.layer_scale:
            return x
        return x * self._of(f"{key}.layer_scale{number}").view(1, -1, *(1,) * (x.dim() - 2))

    def _transformer(self, x: Tensor, key: str) -> Tensor:
        number = 1
        if self.form.rep_conv:
            x = x + self._pair(self._spikes(x).flatten(2), f"{key}.rep_conv").view(x.shape)
        if not self.form.large:
            x = x + self._scaled(self._sepconv(x, f"{key}.conv"), key, number)
            number += 1
        x = x + self._scaled(self._attention(x, key), key, number)
        return x + self._scaled(self._mlp(x, key), key, number + 1)

    def _projected(self, x: Tensor, key: str) -> Tensor:
        y = self._pair(x.flatten(2), f"{key}.0") if self.form.large else self._conv(x, f"{key}.0").flatten(2)
        return self._norm(y, f"{key}.1")

    def _attention(self, x: Tensor, key: str) -> Tensor:
        batch, width, height, breadth = x.shape
        read = self._spikes(x)

        def by_head(name: str) -> Tensor:
            spikes = self._spikes(self._projected(read, f"{key}.attn.{name}_conv"))
            return spikes.view(batch, HEADS, -1, height * breadth).transpose(2, 3)

        q, k, v = map(by_head, "qkv")
        scale = 0.125 if self.form.large else 2 * (width // HEADS) ** -0.5
        product = ((q @ k.transpose(2, 3)) @ v) * scale
        self.ties.append(int(((product % 2 == 0.5) & (product < self.form.levels)).sum()))
        spikes = self._spikes(product.transpose(2, 3).reshape(batch, -1, height, breadth))
        return self._projected(spikes, f"{key}.attn.proj_conv").view(x.shape)

    def _mlp(self, x: Tensor, key: str) -> Tensor:
        y = x.flatten(2)
        for n in (1, 2):
            y = self._norm(self._conv(self._spikes(y), f"{key}.mlp.fc{n}_conv"), f"{key}.mlp.fc{n}_bn")
        return y.view(x.shape)
