"""Stop a training whose loss or gradient is not finite, and write the step to files for inspection.

nonfinite/step.json           {"step", "subnet", "loss", "gradient"}; the gradient norm is over all subnets of the step
nonfinite/architecture.json   the first subnet with a loss that is not finite; the first one of the step if all losses are finite
nonfinite/batch.safetensors   "images" and "targets" of the step, of all ranks; "taught": targets of a distillation head; of
                              detectors the images only
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
    gradient_norm: Tensor,
    batch: LabelledBatch,
    architectures: Sequence[Architecture],
    *,
    step: int,
    folder: Path,
    ranks: Ranks,
) -> None:
    """Stop before the update of the parameters if the loss or the gradient is not finite, on all ranks alike.

    A parameter that is NaN makes no neuron fire, so later losses would be finite again.

    Args:
        losses: Mean over the ranks, `[len(architectures), parts]`.
        gradient_norm: Of the averaged gradients, a scalar.
        batch: The batch of this rank.
        architectures: The subnets of the step.
        step: Number of steps finished before.
        folder: Where to write the step.
        ranks: All ranks.

    Raises:
        UserError: A loss or the gradient norm is infinite or NaN; the step is in `folder`.
    """
    if losses.isfinite().all() and gradient_norm.isfinite():
        return
    which, part = [*(~losses.isfinite()).nonzero().tolist(), [0, 0]][0]
    architecture, loss, norm = architectures[which], losses[which, part].item(), gradient_norm.item()
    tensors = _gather(batch, ranks)

    def write() -> None:
        write_json(folder / "step.json", {"step": step, "subnet": architecture.id, "loss": str(loss), "gradient": str(norm)})
        write_json(folder / "architecture.json", architecture.to_dict())
        write_tensors(folder / "batch.safetensors", tensors)

    ranks.first_alone(write)
    raise UserError(
        f"training: the loss is {loss} and the gradient norm {norm:g} at step {step}, subnet {architecture.id} "
        f"(the batch is in {folder}); lower training.learning_rate"
    )


def _gather(batch: LabelledBatch, ranks: Ranks) -> dict[str, Tensor]:
    images = ranks.gather(batch.images, dim=batch.images.dim() - 4)  # event frames have the time dimension before the batch
    if not isinstance(batch.targets, Tensor):
        return {"images": images}
    return {
        "images": images,
        "targets": ranks.gather(batch.targets, dim=0),
        # a copy, because safetensors rejects tensors that share memory, as equal targets of both heads do
        "taught": ranks.gather(batch.teacher_targets, dim=0).clone(),
    }
