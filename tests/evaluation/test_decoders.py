"""Decoders in the trie evaluation: equal to single models bit for bit at every T, and run once for each T."""

from __future__ import annotations

import random

import pytest
import torch
from masked_trees import write_ade20k
from slow_parameters import slow_except
from torch import nn
from torch.func import functional_call

from autospike.config import DataConfig, EvaluationConfig
from autospike.data.batches import FixedBatches
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.energy.conventions import EXACT
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.population import PopulationEvaluator
from autospike.evaluation.single import measure, measure_stepwise
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Serial
from autospike.memory.cache import ByteBudgetCache
from autospike.space.architecture import Architecture
from autospike.space.parameters import count_parameters
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

BLOCK = {"token_mixer": "none", "channel_mixer": "conv", "mlp_ratio": [1, 2]}
SPACE = {
    "family": "meta_spikeformer",
    "shortcut": "membrane",
    "time_steps": [1, 3],
    "stages": [
        {"embed_dim": [4, 6], "embedding": {"stride": 2}, "depth": [1, 2], "block": BLOCK},
        {"embed_dim": 6, "embedding": {"stride": 1}, "depth": 1, "block": BLOCK},
        {"embed_dim": [6, 8], "embedding": {"stride": 2}, "depth": [1, 2], "block": BLOCK},
    ],
    "decoder": {"levels": [0, 2], "channels": [4, 6], "head_channels": [3, 5], "neuron": {"v_threshold": [0.3, 0.6]}},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root = tmp_path_factory.mktemp("ade20k")
    write_ade20k(root, train=12, test=2)
    config = DataConfig.model_validate({"name": "ade20k", "root": str(root), "image_size": 16, "search_share": 0.5})
    return load_images(config, seed=0)


def batches(images: Images, split: str, cache: ByteBudgetCache) -> FixedBatches:
    return FixedBatches(split=images.splits[split], channels=3, image_size=16, cache=cache)  # type: ignore[index]


def supernet(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    net = Supernet(space, num_classes=3, in_chans=3)
    for name, parameter in net.shared.named_parameters():
        if name.split(".")[-2].endswith("bn"):
            nn.init.normal_(parameter, 1 if name.endswith("weight") else 0.4, 0.5)
    return net


@pytest.mark.parametrize("spiking", slow_except([True], [True, False]))
def test_the_trie_measures_what_single_models_measure(images: Images, spiking: bool) -> None:
    decoder = {**SPACE["decoder"], "spiking": spiking}  # type: ignore[dict-item]
    if not spiking:
        del decoder["neuron"]
    space = SearchSpace.from_dict({**SPACE, "decoder": decoder})
    net, cache = supernet(space), ByteBudgetCache(2**20)
    calibration, search = batches(images, "train", cache), batches(images, "search", cache)
    evaluator = PopulationEvaluator(
        executor=Serial(state=TrieEvaluator(supernet=net, calibration=calibration, search=search, cache=cache)),
        calibration_images=6,
        search_images=6,
        config=EvaluationConfig(calibration_batch_size=6, batch_size=3),
        convention=EXACT,
    )
    rng = random.Random(1)
    population = [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(3))]
    for _ in range(2):  # the second time with cached prefixes
        for architecture, measured in zip(population, evaluator(population), strict=True):
            model = net.extract(architecture)
            calibrate(model, (batch.images for batch in calibration(6)), time_steps=3)
            assert measured == measure(model, search, batch_size=3)
            assert measured.params == count_parameters(architecture, num_classes=3)
            assert {c.time_steps for c in measured.counts if c.layer.startswith("decoder")} == {1}
            assert ("binary" if spiking else "real") in {c.input for c in measured.counts if c.layer.startswith("decoder.neck")}


def test_one_pass_measures_every_t(images: Images) -> None:
    space = SearchSpace.from_dict(SPACE)
    model, cache = supernet(space).extract(space.largest()), ByteBudgetCache(0)
    calibrate(model, (batch.images for batch in batches(images, "train", cache)(6)), time_steps=3)
    search = batches(images, "search", cache)
    whole = measure_stepwise(model, search, batch_size=3, time_steps=3)
    for steps in (1, 2):
        assert whole.at(steps) == measure_stepwise(model, search, batch_size=3, time_steps=steps).at(steps)
    assert whole.at(3).counts == whole.operations.counts
    energies = [whole.at(t).energy(EXACT).energy_mj for t in (1, 2, 3)]
    assert energies == sorted(energies)


def test_views_of_a_shared_decoder_are_leading_corners() -> None:
    space = SearchSpace.from_dict(SPACE)
    net, x = supernet(space), torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shared = dict(net.shared.named_parameters())
    assert shared["decoder.neck.laterals.1.conv.conv.weight"].shape == (6, 8, 1, 1)
    for architecture in (space.smallest(), space.sample(random.Random(3))):
        model = net.extract(architecture)
        calibrate(model, [x], time_steps=3)
        with torch.no_grad():
            state = {**dict(model.named_buffers()), **net.view(architecture)}
            assert torch.equal(functional_call(model, state, (x,)), model(x))
        for name, parameter in model.named_parameters():
            corner = shared[name][tuple(slice(size) for size in parameter.shape)]
            assert torch.equal(parameter, corner)


@pytest.mark.parametrize("gene", [{"channels": 5}, {"head_channels": 4}, {"neuron": {"v_threshold": 0.35, "tau": 2.0}}])
def test_each_gene_of_a_decoder_has_an_effect(gene: dict[str, object]) -> None:
    space = SearchSpace.from_dict(SPACE)
    fields = space.largest().to_dict()
    changed = Architecture.from_dict({**fields, "decoder": {**fields["decoder"], **gene}})
    x, outputs = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []
    shapes = []
    for architecture in (space.largest(), changed):
        model = supernet(space).extract(architecture)
        calibrate(model, [x], time_steps=3)
        with torch.no_grad():
            outputs.append(model(x))
        shapes.append({name: p.shape for name, p in model.named_parameters()})
    assert shapes[0] != shapes[1] or not torch.equal(outputs[0], outputs[1])
