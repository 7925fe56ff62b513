"""Fixtures of the evaluation and execution tests: tiny spaces of every family, evaluators on a few images, models by themselves."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autospike.config import DataConfig, EvaluationConfig
from autospike.data.batches import FixedBatches, Span
from autospike.data.images import Images, Split
from autospike.data.loading import load_images
from autospike.data.partition import SplitName
from autospike.energy.conventions import EXACT
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.population import PopulationEvaluator
from autospike.evaluation.single import measure
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Executor, Serial
from autospike.measurement import Measurement
from autospike.memory.cache import ByteBudgetCache
from autospike.models.contract import SpikingModel
from autospike.searching.by_products import by_product_candidates
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

NEURON = {"v_threshold": [0.5, 1.0], "tau": [1.5, 2.0]}


def _spikformer(**changed: Any) -> dict[str, Any]:
    block = {"num_heads": [1, 2], "mlp_ratio": [1, 2], "neuron": NEURON, "groups": {"q": {"v_threshold": [0.4, 0.8]}}}
    stage = {"embed_dim": [8, 16], "embedding": {"stride": [2, 4]}, "depth": [1, 2], "block": block}
    return {"family": "spikformer", "time_steps": [1, 3], "stages": [stage], **changed}


WRITTEN: dict[str, dict[str, Any]] = {
    "sew": _spikformer(qkv_bias=True),
    "vanilla": _spikformer(shortcut="vanilla"),
    "both": _spikformer(shortcut=["sew", "vanilla"]),
    "events": _spikformer(),
    "spike_driven": {
        "family": "spike_driven",
        "shortcut": "membrane",
        "time_steps": [1, 2, 3],
        "stages": [
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2, "neuron": {"v_threshold": [0.5, 1.0]}},
                "depth": [1, 2],
                "block": {
                    "token_mixer": ["sdsa_1", "sdsa_1_dilated", "sdsa_2", "sdsa_3"],
                    "num_heads": [1, 2],
                    "mlp_ratio": [1, 2],
                    "neuron": NEURON,
                },
            }
        ],
    },
    "meta_spikeformer": {
        "family": "meta_spikeformer",
        "shortcut": ["membrane", "sew"],
        "time_steps": [1, 3],
        "distilled": True,
        "stages": [
            {
                "embed_dim": [8, 12],
                "depth": [1, 2],
                "block": {
                    "token_mixer": ["sepconv", "none"],
                    "channel_mixer": ["conv", "mlp"],
                    "mlp_ratio": [1, 2],
                    "neuron": NEURON,
                },
            },
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2},
                "depth": [1, 3],
                "block": {
                    "token_mixer": ["sdsa_3", "sdsa_4", "sdsa_1", "token_qk", "sepconv"],
                    "channel_mixer": ["mlp", "conv"],
                    "num_heads": [1, 2],
                    "qkv": ["repconv", "linear"],
                    "projection": ["linear", "repconv"],
                    "mlp_ratio": 2,
                    "neuron": NEURON,
                },
            },
        ],
    },
    "qkformer": {
        "family": "qkformer",
        "time_steps": [1, 2],
        "stages": [
            {
                "embed_dim": [8, 16],
                "depth": 1,
                "block": {"token_mixer": ["token_qk", "channel_qk"], "num_heads": [1, 2], "mlp_ratio": 1, "neuron": NEURON},
            },
            {
                "embed_dim": 16,
                "embedding": {"stride": 2},
                "depth": [1, 2],
                "block": {"token_mixer": ["sdsa_3", "token_qk"], "num_heads": 2, "mlp_ratio": [1, 2], "neuron": NEURON},
            },
        ],
    },
    "e_spikeformer": {
        "family": "e_spikeformer",
        "shortcut": "membrane",
        "time_steps": [1, 2],
        "stages": [
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2},
                "depth": [1, 2],
                "block": {
                    "token_mixer": ["spiking_sepconv_3", "spiking_sepconv_7"],
                    "channel_mixer": ["conv", "mlp"],
                    "mlp_ratio": 1,
                    "neuron": {"levels": [1, 4]},
                },
            },
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2, "neuron": {"levels": [1, 4]}},
                "depth": 1,
                "block": {"token_mixer": "e_sdsa", "num_heads": [1, 2], "mlp_ratio": [1, 2], "neuron": {"levels": [1, 4]}},
            },
        ],
    },
    "e_spikeformer integrating": {
        "family": "e_spikeformer",
        "shortcut": "membrane",
        "time_steps": [1, 2],
        "stages": [
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2},
                "depth": [1, 2],
                "block": {
                    "token_mixer": ["spiking_sepconv_3", "spiking_sepconv_7"],
                    "channel_mixer": "conv",
                    "mlp_ratio": 1,
                    "neuron": {"levels": [2, 4], "leak": False},
                },
            },
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2, "neuron": {"levels": [2, 4], "leak": False}},
                "depth": 1,
                "block": {
                    "token_mixer": ["e_sdsa", "sdsa_3"],
                    "num_heads": 2,
                    "mlp_ratio": [1, 2],
                    "layer_scale": True,
                    "neuron": {"levels": [2, 4], "leak": False},
                },
            },
        ],
    },
    "e_spikeformer large": {
        "family": "e_spikeformer",
        "shortcut": "membrane",
        "time_steps": [1, 2],
        "distilled": True,
        "conv_bias": True,
        "mean_head": True,
        "stages": [
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2},
                "depth": [1, 2],
                "block": {
                    "token_mixer": "none",
                    "channel_mixer": ["conv", "replinear"],
                    "mlp_ratio": [1, 2],
                    "neuron": {"levels": [2, 4], "integrates": False},
                },
            },
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2, "neuron": {"levels": [1, 4]}},
                "depth": [1, 2],
                "block": {
                    "token_mixer": ["sdsa_3", "none"],
                    "channel_mixer": ["mlp", "replinear"],
                    "qkv": ["replinear", "linear"],
                    "projection": ["repconv", "replinear"],
                    "num_heads": [1, 2],
                    "mlp_ratio": 1,
                    "layer_scale": True,
                    "neuron": {"levels": 4, "normalised": True},
                },
            },
            {"embed_dim": [8, 16], "depth": 0},
        ],
    },
    "max_former": {
        "family": "max_former",
        "shortcut": "membrane",
        "time_steps": [1, 2],
        "stages": [
            {
                "embed_dim": [8, 16],
                "embedding": {"stride": 2},
                "depth": [1, 2],
                "block": {"token_mixer": ["dwc_3", "none", "dwc_5"], "mlp_ratio": [1, 2], "neuron": NEURON},
            },
            {
                "embed_dim": 16,
                "embedding": {"stride": 2, "kind": ["family", "embed_orig"]},
                "depth": 1,
                "block": {"token_mixer": ["sdsa_3", "dwc_7"], "num_heads": 2, "mlp_ratio": 1, "neuron": NEURON},
            },
        ],
    },
}

CALIBRATION, SEARCH, CALIBRATION_BATCH = 20, 25, 10


@lru_cache(maxsize=1)
def _images() -> Images:
    return load_images(DataConfig(name="digits", image_size=8), seed=0)


def digits(name: SplitName, count: int, cache: ByteBudgetCache | None = None) -> FixedBatches:
    split = _images().splits[name].sample(count, random.Random(0))
    return FixedBatches(split=split, channels=1, image_size=8, cache=ByteBudgetCache() if cache is None else cache)


def frames(name: SplitName, count: int, cache: ByteBudgetCache | None = None) -> FixedBatches:
    """Frames of an event camera, `[3, B, 2, 8, 8]`."""
    counts = np.random.default_rng(len(name)).poisson(1.0, (count, 3, 2, 8, 8)).astype(np.float32)
    labels = tuple(i % 10 for i in range(count))
    split = Split(name=name, indices=tuple(range(count)), labels=labels, read=lambda i: counts[i], time_steps=3)
    return FixedBatches(split=split, channels=2, image_size=8, cache=ByteBudgetCache() if cache is None else cache)


def make_evaluator(name: str, *, cache: ByteBudgetCache | None = None) -> TrieEvaluator:
    """A trie evaluator of one of the spaces above. BatchNorm biases are 0.3, so that spikes reach the last layers."""
    batches, channels = (frames, 2) if name == "events" else (digits, 1)
    cache = ByteBudgetCache() if cache is None else cache
    with torch.random.fork_rng():
        torch.manual_seed(1)
        supernet = Supernet(SearchSpace.from_dict(WRITTEN[name]), num_classes=10, in_chans=channels)
    for parameter, tensor in supernet.named_parameters():
        if parameter.endswith(("bn.bias", "layer_scale")):
            torch.nn.init.constant_(tensor, 0.3)
    calibration, search = batches("train", CALIBRATION, cache), batches("search", SEARCH, cache)
    return TrieEvaluator(supernet=supernet, calibration=calibration, search=search, cache=cache)


def make_population_evaluator(executor: Executor, **config: Any) -> PopulationEvaluator:
    written = {"calibration_images": CALIBRATION, "calibration_batch_size": CALIBRATION_BATCH, "batch_size": 9, **config}
    return PopulationEvaluator(
        executor=executor,
        calibration_images=CALIBRATION,
        search_images=SEARCH,
        config=EvaluationConfig(**written),
        convention=EXACT,
    )


def measure_population(evaluator: TrieEvaluator, population: list[Architecture], **config: Any) -> list[Measurement]:
    return list(make_population_evaluator(Serial(state=evaluator), **config)(population))


def calibrated(evaluator: TrieEvaluator, architecture: Architecture) -> SpikingModel:
    """A subnet as a calibrated plain model."""
    model = evaluator.supernet.extract(architecture)
    batches = (batch.images for batch in evaluator.calibration(CALIBRATION_BATCH))
    calibrate(model, batches, time_steps=evaluator.time_steps)
    return model


def measure_alone(evaluator: TrieEvaluator, architecture: Architecture) -> Measurement:
    return measure(calibrated(evaluator, architecture), evaluator.search, batch_size=SEARCH)


def sample(space: SearchSpace, count: int, seed: int = 0, *, by_products: bool = False) -> list[Architecture]:
    """Random architectures of a space, with their by-product candidates if wanted."""
    rng = random.Random(seed)
    sampled = [space.sample(rng) for _ in range(count)]
    return (
        list(dict.fromkeys(r for a in sampled for r in by_product_candidates(space, a)))
        if by_products
        else list(dict.fromkeys(sampled))
    )


@dataclass(frozen=True)
class Start:
    """Creates a trie evaluator in a worker."""

    name: str

    def __call__(self) -> TrieEvaluator:
        torch.set_num_threads(1)
        return make_evaluator(self.name)


# Jobs: values that can be sent to workers.


@dataclass(frozen=True)
class Echo:
    """Returns the evaluator's T and the shard."""

    def __call__(self, evaluator: TrieEvaluator, span: Span) -> Any:
        return evaluator.time_steps, span


@dataclass(frozen=True)
class Fail:
    """Raises an error on the shard that starts at an image."""

    error: Exception
    start: int

    def __call__(self, _evaluator: TrieEvaluator, span: Span) -> Any:
        if span[0] == self.start:
            raise self.error
        return span


@dataclass(frozen=True)
class KillOnce:
    """Runs another job, and kills the worker on the shard that starts at an image: once if there is a marker file, else always."""

    job: Any
    start: int
    marker: Path | None

    def __call__(self, evaluator: TrieEvaluator, span: Span) -> Any:
        if span[0] == self.start and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.job(evaluator, span)


@dataclass(frozen=True)
class Pid:
    """Returns the worker's process id, after a while."""

    seconds: float = 0.3

    def __call__(self, _evaluator: TrieEvaluator, _span: Span) -> int:
        time.sleep(self.seconds)
        return os.getpid()


@dataclass(frozen=True)
class Refuse:
    """Fails to create a state."""

    error: Exception

    def __call__(self) -> TrieEvaluator:
        raise self.error
