"""Size of the input and output of a network, on which its cost depends besides the architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """Input and output size of a model.

    Attributes:
        image_size: Height and width in pixels.
        channels: Number of channels.
        classes: Number of classes.
    """

    image_size: int
    channels: int
    classes: int
