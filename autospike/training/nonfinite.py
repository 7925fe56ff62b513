"""What is kept of a step whose loss is not finite, for a person to look into.

nonfinite/step.json           {"step", "subnet", "loss"}
nonfinite/architecture.json   the first subnet whose loss it was
nonfinite/batch.safetensors   "images" and "targets" of the step, of all ranks one after another; "taught" to a second head
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from autospike.architecture import Architecture
from autospike.errors import UserError
from autospike.files import write_json
from autospike.tensors import write_tensors
from autospike.training.distributed import Ranks
from autospike.training.step import Lesson


def check_finite(
    losses: Tensor, lesson: Lesson, architectures: Sequence[Architecture], *, step: int, folder: Path, ranks: Ranks
) -> None:
    """Hold up a step, on every rank alike, before it moves the weights.

    Args:
        losses: `[subnets, parts]`, over all ranks.

    Raises:
        UserError: one is infinite or no number; what it came from is in `folder`.
    """
    finite = losses.isfinite()
    if finite.all():
        return
    which, part = (~finite).nonzero()[0].tolist()
    architecture, loss = architectures[which], losses[which, part].item()
    batch = _whole(lesson, ranks)

    def keep() -> None:
        write_json(folder / "step.json", {"step": step, "subnet": architecture.id, "loss": str(loss)})
        write_json(folder / "architecture.json", architecture.to_dict())
        write_tensors(folder / "batch.safetensors", batch)

    ranks.first_alone(keep)
    raise UserError(
        f"training: the loss is {loss} at step {step}, subnet {architecture.id} (both and the batch are kept in {folder}); "
        "lower training.learning_rate"
    )


def _whole(lesson: Lesson, ranks: Ranks) -> dict[str, Tensor]:
    images = ranks.together(lesson.images, dim=lesson.images.dim() - 4)  # frames have time before the batch
    return {
        "images": images,
        "targets": ranks.together(lesson.targets, dim=0),
        "taught": ranks.together(lesson.taught, dim=0).clone(),  # it may be the targets, and no file holds one memory twice
    }
