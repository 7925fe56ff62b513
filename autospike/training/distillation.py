"""Teacher of the distillation head: hard distillation (DeiT, ICML 2021), as in the recipe of Meta-SpikeFormer (with a CAFormer)."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from autospike.config import TeacherConfig
from autospike.data.preparation import DEFAULT_PREPARATION, ImagePreparation
from autospike.errors import UserError
from autospike.models.checkpoint_import import read_checkpoint


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained classifier that labels images.

    Attributes:
        model: Maps `[B, 3, H, W]` to logits `[B, num_classes]`.
        mean: Mean of the pixels that the model expects, `[3, 1, 1]`.
        std: Standard deviation of the pixels that the model expects, `[3, 1, 1]`.
        preparation: How the images that it is called with were normalised.
    """

    model: nn.Module
    mean: Tensor
    std: Tensor
    preparation: ImagePreparation = DEFAULT_PREPARATION

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the most likely labels.

        Args:
            images: `[B, 3, H, W]`, normalised by `preparation`.

        Returns:
            Labels `[B]`.
        """
        pixels = self.preparation.restore(images)
        labels: Tensor = self.model((pixels - self.mean) / self.std).argmax(dim=1)
        return labels


def load_teacher(
    config: TeacherConfig,
    *,
    num_classes: int,
    image_size: int,
    device: torch.device,
    preparation: ImagePreparation = DEFAULT_PREPARATION,
) -> Teacher:
    """Load a teacher.

    Args:
        config: Name of a timm model, and a checkpoint unless timm's own weights are used.
        num_classes: Number of classes of the data.
        image_size: Height and width of the images.
        device: Where the teacher runs.
        preparation: How the images of the training are normalised.

    Returns:
        The teacher, in eval mode.

    Raises:
        UserError: timm has no such model, its weights cannot be loaded, or it does not fit the images or the classes.
    """
    try:
        if config.weights is None:
            model = timm.create_model(config.model, pretrained=True)  # with the number of classes of its weights
        else:
            model = timm.create_model(config.model, num_classes=num_classes)
            model.load_state_dict(read_checkpoint(config.weights))
        model = model.to(device).eval()
        with torch.no_grad():
            outputs = model(torch.zeros(1, 3, image_size, image_size, device=device)).shape[1]
    except UserError:
        raise
    except Exception as error:  # timm, its hub client and torch each raise their own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"training.teacher: {config.model} cannot be used for images of {image_size} pixels ({reason[:200]}); "
            "give a checkpoint that fits it as weights, or another model"
        ) from None
    if outputs != num_classes:
        raise UserError(f"training.teacher: {config.model} has {outputs} classes, the data have {num_classes}")
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[name], device=device)[:, None, None] for name in ("mean", "std"))
    return Teacher(model=model, mean=mean, std=std, preparation=preparation)
