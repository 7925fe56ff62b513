"""What is kept of a step whose loss or gradient is not finite, for a person to look into.

nonfinite/step.json           {"step", "subnet", "loss", "gradient"}; the gradient's norm is that of all subnets of the step
nonfinite/architecture.json   the first subnet whose loss it was; if all are finite, the step's first
nonfinite/batch.safetensors   "images" and "targets" of the step, of all ranks one after another; "taught" to a second head
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from autospike.errors import UserError
from autospike.files import write_json
from autospike.space.architecture import Architecture
from autospike.tensors import write_tensors
from autospike.training.distributed import Ranks
from autospike.training.step import LabelledBatch


def check_finite(
    losses: Tensor,
    gradient: Tensor,
    lesson: LabelledBatch,
    architectures: Sequence[Architecture],
    *,
    step: int,
    folder: Path,
    ranks: Ranks,
) -> None:
    """Hold up a step, on every rank alike, before it moves the weights. A weight that is no number would fire no spikes, and leave
    the losses to come finite.

    Args:
        losses: `[subnets, parts]`, over all ranks.
        gradient: its norm, over all ranks.

    Raises:
        UserError: one is infinite or no number; what it came from is in `folder`.
    """
    if losses.isfinite().all() and gradient.isfinite():
        return
    which, part = [*(~losses.isfinite()).nonzero().tolist(), [0, 0]][0]
    architecture, loss = architectures[which], losses[which, part].item()
    batch = _whole(lesson, ranks)

    def keep() -> None:
        write_json(
            folder / "step.json", {"step": step, "subnet": architecture.id, "loss": str(loss), "gradient": str(gradient.item())}
        )
        write_json(folder / "architecture.json", architecture.to_dict())
        write_tensors(folder / "batch.safetensors", batch)

    ranks.first_alone(keep)
    raise UserError(
        f"training: the loss is {loss}, the gradient's norm {gradient.item():g} at step {step}, subnet {architecture.id} "
        f"(kept with the batch in {folder}); "
        "lower training.learning_rate"
    )


def _whole(lesson: LabelledBatch, ranks: Ranks) -> dict[str, Tensor]:
    images = ranks.together(lesson.images, dim=lesson.images.dim() - 4)  # frames have time before the batch
    return {
        "images": images,
        "targets": ranks.together(lesson.targets, dim=0),
        "taught": ranks.together(lesson.taught, dim=0).clone(),  # it may be the targets, and no file holds one memory twice
    }
