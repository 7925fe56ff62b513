"""Arithmetic on boxes of Mask R-CNN, by torchvision: anchors, proposals, features of regions, detections and losses.

A box is `[x0, y0, x1, y1]` in pixels of the image that the network reads. Nothing here has parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import roi_align

from autospike.nn.regions import Uncounted

# Aspect ratios of anchors, height / width.
RATIOS = (0.5, 1.0, 2.0)
# Sampled anchors of an image in training, and sampled regions per proposal in inference (512 of 1000).
SAMPLED_ANCHORS, SAMPLED_REGIONS = 256, 0.512
# Side of a region whose features are read from the second level, divided by the side of the finest anchors: 56 / 32.
SECOND_LEVEL = 1.75


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectedObjects:
    """The objects that a detector found in an image, from the highest score to the lowest.

    Attributes:
        boxes: `[n, 4]`, in pixels of the image that the network read.
        labels: Classes from 0, `[n]` int64.
        scores: Probabilities, `[n]`.
        masks: Probability that a point of the box belongs to the object, on a grid of the box, `[n, 28, 28]`.
        size: Height and width of the image that the network read.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor
    size: tuple[int, int]


def level_anchors(side: float, stride: int, positions: Sequence[int], device: torch.device) -> Tensor:
    """Return the anchors of a level: at each position, row by row, one for each of `RATIOS` around the same centre.

    Args:
        side: Square root of their area.
        stride: Distance of the positions; the first one is at 0.
        positions: Number of rows and columns.
        device: Where to create them.

    Returns:
        `[rows * columns * 3, 4]`.
    """
    half = [(side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2) for ratio in RATIOS]
    shapes = torch.tensor([[-x, -y, x, y] for x, y in half], device=device)
    y, x = (torch.arange(count, device=device, dtype=torch.float32) * stride for count in positions)
    centres = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1).flatten(0, 1)
    return (centres.repeat(1, 2)[:, None] + shapes).flatten(0, 1)


