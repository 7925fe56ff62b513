"""One-shot architecture search for spiking vision transformers."""

import importlib

from wrapt import when_imported

__version__ = "0.2.0"


# `timm.create_model("local-dir:RUN/export")` must work after `import autospike`, but `autospike --help` must not import torch. So
# the models are registered when timm is imported, or now if it has been.
@when_imported("timm")
def _register_models(_timm: object) -> None:
    importlib.import_module("autospike.models")


# Public names that are imported on first use, because most of them need torch.
LAZY = {
    "LIF": "autospike.nn.neuron",
    "Dynamics": "autospike.nn.neuron",
    "Neuron": "autospike.space.block",
    "count_operations": "autospike.counting.model",
    "fuse": "autospike.nn.fusion",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module 'autospike' has no attribute {name!r}")
