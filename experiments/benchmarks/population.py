"""The setting of the search benchmarks: a space like the authors' small_5, images of CIFAR's size, a trained supernet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from torch.optim import AdamW

from autospike.config import AugmentationConfig, DataConfig, EvaluationConfig, SearchConfig
from autospike.data.batches import Batch, FixedBatches, TrainingBatches
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.data.partition import SplitName
from autospike.evaluation.population import PopulationEvaluator
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Serial
from autospike.memory.cache import MIB, ByteBudgetCache
from autospike.randomness import keyed
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

SMALL_5 = Path(__file__).parents[2] / "search_spaces" / "auto_spikformer_small_5.yaml"
IMAGES = 512
SIZE = 32
TRAINING_STEPS = 150
SCORING_BATCH = 64  # the trie evaluator's best; a single model, ours or spikingjelly's, is as fast with 32 as with 256


def reduced_space() -> SearchSpace:
    """small_5 at an eighth to a quarter of its width, with T from 1 to 4."""
    written = yaml.safe_load(SMALL_5.read_text())
    written["time_steps"] = [1, 2, 3, 4]
    written["stages"][0]["embed_dim"] = [24, 48, 72, 96]
    return SearchSpace.from_dict(written)


def images() -> Images:
    """Handwritten digits, resized to 32x32 with three channels."""
    config = DataConfig(name="digits", image_size=SIZE, search_share=0.35, test_share=0.1)
    return load_images(config, seed=0)


def fixed_batches(source: Images, split: SplitName, kept: ByteBudgetCache, count: int = IMAGES) -> FixedBatches:
    """Batches of `count` images of a split, the same ones in every run."""
    chosen = source.splits[split].sample(count, random.Random(0))
    return FixedBatches(split=chosen, channels=3, image_size=SIZE, cache=kept)


def supernet(space: SearchSpace, source: Images) -> Supernet:
    """A supernet after `TRAINING_STEPS` steps, enough for its subnets to differ in accuracy."""
    torch.manual_seed(0)
    net = Supernet(space, num_classes=10, in_chans=3)
    optimizer = AdamW(net.parameters(), lr=4e-3)
    for step, batch in enumerate(_training(source)):
        (logits,) = net(batch.images, [space.sample(keyed(0, "bench", step))])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        optimizer.step()
    return net


def _training(source: Images) -> Iterator[Batch]:
    batches = TrainingBatches(
        split=source.splits["train"],
        num_classes=10,
        channels=3,
        image_size=SIZE,
        batch_size=32,
        augmentation=AugmentationConfig(),
        smoothing=0.0,
        workers=0,
        seed=0,
    )
    return batches(0, TRAINING_STEPS)


def trie_evaluator(net: Supernet, source: Images, *, kept_mb: int = 1024, count: int = IMAGES) -> TrieEvaluator:
    """A trie evaluator on `count` images for calibration and as many for scoring."""
    kept = ByteBudgetCache(kept_mb * MIB)
    calibration, search = fixed_batches(source, "train", kept, count), fixed_batches(source, "search", kept, count)
    return TrieEvaluator(supernet=net, calibration=calibration, search=search, cache=kept)


def population_evaluator(evaluator: TrieEvaluator, *, calibration_batch_size: int = 128) -> PopulationEvaluator:
    """A population evaluator in this process."""
    return PopulationEvaluator(
        executor=Serial(state=evaluator),
        calibration_images=len(evaluator.calibration),
        search_images=len(evaluator.search),
        config=EvaluationConfig(batch_size=SCORING_BATCH, calibration_batch_size=calibration_batch_size),
        convention=SearchConfig().energy_convention,
    )
