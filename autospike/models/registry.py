"""Families by name, and their entry in timm.

A family is a class `Model(architecture, *, num_classes, in_chans)`; one line in `FAMILIES` makes it known to the supernet, the
evaluator, the export and timm.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from autospike.architecture import Architecture
from autospike.models.contract import SpikingModel
from autospike.models.spikformer import Spikformer

FAMILIES: dict[str, type[SpikingModel]] = {"spikformer": Spikformer}


def build_model(architecture: Architecture, *, num_classes: int, in_chans: int) -> SpikingModel:
    """The plain model of an architecture, with fresh parameters."""
    family: Any = FAMILIES[architecture.family]
    model: SpikingModel = family(architecture, num_classes=num_classes, in_chans=in_chans)
    return model


def _build_from_dict(architecture: dict[str, Any], num_classes: int = 1000, in_chans: int = 3) -> SpikingModel:
    return build_model(Architecture.from_dict(architecture), num_classes=num_classes, in_chans=in_chans)


ENTRY_POINT = "autospike_subnet"

default_cfgs = generate_default_cfgs(
    {"autospike_subnet.untrained": {"url": "", "num_classes": 1000, "classifier": "head", "first_conv": "stem.stages.0.conv"}}
)


@register_model
def autospike_subnet(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> SpikingModel:
    """Any architecture of this package as a timm model: `timm.create_model("autospike_subnet", architecture={...})`.

    An exported subnet names this entry in its `config.json`, with its architecture as `model_args`. A folder that was exported is
    opened with its weights, whether `pretrained` is said or not: without them it would be another network.
    """
    exported = isinstance(pretrained_cfg, dict) and pretrained_cfg.get("source") == "local-dir"
    model: SpikingModel = build_model_with_cfg(
        _build_from_dict, ENTRY_POINT, pretrained or exported, pretrained_cfg=pretrained_cfg, **kwargs
    )
    return model
