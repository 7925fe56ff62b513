"""The models, one file for each family, and the registry by which this package and timm build them."""

from autospike.models.registry import build_model, build_segment

__all__ = ["build_model", "build_segment"]
