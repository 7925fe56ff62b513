"""Number of parameters and size of the activations of an architecture, by arithmetic: nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, product
from operator import mul
from typing import TYPE_CHECKING

from autospike.errors import UserError
from autospike.space.decoder import decoder_parameters
from autospike.space.families import batch_norm_parameters, conv_norm_parameters, embedding_parameters
from autospike.space.limits import MAX_ACTIVATION
from autospike.space.mixers import (
    CHANNEL_REPLINEAR_EXPANSION,
    DEPTHWISE,
    E_SDSA_EXPANSION,
    OPERANDS,
    REPLINEAR_EXPANSION,
    SEPCONV_EXPANSION,
    SEPCONV_KERNEL_SIZE,
    SPIKING_SEPCONVS,
)

if TYPE_CHECKING:
    from autospike.space.architecture import Architecture
    from autospike.space.subspaces import BlockSpace, StageSpace
    from autospike.space.visitor import Genes

IMAGE_CHANNELS = 3  # assumed where the data are not known yet


def count_parameters(architecture: Architecture, *, in_chans: int = IMAGE_CHANNELS, num_classes: int = 0) -> int:
    """Return the number of parameters of the network that `autospike.models.build_model` builds.

    Args:
        architecture: The architecture.
        in_chans: Channels of an image.
        num_classes: Number of classes; 0 without a head.

    Returns:
        The exact number.
    """
    total, width = _head_parameters(architecture, num_classes), in_chans
    for i, stage in enumerate(architecture.stages):
        embedding = embedding_parameters(architecture.family, stage.embedding.kind)
        total += embedding(width, stage.embed_dim, first=i == 0, compact=architecture.compact_embedding)
        width = stage.embed_dim
        for block in stage.blocks:
            projections = (block.qkv or "linear", block.projection or "linear")
            total += token_parameters(width, block.token_mixer, projections, qkv_bias=architecture.qkv_bias)
            hidden = stage.hidden_features(block)
            total += channel_parameters(width, hidden, block.channel_mixer, conv_bias=architecture.conv_bias)
            total += layer_scale_parameters(width, block.token_mixer, block.channel_mixer) if block.layer_scale else 0
    return total


def _head_parameters(architecture: Architecture, num_classes: int) -> int:
    decoder = architecture.decoder
    if decoder is None:
        return (2 if architecture.distilled else 1) * num_classes * (architecture.stages[-1].embed_dim + 1)
    return decoder_parameters(
        decoder.kind,
        decoder.channels,
        decoder.head_channels,
        widths=[architecture.stages[level].embed_dim for level in decoder.levels],
        strides=[architecture.strides[level] for level in decoder.levels],
        num_classes=num_classes,
    )


def largest_parameters(space: Genes, *, compact: bool, qkv_bias: bool, conv_bias: bool) -> int:
    """Return the number of parameters of the subnet that has most of them, without a head, for images of 3 channels.

    Args:
        space: The genes.
        compact: The setting `compact_embedding` of the space.
        qkv_bias: The setting `qkv_bias` of the space.
        conv_bias: The setting `conv_bias` of the space.

    Returns:
        The exact number.
    """
    total, width = _largest_decoder(space), IMAGE_CHANNELS
    for i, stage in enumerate(space.stages):
        embed_dim = max(stage.embed_dim.values)
        total += max(
            embedding_parameters(space.family, kind)(width, embed_dim, first=i == 0, compact=compact)
            for kind in stage.embedding.kind.values
        )
        width = embed_dim
        total += sum(
            count * _largest_block(block, width, qkv_bias=qkv_bias, conv_bias=conv_bias) for block, count in _blocks(stage)
        )
    return total


def _largest_decoder(space: Genes) -> int:
    """Parameters of the widest decoder, without its last layer; the coarsest levels have most convolutions."""
    decoder = space.decoder
    if decoder is None:
        return 0
    strides = list(accumulate((max(stage.embedding.stride.values) for stage in space.stages), mul))
    return decoder_parameters(
        decoder.kind,
        max(decoder.channels.values),
        max(decoder.head_channels.values),
        widths=[max(space.stages[level].embed_dim.values) for level in decoder.levels],
        strides=[1, *(strides[level] for level in decoder.levels[1:])],
        num_classes=0,
    )


def _blocks(stage: StageSpace) -> Iterable[tuple[BlockSpace, int]]:
    """Return the spaces of the blocks of a stage of the largest depth, with the number of blocks that each describes."""
    return [(block, 1) for block in stage.blocks] or [(stage.block, max(stage.depth.values))]


def _largest_block(block: BlockSpace, width: int, *, qkv_bias: bool, conv_bias: bool) -> int:
    projections = [[value or "linear" for value in gene.values] for gene in (block.qkv, block.projection)]
    tokens = (
        token_parameters(width, mixer, (qkv, projection), qkv_bias=qkv_bias)
        for mixer, qkv, projection in product(block.token_mixer.values, *projections)
    )
    hidden = round(width * max(ratio or 1 for ratio in block.mlp_ratio.values))
    channels = (channel_parameters(width, hidden, mixer, conv_bias=conv_bias) for mixer in block.channel_mixer.values)
    scales = (layer_scale_parameters(width, *pair) for pair in block.mixers())
    return max(tokens) + max(channels) + (max(scales) if block.layer_scale else 0)


def token_parameters(width: int, token_mixer: str, projections: tuple[str, str], *, qkv_bias: bool) -> int:
    """Return the number of parameters of a token mixer.

    Args:
        width: Width of the stage, D.
        token_mixer: The token mixer.
        projections: Layers of queries, keys and values, and of the output: "linear", "repconv" or "replinear".
        qkv_bias: Whether linear layers of queries, keys and values have a bias.
    """
    if token_mixer == "none":
        return 0
    if token_mixer in DEPTHWISE:
        return width * DEPTHWISE[token_mixer] ** 2 + width + batch_norm_parameters(width)
    if token_mixer not in OPERANDS:
        hidden = SEPCONV_EXPANSION * width
        size = SPIKING_SEPCONVS.get(token_mixer, SEPCONV_KERNEL_SIZE)
        depthwise = hidden * size**2 + (batch_norm_parameters(hidden) if token_mixer in SPIKING_SEPCONVS else 0)
        expansion = conv_norm_parameters(width, hidden, kernel_size=1)
        return expansion + depthwise + conv_norm_parameters(hidden, width, kernel_size=1)
    if token_mixer == "e_sdsa":
        values = E_SDSA_EXPANSION * width
        sizes = ((width, width), (width, width), (width, values), (values, width))
        return sum(conv_norm_parameters(i, o, kernel_size=1) for i, o in sizes)
    qkv, projection = projections
    operands = len(OPERANDS[token_mixer]) * _projection_parameters(width, qkv, bias=qkv_bias)
    learnable_threshold = 1 if token_mixer == "sdsa_4" else 0
    return operands + learnable_threshold + _projection_parameters(width, projection, bias=True)


def _projection_parameters(width: int, kind: str, *, bias: bool) -> int:
    if kind == "repconv":  # two linear layers, a depthwise 3x3 convolution, three normalisations
        return 2 * width * width + 9 * width + 3 * batch_norm_parameters(width)
    if kind == "replinear":
        return _replinear_parameters(width, REPLINEAR_EXPANSION) + batch_norm_parameters(width)
    return conv_norm_parameters(width, width, kernel_size=1, bias=bias)


def _replinear_parameters(width: int, expansion: float) -> int:
    """Parameters of two linear layers with a normalisation each."""
    hidden = int(expansion * width)
    return conv_norm_parameters(width, hidden, kernel_size=1) + conv_norm_parameters(hidden, width, kernel_size=1)


def layer_scale_parameters(width: int, token_mixer: str, channel_mixer: str) -> int:
    """Return the number of factors of a block with a layer scale: one for each channel of each residual branch.

    Args:
        width: Width of the stage, D.
        token_mixer: The token mixer.
        channel_mixer: The channel mixer.
    """
    channel = {"none": 0, "mlp_residual": 2}.get(channel_mixer, 1)
    return width * ((token_mixer != "none") + channel)


def channel_parameters(width: int, hidden: int, channel_mixer: str, *, conv_bias: bool) -> int:
    """Return the number of parameters of a channel mixer.

    Args:
        width: Width of the stage, D.
        hidden: Width inside the mixer.
        channel_mixer: The channel mixer.
        conv_bias: Whether the convolutions of `conv` have biases.
    """
    if channel_mixer == "none":
        return 0
    if channel_mixer == "replinear":
        return _replinear_parameters(width, CHANNEL_REPLINEAR_EXPANSION)
    hidden = width if channel_mixer == "mlp_residual" else hidden
    kernel_size, bias = (3, conv_bias) if channel_mixer == "conv" else (1, True)
    sizes = ((width, hidden), (hidden, width))
    return sum(conv_norm_parameters(i, o, kernel_size=kernel_size, bias=bias) for i, o in sizes)


def largest_activation(architecture: Architecture, *, image_size: int, images: int) -> int:
    """Return the number of values of the largest residual stream of a forward pass.

    Args:
        architecture: The architecture.
        image_size: Height and width of the image in pixels.
        images: Number of images in the pass.

    Returns:
        The largest T * images * H * W * D of all stages.
    """
    size, largest = image_size, 0
    for stage in architecture.stages:
        size = -(-size // stage.embedding.stride)
        largest = max(largest, size * size * stage.embed_dim)
    return architecture.time_steps * images * largest


def check_activation(architecture: Architecture, *, image_size: int, images: int, source: str) -> None:
    """Check the size of the activations of a forward pass.

    Args:
        architecture: The architecture.
        image_size: Height and width of the image in pixels.
        images: Number of images in the pass.
        source: What determines the sizes, for the error message.

    Raises:
        UserError: The residual stream has more than `MAX_ACTIVATION` values.
    """
    values = largest_activation(architecture, image_size=image_size, images=images)
    if values > MAX_ACTIVATION:
        raise UserError(
            f"{source}: {images} x {architecture.time_steps} frames of {image_size} x {image_size} pixels give activations of "
            f"{values:,} values, and at most {MAX_ACTIVATION:,} are allowed; reduce images, time_steps, image_size or embed_dim"
        )
