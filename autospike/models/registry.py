"""Models of architectures, and their entries in timm: one for any architecture, and the published networks by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from autospike.errors import UserError
from autospike.models.contract import Readout, SpikingModel
from autospike.nn.blocks import channel_branch, token_branch
from autospike.space.architecture import Architecture
from autospike.space.families import rules_of
from autospike.space.published import PUBLISHED, Published

ENTRY_POINT = "autospike_subnet"


def build_model(architecture: Architecture, *, num_classes: int, in_chans: int) -> SpikingModel:
    """The plain model of an architecture, with fresh parameters."""
    return _family(architecture)(architecture, num_classes=num_classes, in_chans=in_chans)


def build_segment(architecture: Architecture, name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """One segment of that model alone, by its path there ("stages.0.embedding", "stages.0.blocks.1.token"), or "head"."""
    if name == "head":
        return Readout(architecture, num_classes)
    _, index, kind, *within = name.split(".")
    stage = architecture.stages[int(index)]
    if kind == "embedding":
        in_channels = architecture.stages[int(index) - 1].embed_dim if int(index) else in_chans
        return _family(architecture).embedding(architecture, int(index), in_channels)
    block = stage.blocks[int(within[0])]
    if within[1:] == ["token"]:
        return token_branch(architecture, stage.embed_dim, block)
    assert within[1:] == ["channel"], name
    return channel_branch(architecture, stage.embed_dim, stage.hidden_features(block), block)


def _family(architecture: Architecture) -> type[SpikingModel]:
    module, name = rules_of(architecture.family).model.split(":")
    family: type[SpikingModel] = getattr(import_module(module), name)
    return family


def classifiers(architecture: Architecture) -> str | tuple[str, ...]:
    """The heads, which timm leaves out where the number of classes differs."""
    return ("head", "head_dist") if architecture.distilled else "head"


def first_conv(family: str) -> str:
    """The convolution that reads the image, by its path in the model."""
    return f"stages.0.embedding.{rules_of(family).first_conv}"


def _cfg(published: Published) -> dict[str, Any]:
    size = (published.in_chans, published.image_size, published.image_size)
    mean, std = (0.5, 0.5) if published.in_chans == 3 else (0.0, 1.0)  # event counts are not normalised
    usual = {"mean": (mean,) * published.in_chans, "std": (std,) * published.in_chans, "crop_pct": 1.0, "interpolation": "bilinear"}
    return {
        "num_classes": published.num_classes,
        "input_size": size,
        **usual,
    }


# timm reads these at the moment a model is registered.
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
) -> SpikingModel:
    """timm's scripts always give the last three; only their neutral values exist here."""
    if drop_rate or drop_path_rate or global_pool != "avg":
        raise UserError(
            f"no dropout and no other pooling here; got {drop_rate=}, {drop_path_rate=}, {global_pool=}; leave them out"
        )
    return build_model(_parsed(architecture), num_classes=num_classes, in_chans=in_chans)


def _create(name: str, pretrained: bool, pretrained_cfg: Any, **kwargs: Any) -> SpikingModel:
    architecture = _parsed(kwargs["architecture"])
    overlay = {"classifier": classifiers(architecture), "first_conv": first_conv(architecture.family)}
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


def _out_indices(architecture: Architecture) -> tuple[int, ...]:
    """Maps that features_only gives unless told otherwise."""
    stages = len(architecture.stages)
    return tuple(range(min(rules_of(architecture.family).first_feature, stages - 1), stages))


@register_model
def autospike_subnet(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> SpikingModel:
    """Any architecture of this package as a timm model: `timm.create_model("autospike_subnet", architecture={...})`.

    An exported subnet names this entry in its `config.json`, with its architecture as `model_args`. A folder that was exported is
    opened with its weights, whether `pretrained` is said or not: without them it would be another network.
    """
    exported = isinstance(pretrained_cfg, dict) and pretrained_cfg.get("source") == "local-dir"
    return _create(ENTRY_POINT, pretrained or exported, pretrained_cfg, **kwargs)


def _entry(name: str, published: Published) -> Callable[..., SpikingModel]:
    def create(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> SpikingModel:
        if pretrained:
            raise UserError(f"{name}: no weights come with this package; import a published checkpoint with: autospike import")
        time_steps = kwargs.pop("time_steps", published.architecture.time_steps)
        architecture = {**published.architecture.to_dict(), "time_steps": time_steps}
        usual = {"num_classes": published.num_classes, "in_chans": published.in_chans}
        return _create(name, False, pretrained_cfg, **{**usual, **kwargs, "architecture": architecture})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The published {name}; `time_steps` may differ."
    return create


_entries = {name: register_model(_entry(name, published)) for name, published in PUBLISHED.items()}
globals().update(_entries)  # register_model lists them in this module's __all__
