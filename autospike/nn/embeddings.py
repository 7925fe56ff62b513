"""Embeddings of Max-Former (Fang et al., NeurIPS 2025), which stages of any family may use.

With membrane shortcuts (S: LIF layer, pool: max-pool 3x3 of stride 2):

    embed_orig      conv3x3 BN | S conv3x3 BN | S conv3x3 BN;      plus conv1x1 BN of the spikes of the second part
    embed_max       S conv3x3 BN pool | S conv3x3 BN;              plus conv1x1 BN pool of the spikes of the first part
    embed_max_plus  conv3x3 BN | three times S conv3x3 BN pool;    plus a strided conv1x1 BN of the spikes of the third part

In `embed_orig` the first two convolutions have strides, and with `compact_embedding` there is no third one. No neurons precede a
convolution that reads the image. With SEW and vanilla shortcuts neurons follow each normalisation (or pool) instead of preceding
the convolution, and the shortcut adds spikes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from autospike.nn.layers import ConvNorm, fire
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Stage


class _Embedding(nn.Module):
    """Base class: convolutions in a row, and one in parallel that starts behind one of them.

    Args:
        stage: The stage of the architecture.
        shortcut: The kind of shortcut.
        first: Whether the embedding reads the image.
    """

    def __init__(self, stage: Stage, shortcut: str, *, first: bool) -> None:
        super().__init__()
        self.neuron = stage.embedding.neuron
        self.membrane = shortcut == "membrane"
        self.first = first

    def add(
        self, name: str, in_channels: int, width: int, *, stride: int = 1, pool: bool = False, size: int = 3, start: bool
    ) -> None:
        """Add a convolution, the neurons before or behind it, and a max-pool.

        Args:
            name: Name of the convolution.
            in_channels: Channels of its input.
            width: Channels of its output.
            stride: Its stride.
            pool: Whether a max-pool follows.
            size: Height and width of its kernel.
            start: Whether it reads the input of the embedding.
        """
        integers = self.membrane and not (start and self.first)
        scale = self.neuron.output_scale if integers or not start else 1.0
        self.add_module(name, ConvNorm(in_channels, width, kernel_size=size, stride=stride, input_scale=scale))
        self.add_module(f"{name}_pool", TimewiseMaxPool() if pool else nn.Identity())
        self.add_module(f"{name}_lif", nn.Identity() if self.membrane and start and self.first else LIF(self.neuron))

    def spikes(self, name: str, x: Tensor) -> Tensor:
        """Compute what a convolution reads: spikes of the neurons before it, or the input where they follow it."""
        out: Tensor = getattr(self, f"{name}_lif")(x) if self.membrane else x
        return out

    def convolve(self, name: str, x: Tensor, time_steps: int | None = None, stream: Tensor | None = None) -> Tensor:
        """Compute a convolution with the layers behind it, and add it to a stream."""
        conv, pool = getattr(self, name), getattr(self, f"{name}_pool")
        if self.membrane:
            y: Tensor = pool(conv(x, time_steps))
            return y if stream is None else stream + y
        lif = getattr(self, f"{name}_lif")
        if isinstance(pool, nn.Identity):
            return fire(conv, lif, x, time_steps, stream=stream)
        spikes: Tensor = lif(pool(conv(x, time_steps)))
        return spikes if stream is None else stream + spikes

    def add_residual(self, name: str, in_channels: int, width: int, *, stride: int) -> None:
        """Add the convolution of size 1 in parallel; with membrane shortcuts it reads spikes that exist already."""
        self.add(name, in_channels, width, stride=stride, size=1, start=False)
        if self.membrane:
            setattr(self, f"{name}_lif", nn.Identity())


class EmbedOrig(_Embedding):
    """`embed_orig`: see the table of this module.

    Args:
        stage: The stage of the architecture.
        in_channels: Width of the stage before it, or channels of the image.
        shortcut: The kind of shortcut.
        first: Whether the embedding reads the image.
        compact: Whether the third convolution is left out.

    Shape: `[T, B, H, W, in_channels]`, or a still image `[1, B, H, W, C]` with T, to
    `[T, B, ceil(H / stride), ceil(W / stride), D]`.
    """

    def __init__(self, stage: Stage, in_channels: int, shortcut: str, *, first: bool, compact: bool) -> None:
        super().__init__(stage, shortcut, first=first)
        width, stride = stage.embed_dim, stage.embedding.stride
        second = min(stride, 2)
        self.add("orig1", in_channels, width // 2, stride=2 if stride == 4 else 1, start=True)
        self.add("orig2", width // 2, width, stride=second, start=False)
        self.compact = compact
        if not compact:
            self.add("orig3", width, width, start=False)
        self.add_residual("orig_residual", width // 2, width, stride=second)

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream before the first block."""
        half = self.spikes("orig2", self.convolve("orig1", self.spikes("orig1", x), time_steps))
        y = self.convolve("orig2", half)
        if not self.compact:
            y = self.convolve("orig3", self.spikes("orig3", y))
        return self.convolve("orig_residual", half, stream=y)


