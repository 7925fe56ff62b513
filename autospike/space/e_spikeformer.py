"""The published forms of E-SpikeFormer (Spike-driven Transformer V3; Yao et al., TPAMI 2025), as architectures.

Sources are the authors' code: `Classification/Model_Base` (base forms), `Classification/Model_Large` (83 and 172 million
parameters) and `DVS/Hardvs` (event forms).
"""

from __future__ import annotations

from dataclasses import replace

from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride

PUBLISHED_LEVELS = 4
# The gesture form divides integers by 8, whatever their largest value is.
GESTURE_DIVISOR = 8
EVENT_TIME_STEPS = 8


def e_spikeformer(
    embed_dims: tuple[int, int, int, int], depths: tuple[int, int] = (6, 2), *, levels: int = PUBLISHED_LEVELS
) -> Architecture:
    """Return a base form: T = 1, normalised integer neurons, convolutional and transformer stages.

    A published transformer block is two blocks: a separable convolution, then the attention with the MLP.

    Args:
        embed_dims: Widths of the last four stages. The first stage has half the width of the second.
        depths: Number of published blocks of the two transformer stages.
        levels: Largest value that a neuron emits.

    Returns:
        The architecture.
    """
    return _with_sepconv(embed_dims, depths, Neuron(levels=levels, normalised=True), time_steps=1)


def e_spikeformer_hardvs(
    embed_dims: tuple[int, int, int, int],
    depths: tuple[int, int] = (6, 2),
    *,
    levels: int = PUBLISHED_LEVELS,
    integrates: bool = False,
) -> Architecture:
    """Return the form for HAR-DVS: 8 frames, integers that are not normalised, layer scales.

    The published code calls its neurons once for all frames, as one step, so that every frame is computed alone. With `integrates`
    the potentials last over the frames without a leak, `h = v + x`, `s = round(clip(h, 0, levels))`, `v = h - s`.

    Args:
        embed_dims: Widths of the last four stages. The first stage has half the width of the second.
        depths: Number of published blocks of the two transformer stages.
        levels: Largest value that a neuron emits.
        integrates: Whether neurons integrate over the frames.

    Returns:
        The architecture.
    """
    neuron = _event_neuron(levels, normalised=False, integrates=integrates)
    return _with_sepconv(embed_dims, depths, neuron, time_steps=EVENT_TIME_STEPS, layer_scale=True)


def e_spikeformer_gesture(
    embed_dims: tuple[int, int, int, int], depth: int = 1, *, levels: int = PUBLISHED_LEVELS, integrates: bool = False
) -> Architecture:
    """Return the form for DVS128 Gesture: one transformer block, and a last stage that is an embedding alone.

    The published code divides integers by 8. They are divided by their largest value here. The same follows with weights times
    `levels / 8` behind normalised neurons, and another threshold where three integers are multiplied, in the attention.

    Args:
        embed_dims: Widths of the last four stages. The first stage has half the width of the second.
        depth: Number of published transformer blocks.
        levels: Largest value that a neuron emits.
        integrates: Whether neurons integrate over the frames, as in `e_spikeformer_hardvs`.

    Returns:
        The architecture.
    """
    neuron = _event_neuron(levels, normalised=True, integrates=integrates)
    threshold = GESTURE_DIVISOR**3 / (2 * levels**3)
    attention = NeuronOverride(v_threshold=threshold) if threshold != 0.5 else NeuronOverride()
    return _with_sepconv(
        embed_dims,
        (depth, 0),
        neuron,
        time_steps=EVENT_TIME_STEPS,
        layer_scale=True,
        groups=NeuronGroups(attention=attention),
    )


def e_spikeformer_large(
    embed_dims: tuple[int, int, int], depth: int = 12, *, replinear: bool, levels: int = PUBLISHED_LEVELS, distilled: bool = False
) -> Architecture:
    """Return a large form: convolutional blocks without separable convolutions, and one transformer stage with layer scales.

    Args:
        embed_dims: Widths of the last three stages. The first stage has half the width of the second.
        depth: Number of published transformer blocks.
        replinear: Whether a published transformer block starts with another RepLinear, which is a block of its own here.
        levels: Largest value that a neuron emits.
        distilled: Whether there is a second head for distillation.

    Returns:
        The architecture.
    """
    neuron = Neuron(levels=levels, normalised=True)
    convolutional = Block(token_mixer="none", channel_mixer="conv", neuron=neuron)
    # The published neurons round halves up, ours to even. Inputs of those in the attention are multiples of 1 / (8 levels^3), where
    # this threshold has the effect of 1 with halves rounded up: (levels - 0.5) / (8 levels^4) is less than one multiple.
    half_up = NeuronOverride(v_threshold=1 - 1 / (8 * levels**4))
    attention = Block(
        qkv="replinear", projection="replinear", layer_scale=True, neuron=neuron, groups=NeuronGroups(attention=half_up)
    )
    linear = (Block(token_mixer="none", channel_mixer="replinear", neuron=neuron),) if replinear else ()
    blocks = ((convolutional,), (convolutional,), (convolutional,) * 2, (*linear, attention) * depth)
    return Architecture(
        family="e_spikeformer",
        shortcut="membrane",
        time_steps=1,
        distilled=distilled,
        conv_bias=True,
        mean_head=True,
        stages=_stages((embed_dims[0] // 2, *embed_dims), (2, 2, 2, 2), blocks, neuron),
    )


def _event_neuron(levels: int, *, normalised: bool, integrates: bool) -> Neuron:
    """The neuron of an event form: without memory, or without a leak."""
    return Neuron(levels=levels, normalised=normalised, integrates=integrates, leak=not integrates)


def _with_sepconv(
    embed_dims: tuple[int, int, int, int],
    depths: tuple[int, int],
    neuron: Neuron,
    *,
    time_steps: int,
    layer_scale: bool = False,
    groups: NeuronGroups = NeuronGroups(),  # noqa: B008 - an immutable value
) -> Architecture:
    """A form with separable convolutions, whose last embedding keeps the resolution."""
    convolutional = Block(token_mixer="spiking_sepconv_7", channel_mixer="conv", neuron=neuron)
    separable = Block(token_mixer="spiking_sepconv_3", channel_mixer="none", layer_scale=layer_scale, neuron=neuron)
    attention = Block(token_mixer="e_sdsa", layer_scale=layer_scale, neuron=neuron, groups=groups)
    transformer = (separable, attention)
    blocks = ((convolutional,), (convolutional,), (convolutional,) * 2, transformer * depths[0], transformer * depths[1])
    stages = _stages((embed_dims[0] // 2, *embed_dims), (2, 2, 2, 2, 1), blocks, neuron)
    return Architecture(family="e_spikeformer", shortcut="membrane", time_steps=time_steps, stages=stages)


def _stages(
    widths: tuple[int, ...], strides: tuple[int, ...], blocks: tuple[tuple[Block, ...], ...], neuron: Neuron
) -> tuple[Stage, ...]:
    """Stages whose embeddings have the neurons of the blocks, except the first, which has none."""
    first, *later = (
        Stage(embed_dim=width, embedding=Embedding(stride=stride, neuron=neuron), blocks=inside)
        for width, stride, inside in zip(widths, strides, blocks, strict=True)
    )
    return (replace(first, embedding=Embedding(stride=strides[0])), *later)
