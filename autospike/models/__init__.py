"""Plain models, one file a family, and the registry through which the rest of the package and timm build them."""

from autospike.models.registry import build_model, build_segment

__all__ = ["build_model", "build_segment"]
