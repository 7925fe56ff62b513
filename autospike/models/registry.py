"""Build models of architectures, and register them with timm.

timm's registry gets one entry for any architecture (`autospike_subnet`), and one for each published network by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from autospike.errors import UserError
from autospike.models.contract import Readout, SpikingModel, stage_embedding
from autospike.models.decoders import DecoderReadout, DetectionModel, SegmentationModel
from autospike.nn.blocks import channel_branch, token_branch
from autospike.space.architecture import Architecture
from autospike.space.decoder import DecoderKind
from autospike.space.families import EMBEDDINGS, rules_of
from autospike.space.published import PUBLISHED, Published

FIRST_EMBEDDING = "stages.0.embedding"
# The last layers of decoders.
CLASSIFIERS: dict[DecoderKind, str | tuple[str, ...]] = {
    "semantic-fpn": "decoder.head.classifier.conv.conv",
    "mask-rcnn": ("decoder.box_head.classes", "decoder.box_head.deltas", "decoder.mask_head.classes.conv.conv"),
}
ENTRY_POINT = "autospike_subnet"  # written to config.json of exported models


def build_model(architecture: Architecture, *, num_classes: int, in_chans: int) -> SpikingModel:
    """Build the model of an architecture with fresh parameters.

    Args:
        architecture: The architecture.
        num_classes: Number of classes; 0 for a model without a head.
        in_chans: Channels of an image.

    Returns:
        The model, in training mode.
    """
    family = (
        _family(architecture) if architecture.decoder is None else _with_decoder(architecture.family, architecture.decoder.kind)
    )
    return family(architecture, num_classes=num_classes, in_chans=in_chans)


def build_segment(architecture: Architecture, name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """Build one segment of a model by itself, with fresh parameters.

    Args:
        architecture: The architecture of the model.
        name: The path of the segment in the model, such as "stages.0.embedding" or "stages.0.blocks.1.token", or "head".
        num_classes: Number of classes.
        in_chans: Channels of an image.

    Returns:
        A module with the parameter names of the segment.
    """
    if name == "head":
        return (DecoderReadout if architecture.decoder else Readout)(architecture, num_classes)
    _, index, kind, *within = name.split(".")
    stage = architecture.stages[int(index)]
    if kind == "embedding":
        in_channels = architecture.stages[int(index) - 1].embed_dim if int(index) else in_chans
        return stage_embedding(_family(architecture), architecture, int(index), in_channels)
    block = stage.blocks[int(within[0])]
    if within[1:] == ["token"]:
        return token_branch(architecture, stage.embed_dim, block)
    assert within[1:] == ["channel"], name
    return channel_branch(architecture, stage.embed_dim, stage.hidden_features(block), block)


def _family(architecture: Architecture) -> type[SpikingModel]:
    """The model class of the architecture's family, whose module is imported here."""
    return _family_class(architecture.family)


def _family_class(name: str) -> type[SpikingModel]:
    module, name = rules_of(name).model.split(":")
    family: type[SpikingModel] = getattr(import_module(module), name)
    return family


@cache
def _with_decoder(name: str, kind: DecoderKind) -> type[SpikingModel]:
    """The class of networks with a decoder whose backbone is of a family."""
    family, base = _family_class(name), DetectionModel if kind == "mask-rcnn" else SegmentationModel
    return type(f"{family.__name__}{base.__name__}", (base,), {"embedding": staticmethod(family.embedding)})


def classifiers(architecture: Architecture) -> str | tuple[str, ...]:
    """Return the names of the heads. timm does not load their weights if the number of classes differs.

    Args:
        architecture: The architecture.
    """
    if architecture.decoder is not None:
        return CLASSIFIERS[architecture.decoder.kind]
    second = "head_dist.linear" if architecture.mean_head else "head_dist"
    return ("head", second) if architecture.distilled else "head"


def first_conv(architecture: Architecture) -> str:
    """Return the path, in the model, of the convolution that reads the image.

    Args:
        architecture: The architecture.
    """
    kind = architecture.stages[0].embedding.kind
    inside = rules_of(architecture.family).first_conv if kind == "family" else EMBEDDINGS[kind].first_conv
    return f"{FIRST_EMBEDDING}.{inside}"


def first_convs(family: str) -> tuple[str, ...]:
    """Return the paths, in models of a family, at which the convolution that reads the image may be.

    Args:
        family: Name of the family.
    """
    inside = (rules_of(family).first_conv, *(rules.first_conv for rules in EMBEDDINGS.values()))
    return tuple(f"{FIRST_EMBEDDING}.{path}" for path in dict.fromkeys(inside))


