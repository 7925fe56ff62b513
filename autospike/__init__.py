"""One-shot architecture search for spiking vision transformers.

    import autospike

    run = autospike.Run("runs/x", space="spikformer_32", train=images, test=test_images, seed=0)
    run.train(epochs=50)
    run.search(objectives=["accuracy", "energy_mj"], timeout=600)
    run.front()                                                # a pandas DataFrame
    model = run.best("accuracy", max_energy_uj=1).model        # an nn.Module

The public names are imported on first use, because most of them need torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from wrapt import when_imported

if TYPE_CHECKING:
    from autospike.api import Candidate, Run, export, plot, retrain, search, train
    from autospike.config import Experiment
    from autospike.counting.model import count_operations
    from autospike.errors import UserError
    from autospike.events import Callback, CandidateEvent, CheckpointEvent, EpochEvent, Event, GenerationEvent, StepEvent
    from autospike.measurement import Evaluation
    from autospike.nn.fusion import fuse
    from autospike.nn.neuron import LIF, Dynamics
    from autospike.objectives import Objective
    from autospike.space.architecture import Architecture
    from autospike.space.block import Neuron
    from autospike.space.search_space import SearchSpace

__version__ = "0.2.0"

__all__ = [
    "LIF",
    "Architecture",
    "Callback",
    "Candidate",
    "CandidateEvent",
    "CheckpointEvent",
    "Dynamics",
    "EpochEvent",
    "Evaluation",
    "Event",
    "Experiment",
    "GenerationEvent",
    "Neuron",
    "Objective",
    "Run",
    "SearchSpace",
    "StepEvent",
    "UserError",
    "count_operations",
    "export",
    "fuse",
    "plot",
    "retrain",
    "search",
    "train",
]


# `timm.create_model("local-dir:RUN/export")` must work after `import autospike`, but `autospike --help` must not import torch. So
# the models are registered when timm is imported, or now if it has been.
@when_imported("timm")
def _register_models(_timm: object) -> None:
    importlib.import_module("autospike.models")


# The module of each public name.
LAZY = {
    **dict.fromkeys(("Candidate", "Run", "export", "plot", "retrain", "search", "train"), "autospike.api"),
    **dict.fromkeys(("Callback", "CandidateEvent", "CheckpointEvent", "EpochEvent", "Event"), "autospike.events"),
    **dict.fromkeys(("GenerationEvent", "StepEvent"), "autospike.events"),
    "Evaluation": "autospike.measurement",
    "Objective": "autospike.objectives",
    **dict.fromkeys(("Dynamics", "LIF"), "autospike.nn.neuron"),
    "Architecture": "autospike.space.architecture",
    "Experiment": "autospike.config",
    "Neuron": "autospike.space.block",
    "SearchSpace": "autospike.space.search_space",
    "UserError": "autospike.errors",
    "count_operations": "autospike.counting.model",
    "fuse": "autospike.nn.fusion",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module 'autospike' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
