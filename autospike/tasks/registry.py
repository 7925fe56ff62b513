"""The task of a network."""

from __future__ import annotations

from autospike.space.decoder import Decoder
from autospike.space.subspaces import DecoderSpace
from autospike.tasks.classification import CLASSIFICATION
from autospike.tasks.contract import Task
from autospike.tasks.detection import DETECTION
from autospike.tasks.segmentation import SEGMENTATION

# By the kind of the decoder.
TASKS: dict[str, Task] = {"semantic-fpn": SEGMENTATION, "mask-rcnn": DETECTION}


def task_of(decoder: Decoder | DecoderSpace | None) -> Task:
    """Return the task of networks with a decoder; classification for those without.

    Args:
        decoder: Decoder of an architecture or of a search space, or None.
    """
    return CLASSIFICATION if decoder is None else TASKS[decoder.kind]