def _cfg(published: Published) -> dict[str, Any]:
    """The pretrained configuration of a published network for timm."""
    size = (published.in_chans, published.image_size, published.image_size)
    mean, std = (0.5, 0.5) if published.in_chans == 3 else (0.0, 1.0)  # event counts are not normalised
    return {
        "num_classes": published.num_classes,
        "input_size": size,
        "mean": (mean,) * published.in_chans,
        "std": (std,) * published.in_chans,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }


# timm reads `default_cfgs` of this module when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        f"{ENTRY_POINT}.untrained": {"num_classes": 1000},
        **{f"{name}.untrained": _cfg(published) for name, published in PUBLISHED.items()},
    }
)


def _build(
    architecture: dict[str, Any] | Architecture,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    exit_margin: float | None = None,
) -> SpikingModel:
    """Build the model for `timm.models.build_model_with_cfg`.

    timm's scripts always pass `drop_rate`, `drop_path_rate` and `global_pool`; only the values without effect are supported.
    """
    if drop_rate or drop_path_rate or global_pool != "avg":
        raise UserError(
            f"dropout and other pooling are not supported; got {drop_rate=}, {drop_path_rate=}, {global_pool=}; omit them"
        )
    model = build_model(_parsed(architecture), num_classes=num_classes, in_chans=in_chans)
    if exit_margin is not None:
        model.exit_margin = exit_margin
    return model


def _create(name: str, pretrained: bool, pretrained_cfg: Any, **kwargs: Any) -> SpikingModel:
    """Create a model as timm's own entry points do."""
    architecture = _with_time_steps(_parsed(kwargs["architecture"]), kwargs.pop("time_steps", None))
    kwargs["architecture"] = architecture.to_dict()
    overlay = {"classifier": classifiers(architecture), "first_conv": first_conv(architecture)}
    overlay |= kwargs.pop("pretrained_cfg_overlay", None) or {}
    model: SpikingModel = build_model_with_cfg(
        _build,
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        feature_cfg={"feature_cls": "getter", "out_indices": _out_indices(architecture)},
        **kwargs,
    )
    return model


def _parsed(architecture: dict[str, Any] | Architecture) -> Architecture:
    return Architecture.from_dict(architecture) if isinstance(architecture, dict) else architecture


def _with_time_steps(architecture: Architecture, time_steps: int | None) -> Architecture:
    """The architecture with another T, if one is given."""
    return architecture if time_steps is None else Architecture.from_dict({**architecture.to_dict(), "time_steps": time_steps})


def _out_indices(architecture: Architecture) -> tuple[int, ...]:
    """The default `out_indices` of timm's `features_only`."""
    stages = len(architecture.stages)
    return tuple(range(min(rules_of(architecture.family).first_feature, stages - 1), stages))


@register_model
def autospike_subnet(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> SpikingModel:
    """Create any architecture of this package as a timm model.

    Example:
        >>> timm.create_model("autospike_subnet", architecture={...})
        >>> timm.create_model("local-dir:FOLDER", time_steps=2)

    The `config.json` of an exported subnet names this entry point, with the architecture in `model_args`. The weights of an
    exported folder are always loaded, because it is the weights that define the network.

    Args:
        pretrained: Whether to load weights; without effect for an exported folder.
        pretrained_cfg: timm's pretrained configuration.
        **kwargs: `architecture` (an `Architecture` or its JSON form), `time_steps` (replaces the T of the architecture),
            `num_classes`, `in_chans`, and options of timm such as `features_only`.

    Returns:
        The model.

    Raises:
        UserError: The architecture is not valid, or an option of timm is not supported.
    """
    exported = isinstance(pretrained_cfg, dict) and pretrained_cfg.get("source") == "local-dir"
    return _create(ENTRY_POINT, pretrained or exported, pretrained_cfg, **kwargs)


def _entry(name: str, published: Published) -> Callable[..., SpikingModel]:
    """Make the timm entry point of a published network."""

    def create(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> SpikingModel:
        if pretrained:
            raise UserError(f"{name}: this package contains no weights; import a published checkpoint with: autospike import")
        defaults = {"num_classes": published.num_classes, "in_chans": published.in_chans}
        return _create(name, False, pretrained_cfg, **{**defaults, **kwargs, "architecture": published.architecture})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Create the published {name}, untrained; `time_steps` overrides its T."
    return create


_entries = {name: register_model(_entry(name, published)) for name, published in PUBLISHED.items()}
globals().update(_entries)  # register_model adds their names to __all__ of this module
