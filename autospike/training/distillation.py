"""A teacher for the second head: hard distillation (DeiT; Meta-SpikeFormer's published recipe, with a CAFormer)."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from autospike.config import TeacherConfig
from autospike.data.preparation import MEAN, STD
from autospike.errors import UserError
from autospike.models.checkpoint_import import read_checkpoint


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained classifier, asked for the most likely class.

    `mean` and `std`: how it wants pixels normalised, `[C, 1, 1]`.
    """

    model: nn.Module
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]`, normalised as ours are, to labels `[B]`."""
        pixels = images * STD + MEAN
        labels: Tensor = self.model((pixels - self.mean) / self.std).argmax(dim=1)
        return labels


def load_teacher(config: TeacherConfig, *, num_classes: int, image_size: int, device: torch.device) -> Teacher:
    """Open a teacher.

    Raises:
        UserError: timm has no such model, its weights cannot be had, or it does not take such images or knows other classes.
    """
    try:
        if config.weights is None:
            model = timm.create_model(config.model, pretrained=True)  # with as many classes as it knows
        else:
            model = timm.create_model(config.model, num_classes=num_classes)
            model.load_state_dict(read_checkpoint(config.weights))
        model = model.to(device).eval()
        with torch.no_grad():
            answers = model(torch.zeros(1, 3, image_size, image_size, device=device)).shape[1]
    except UserError:
        raise
    except Exception as error:  # timm, its hub client and torch each raise their own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"training.teacher: {config.model} cannot be used for images of {image_size} pixels ({reason[:200]}); "
            "give a checkpoint that fits it as weights, or another model"
        ) from None
    if answers != num_classes:
        raise UserError(f"training.teacher: {config.model} knows {answers} classes, the data have {num_classes}")
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[name], device=device)[:, None, None] for name in ("mean", "std"))
    return Teacher(model=model, mean=mean, std=std)