class Proposals(Uncounted):
    """The boxes that the proposal network proposes, and in training its losses.

    Args:
        side: Side of the anchors of the finest level; it doubles from level to level.
        strides: Of the levels.
        count: Largest number of proposals of an image in inference; twice as many in training.
    """

    network: Any

    def __init__(self, side: float, strides: Sequence[int], count: int) -> None:
        super().__init__()
        numbers = {"training": 2 * count, "testing": count}
        self.network = RegionProposalNetwork(
            anchor_generator=None,
            head=None,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=SAMPLED_ANCHORS,
            positive_fraction=0.5,
            pre_nms_top_n=numbers,
            post_nms_top_n=numbers,
            nms_thresh=0.7,
        )
        self.side, self.strides = side, tuple(strides)

    def forward(
        self, objectness: Sequence[Tensor], deltas: Sequence[Tensor], size: Sequence[int], targets: Any = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Choose proposals.

        Args:
            objectness: Logits of each level, `[B, H, W, 3]`.
            deltas: Changes of the anchors, `[B, H, W, 12]`.
            size: Height and width of the image.
            targets: In training, the objects of each image; see `autospike.data.objects.TrainingObjects`.

        Returns:
            Boxes of each image `[n, 4]`; and in training the losses of objectness (binary cross-entropy) and boxes (L1).
        """
        images, device = len(objectness[0]), objectness[0].device
        of_levels = [
            level_anchors(self.side * 2**i, stride, level.shape[1:3], device)
            for i, (stride, level) in enumerate(zip(self.strides, objectness, strict=True))
        ]
        anchors = [torch.cat(of_levels)] * images
        logits, changes = concat_box_prediction_layers(
            [level.float().permute(0, 3, 1, 2) for level in objectness], [level.float().permute(0, 3, 1, 2) for level in deltas]
        )
        boxes = self.network.box_coder.decode(changes.detach(), anchors).view(images, -1, 4)
        proposals, _ = self.network.filter_proposals(boxes, logits, [tuple(size)] * images, [len(level) for level in of_levels])
        if not self.training:
            return proposals, []
        labels, matched = self.network.assign_targets_to_anchors(anchors, targets)
        return proposals, self._losses(logits, changes, labels, self.network.box_coder.encode(matched, anchors))

    def _losses(self, logits: Tensor, changes: Tensor, labels: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        """Losses of sampled anchors: those of torchvision, with L1 in place of a smooth L1."""
        positive, negative = (torch.where(torch.cat(sampled))[0] for sampled in self.network.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        objectness = F.binary_cross_entropy_with_logits(logits.flatten()[sampled], torch.cat(labels)[sampled])
        boxes = F.l1_loss(changes[positive], torch.cat(wanted)[positive], reduction="sum")
        return [objectness, boxes / sampled.numel()]


class RegionFeatures(Uncounted):
    """Features of regions at every time step, by RoIAlign. Larger regions are read from coarser levels.

    Args:
        strides: Of the levels.
        side: Side of the anchors of the finest level.
        size: Height and width of the features of a region.
    """

    def __init__(self, strides: Sequence[int], side: float, size: int) -> None:
        super().__init__()
        self.strides, self.side, self.size = tuple(strides), side, size

    def forward(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Compute the features of regions.

        Args:
            pyramid: `[T, B, H, W, C]` for each level.
            boxes: Regions of each image, `[n, 4]`.

        Returns:
            `[T, R, C, size, size]` in float32, with the regions of all images one after the other.
        """
        steps, images, *_, channels = pyramid[0].shape
        regions = torch.cat(list(boxes))
        image = torch.repeat_interleave(
            torch.arange(images, device=regions.device), torch.tensor([len(x) for x in boxes], device=regions.device)
        )
        features = pyramid[0].new_zeros((steps, len(regions), channels, self.size, self.size), dtype=torch.float32)
        levels = self.levels(regions)
        for i, (level, stride) in enumerate(zip(pyramid, self.strides, strict=False)):
            chosen = torch.where(levels == i)[0]
            if len(chosen):
                maps = level.float().flatten(0, 1).permute(0, 3, 1, 2).contiguous()
                at_steps = (torch.arange(steps, device=image.device)[:, None] * images + image[chosen]).flatten()
                rois = torch.cat([at_steps[:, None].float(), regions[chosen].repeat(steps, 1)], dim=1)
                found = roi_align(maps, rois, self.size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
                features = features.index_copy(1, chosen, found.unflatten(0, (steps, -1)))
        return features

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the level of each box `[n, 4]`: 0 below a side of `2 * SECOND_LEVEL` anchors, then one more for each doubling.

        Args:
            boxes: Corners (left, top, right, bottom) in pixels.
        """
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        found = torch.floor(torch.log2(side / (SECOND_LEVEL * self.side) + 1e-6))
        return found.clamp(0, len(self.strides) - 1).long()


class Regions(Uncounted):
    """Samples of regions with their losses in training; detections in inference.

    Args:
        proposals: Largest number of proposals of an image in inference.
    """

    heads: Any

    def __init__(self, proposals: int) -> None:
        super().__init__()
        self.heads = RoIHeads(
            None,
            None,
            None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=max(4, round(SAMPLED_REGIONS * proposals)),
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )

    def forward(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], size: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Choose the detections of each image.

        Args:
            logits: Of the classes, the last of which is the background, `[R, classes + 1]`.
            deltas: Changes of the proposals for each class, `[R, 4 * classes]`.
            proposals: Boxes of each image.
            size: Height and width of the image.

        Returns:
            Boxes, scores and classes of each image.
        """
        background_first = logits.float().roll(1, dims=-1)
        padded = F.pad(deltas.float(), (4, 0))
        sizes = [size] * len(proposals)
        boxes, scores, labels = self.heads.postprocess_detections(background_first, padded, proposals, sizes)
        return boxes, scores, [of_image - 1 for of_image in labels]

    def sample(self, proposals: list[Tensor], targets: Sequence[dict[str, Tensor]]) -> SampledRegions:
        """Sample regions for training. The boxes of the objects are added to the proposals.

        Args:
            proposals: Boxes `[n, 4]` of each image.
            targets: Objects of each image, as in `autospike.data.objects.TrainingObjects`.

        Returns:
            The regions.
        """
        shifted = [{**target, "labels": target["labels"] + 1} for target in targets]  # 0 is the background
        boxes, matched, labels, deltas = self.heads.select_training_samples(list(proposals), shifted)
        return SampledRegions(boxes=boxes, objects=matched, labels=labels, deltas=deltas)


class Masks(Uncounted):
    """The masks of detections."""

    def forward(self, logits: Tensor, labels: Sequence[Tensor]) -> list[Tensor]:
        """Choose the mask of the class of each detection.

        Args:
            logits: `[R, classes, 28, 28]`, of the detections of all images one after the other.
            labels: Classes of the detections of each image, `[n]`.

        Returns:
            Probabilities for each image, `[n, 28, 28]`.
        """
        probabilities = logits.float()[torch.arange(len(logits), device=logits.device), torch.cat(list(labels))].sigmoid()
        return list(probabilities.split([len(x) for x in labels]))


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledRegions:
    """Regions of training, for each image.

    Attributes:
        boxes: `[n, 4]`.
        objects: Index of the object that a region overlaps most, `[n]`.
        labels: 0 for the background, otherwise its class + 1, `[n]`.
        deltas: Changes that turn the region into the box of the object, `[n, 4]`.
    """

    boxes: list[Tensor]
    objects: list[Tensor]
    labels: list[Tensor]
    deltas: list[Tensor]

    def box_losses(self, logits: Tensor, deltas: Tensor) -> list[Tensor]:
        """Compute the losses of classes (cross-entropy) and boxes (L1 of those that overlap an object).

        Args:
            logits: `[R, classes + 1]`, the last one of the background.
            deltas: `[R, 4 * classes]`.

        Returns:
            Both losses, scalars.
        """
        labels, wanted = torch.cat(self.labels), torch.cat(self.deltas)
        classes = F.cross_entropy(logits.float().roll(1, dims=-1), labels)
        objects = torch.where(labels > 0)[0]
        found = deltas.float().unflatten(1, (-1, 4))[objects, labels[objects] - 1]
        return [classes, F.l1_loss(found, wanted[objects], reduction="sum") / labels.numel()]

    def with_objects(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the regions that overlap an object, and the indices of these objects, for each image."""
        chosen = [labels > 0 for labels in self.labels]
        boxes = [boxes[which] for boxes, which in zip(self.boxes, chosen, strict=True)]
        return boxes, [objects[which] for objects, which in zip(self.objects, chosen, strict=True)]

    def mask_loss(self, logits: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Compute the binary cross-entropy of the masks of the regions with objects.

        Args:
            logits: `[R', classes, 28, 28]`.
            targets: Objects of each image, as in `autospike.data.objects.TrainingObjects`.

        Returns:
            The loss, a scalar.
        """
        boxes, objects = self.with_objects()
        masks, labels = [target["masks"] for target in targets], [target["labels"] for target in targets]
        loss: Tensor = maskrcnn_loss(logits.float(), boxes, masks, labels, objects)
        return loss
