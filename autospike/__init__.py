"""One-shot architecture search for spiking vision transformers."""

import importlib

from wrapt import when_imported

__version__ = "0.1.0"


# `timm.create_model("local-dir:RUN/export")` must work after `import autospike` alone, and `autospike --help` must not wait for
# torch: so our models register themselves at the moment timm is imported, now if it already is.
@when_imported("timm")
def _register_models(_timm: object) -> None:
    importlib.import_module("autospike.models")


# Most need torch, which `import autospike` alone does not load.
LAZY = {
    "LIF": "autospike.nn.neuron",
    "Dynamics": "autospike.nn.neuron",
    "Neuron": "autospike.space.architecture",
    "count_operations": "autospike.counting.model",
    "fuse": "autospike.nn.layers",
}


def __getattr__(name: str) -> object:
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module 'autospike' has no attribute {name!r}")
