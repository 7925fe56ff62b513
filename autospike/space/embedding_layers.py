"""Convolutions of the embedding of each family, with their sizes, for costs that are computed without building a network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of an embedding. Heights and widths are equal.

    Attributes:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel.
        in_size: Height and width of the input.
        out_size: Height and width of the output, before a max-pool.
        held: Values of other tensors that a later layer needs, for one image and time step.
    """

    in_channels: int
    out_channels: int
    kernel_size: int = 3
    in_size: int
    out_size: int
    held: int = 0


class EmbeddingLayers(Protocol):
    """Function that returns the convolutions of an embedding, and the size of its output."""

    def __call__(
        self, in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
    ) -> tuple[list[Convolution], int]:
        """Return the convolutions in the order of computation, and height and width of the output.

        Args:
            in_channels: Width of the stage before, or channels of an image.
            width: Width of the stage.
            size: Height and width of the input.
            stride: Stride of the embedding.
            first: Whether the stage is the first one.
            compact: The setting `compact_embedding`.
            membrane: Whether the shortcuts are membrane shortcuts.
        """


def _halved(size: int) -> int:
    return -(-size // 2)


def one_convolution_layer(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return a single 3x3 convolution with a stride; see `EmbeddingLayers`."""
    del first, compact, membrane
    out = -(-size // stride)
    return [Convolution(in_channels=in_channels, out_channels=width, in_size=size, out_size=out)], out


def patch_splitting(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolutions of `SpikingPatchSplitting`; see `EmbeddingLayers`."""
    del first, compact
    pools, layers = stride.bit_length() - 1, []
    for i, (before, after) in enumerate(pairwise((in_channels, width // 8, width // 4, width // 2, width))):
        layers.append(Convolution(in_channels=before, out_channels=after, in_size=size, out_size=size))
        size = _halved(size) if i >= 4 - pools else size
    held = size * size * width if membrane else 0  # with other shortcuts the stream itself is the input
    return [*layers, Convolution(in_channels=width, out_channels=width, in_size=size, out_size=size, held=held)], size


def downsampling(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolution of `Downsampling`; see `EmbeddingLayers`."""
    del compact, membrane
    out = -(-size // stride)
    kernel_size = 7 if first else 3
    return [Convolution(in_channels=in_channels, out_channels=width, kernel_size=kernel_size, in_size=size, out_size=out)], out


def patch_embedding(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolutions of `FirstPatchEmbedding` and `PatchEmbedding`; see `EmbeddingLayers`."""
    del membrane
    layers = []
    if first:
        layers.append(Convolution(in_channels=in_channels, out_channels=width // 2, in_size=size, out_size=size))
        size, in_channels = _halved(size) if stride == 4 else size, width // 2
        strides = (min(stride, 2),) if compact else (min(stride, 2), 1)
    else:
        strides = (1, stride) if compact else (stride, 1)
    entered, channels, inside = size, in_channels, size * size * in_channels
    for i, step in enumerate(strides):
        held = inside if i else 0  # the parallel convolution reads the input of the first one
        layers.append(Convolution(in_channels=channels, out_channels=width, in_size=size, out_size=size, held=held))
        size, channels = _halved(size) if step == 2 else size, width
    parallel = Convolution(
        in_channels=in_channels, out_channels=width, kernel_size=1, in_size=entered, out_size=size, held=size * size * width
    )
    return [*layers, parallel], size


def embed_orig(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolutions of `EmbedOrig`; see `EmbeddingLayers`."""
    del first, membrane
    half, inside = width // 2, -(-size // (2 if stride == 4 else 1))
    out = -(-inside // min(stride, 2))
    layers = [
        Convolution(in_channels=in_channels, out_channels=half, in_size=size, out_size=inside),
        Convolution(in_channels=half, out_channels=width, in_size=inside, out_size=out),
    ]
    if not compact:
        held = inside * inside * half  # the parallel convolution reads the input of the second one
        layers.append(Convolution(in_channels=width, out_channels=width, in_size=out, out_size=out, held=held))
    return [*layers, _parallel(half, width, in_size=inside, out_size=out, stream_size=out)], out


def embed_max(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolutions of `EmbedMax`; see `EmbeddingLayers`."""
    del first, compact, membrane
    out = _halved(size) if stride == 2 else size
    layers = [
        Convolution(in_channels=in_channels, out_channels=width, in_size=size, out_size=size),
        Convolution(in_channels=width, out_channels=width, in_size=out, out_size=out, held=size * size * in_channels),
    ]
    return [*layers, _parallel(in_channels, width, in_size=size, out_size=size, stream_size=out)], out


def embed_max_plus(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolutions of `EmbedMaxPlus`; see `EmbeddingLayers`."""
    del first, compact, membrane
    pools, sizes, layers = stride.bit_length() - 1, [size], []
    for i, (before, after) in enumerate(pairwise((in_channels, width // 8, width // 4, width // 2, width))):
        held = sizes[2] ** 2 * (width // 4) if i == 3 else 0  # the parallel convolution reads the input of the third one
        layers.append(Convolution(in_channels=before, out_channels=after, in_size=sizes[i], out_size=sizes[i], held=held))
        sizes.append(_halved(sizes[i]) if i >= 4 - pools else sizes[i])
    return [*layers, _parallel(width // 4, width, in_size=sizes[2], out_size=sizes[4], stream_size=sizes[4])], sizes[4]


def _parallel(in_channels: int, width: int, *, in_size: int, out_size: int, stream_size: int) -> Convolution:
    """A convolution of size 1 whose result is added to a stream of height and width `stream_size`."""
    held = stream_size * stream_size * width
    return Convolution(in_channels=in_channels, out_channels=width, kernel_size=1, in_size=in_size, out_size=out_size, held=held)


def max_former_embedding(
    in_channels: int, width: int, *, size: int, stride: int, first: bool, compact: bool, membrane: bool
) -> tuple[list[Convolution], int]:
    """Return the convolutions of an `EmbedOrig` in the first stage, otherwise of an `EmbedMax`; see `EmbeddingLayers`."""
    embedding = embed_orig if first else embed_max
    return embedding(in_channels, width, size=size, stride=stride, first=first, compact=compact, membrane=membrane)
