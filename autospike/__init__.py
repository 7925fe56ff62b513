"""One-shot architecture search for spiking vision transformers."""

import importlib

from wrapt import when_imported

__version__ = "0.1.0"


# `timm.create_model("local-dir:RUN/export")` must work after `import autospike` alone, and `autospike --help` must not wait for
# torch: so our models register themselves at the moment timm is imported, now if it already is.
@when_imported("timm")
def _register_models(_timm: object) -> None:
    importlib.import_module("autospike.models")


def __getattr__(name: str) -> object:
    if name == "fuse":  # needs torch, which `import autospike` alone does not load
        from autospike.nn.layers import fuse

        return fuse
    raise AttributeError(f"module 'autospike' has no attribute {name!r}")