class EmbedMax(_Embedding):
    """`embed_max`: see the table of this module. Arguments and shape are those of `EmbedOrig`, without `compact`."""

    def __init__(self, stage: Stage, in_channels: int, shortcut: str, *, first: bool) -> None:
        super().__init__(stage, shortcut, first=first)
        width, pool = stage.embed_dim, stage.embedding.stride == 2
        self.add("max1", in_channels, width, pool=pool, start=True)
        self.add("max2", width, width, start=False)
        self.add("max_residual", in_channels, width, pool=pool, size=1, start=True)
        if self.membrane:
            self.max_residual_lif = nn.Identity()

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream before the first block.

        Args:
            x: `[T, B, H, W, in_channels]`.
            time_steps: T of the result, if `x` is `[1, B, H, W, in_channels]`. Default: that of `x`.

        Returns:
            `[T, B, ceil(H / stride), ceil(W / stride), D]`.
        """
        read = self.spikes("max1", x)
        y = self.convolve("max2", self.spikes("max2", self.convolve("max1", read, time_steps)))
        return self.convolve("max_residual", read, time_steps, stream=y)


class EmbedMaxPlus(_Embedding):
    """`embed_max_plus`: see the table of this module. Arguments and shape are those of `EmbedOrig`, without `compact`."""

    def __init__(self, stage: Stage, in_channels: int, shortcut: str, *, first: bool) -> None:
        super().__init__(stage, shortcut, first=first)
        width, pools = stage.embed_dim, stage.embedding.stride.bit_length() - 1  # of the last convolutions
        widths = (in_channels, width // 8, width // 4, width // 2, width)
        for i in range(4):
            self.add(f"plus{i + 1}", widths[i], widths[i + 1], pool=i >= 4 - pools, start=i == 0)
        self.add_residual("plus_residual", width // 4, width, stride=2 ** min(pools, 2))

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream before the first block.

        Args:
            x: `[T, B, H, W, in_channels]`.
            time_steps: T of the result, if `x` is `[1, B, H, W, in_channels]`. Default: that of `x`.

        Returns:
            `[T, B, ceil(H / stride), ceil(W / stride), D]`.
        """
        y = self.convolve("plus1", self.spikes("plus1", x), time_steps)
        y = quarter = self.spikes("plus3", self.convolve("plus2", self.spikes("plus2", y)))
        y = self.convolve("plus4", self.spikes("plus4", self.convolve("plus3", y)))
        return self.convolve("plus_residual", quarter, stream=y)


def _orig(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
    stage, compact = architecture.stages[index], architecture.compact_embedding
    return EmbedOrig(stage, in_channels, architecture.shortcut, first=index == 0, compact=compact)


def _max(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
    return EmbedMax(architecture.stages[index], in_channels, architecture.shortcut, first=index == 0)


def _max_plus(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
    return EmbedMaxPlus(architecture.stages[index], in_channels, architecture.shortcut, first=index == 0)


# Called as `SpikingModel.embedding`, by kind.
EMBEDDING_KINDS: dict[str, Callable[[Architecture, int, int], nn.Module]] = {
    "embed_orig": _orig,
    "embed_max": _max,
    "embed_max_plus": _max_plus,
}
