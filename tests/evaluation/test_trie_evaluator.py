"""Trie evaluation: measurements are bit-identical to those of each candidate alone, and shared work is done once."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from populations import (
    CALIBRATION,
    CALIBRATION_BATCH,
    SEARCH,
    WRITTEN,
    calibrated,
    make_evaluator,
    make_population_evaluator,
    measure_alone,
    measure_population,
    sample,
)
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from autospike.counting.coverage import UnknownOperationError
from autospike.data.batches import spans
from autospike.evaluation.calibration import read_statistics
from autospike.evaluation.trie import HEAD, Node, Trie
from autospike.evaluation.trie_evaluator import CalibratedStatistics, DepthFirstPass, TrieEvaluator
from autospike.execution.executor import Serial
from autospike.kernels import linear_lif
from autospike.kernels.build import library, use_kernels
from autospike.memory.allocator import gc_disabled
from autospike.memory.cache import ByteBudgetCache
from autospike.models.contract import MeanHead
from autospike.models.spikformer import SpikingPatchSplitting
from autospike.nn.blocks import MLP, Residual
from autospike.nn.layers import Conv, ConvNorm, Linear, SharedResults
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride
from autospike.space.families import Shortcut

BATCHES = spans(CALIBRATION, CALIBRATION_BATCH)
FAMILIES = tuple(WRITTEN)


def population_of(evaluator: TrieEvaluator, count: int = 3, seed: int = 0) -> list[Architecture]:
    return sample(evaluator.supernet.space, count, seed, by_products=True)


def calls(work: Callable[[], Any]) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    """Return every module that is called, in order, with its inputs; without torchvision's transforms of images."""
    seen: list[tuple[nn.Module, tuple[Any, ...]]] = []
    handle = register_module_forward_hook(lambda module, args, _out: seen.append((module, args)))
    try:
        work()
    finally:
        handle.remove()
    return [call for call in seen if not type(call[0]).__module__.startswith("torchvision.")]


def numbers_of_calls(kind: type, work: Callable[[], Any]) -> list[int]:
    """Return the number of calls of each module of exactly this type."""
    return sorted(Counter(id(module) for module, _ in calls(work) if type(module) is kind).values())


def executed_nodes(work: Callable[[], Any]) -> int:
    """Return the number of residual branches that run, without position codes of embeddings."""
    return sum(isinstance(module, Residual) and not isinstance(module.mixer, ConvNorm) for module, _ in calls(work))


@pytest.mark.parametrize("name", slow_except(["sew", "spike_driven"], FAMILIES))
def test_measurements_equal_those_of_separate_candidates(name: str) -> None:
    """At the T of the candidate: correct predictions, images, counts and parameters."""
    evaluator = make_evaluator(name)
    population = population_of(evaluator, 4)
    found = measure_population(evaluator, population)
    assert found == [measure_alone(make_evaluator(name), architecture) for architecture in population]
    assert len({m.correct for m in found}) > 1, "candidates that differ should answer differently"


@pytest.mark.parametrize("name", slow_except(["sew"], ["sew", "spike_driven", "meta_spikeformer", "events"]))
def test_measurements_do_not_depend_on_batch_size_order_or_population(name: str) -> None:
    """The expected measurements are those of the population in the original order."""
    expected = measure_population(make_evaluator(name), population_of(make_evaluator(name)))
    shuffled = random.Random(1).sample(expected, len(expected))
    requested = [m.architecture for m in shuffled]
    for batch_size in (1, 100):
        assert measure_population(make_evaluator(name), requested, batch_size=batch_size) == shuffled
    assert measure_population(make_evaluator(name), requested[:1]) == shuffled[:1]


@dataclass(frozen=True, kw_only=True)
class Sharded(Serial):
    """An executor that reports several workers and returns results in reverse order."""

    pretended: int

    @property
    def workers(self) -> int:
        return self.pretended

    def run(self, job: Any, shards: Any) -> Any:
        return reversed([(i, job(self.state, span)) for i, span in enumerate(shards)])


@pytest.mark.parametrize("workers", slow_except([12], [3, 12]))
def test_measurements_do_not_depend_on_the_number_of_shards(workers: int) -> None:
    evaluator = make_evaluator("meta_spikeformer")
    population = population_of(evaluator)
    found = make_population_evaluator(Sharded(state=evaluator, pretended=workers))(population)
    assert list(found) == measure_population(make_evaluator("meta_spikeformer"), population)


# The cache holds all results of the first pass, none, or a part. A node result has at least 1,000 bytes; an image, a
# stream and calibrated statistics each use a page.
BUDGETS = (1 << 30, 0, 900, 9_000, 60_000, 240_000)


@pytest.mark.parametrize(
    ("name", "budget"),
    slow_except([("sew", 9_000)], [*(("sew", budget) for budget in BUDGETS), ("meta_spikeformer", 120_000)]),
)
def test_measurements_do_not_depend_on_the_cache_budget(name: str, budget: int) -> None:
    """The same population twice, then another, then the first one again."""
    evaluator = make_evaluator(name, cache=ByteBudgetCache(budget))
    first, second = population_of(evaluator), population_of(evaluator, seed=5)
    fresh = {a: w for p in (first, second) for a, w in zip(p, measure_population(make_evaluator(name), p), strict=True)}
    for population in (first, first, second, first):
        assert measure_population(evaluator, population) == [fresh[a] for a in population]
        assert evaluator.cache.used_bytes <= budget


def tiny(*blocks: Block, shortcut: Shortcut = "sew", embed_dim: int = 8, time_steps: int = 2) -> Architecture:
    family = "spike_driven" if shortcut == "membrane" else "spikformer"
    stage = Stage(embed_dim=embed_dim, embedding=Embedding(stride=2), blocks=blocks)
    return Architecture(family=family, shortcut=shortcut, time_steps=time_steps, qkv_bias=shortcut == "sew", stages=(stage,))


BLOCK = Block(num_heads=1, mlp_ratio=1)
DEEPER = tiny(BLOCK, BLOCK)
DEEPER_MEMBRANE = tiny(BLOCK, BLOCK, shortcut="membrane")
WIDER = tiny(BLOCK, replace(BLOCK, mlp_ratio=2))


def test_modules_of_a_population_are_freed_without_garbage_collection() -> None:
    """The garbage collector is disabled during a search. With membrane shortcuts, siblings share neurons and linear layers."""
    evaluator = make_evaluator("spike_driven")
    population = (tiny(BLOCK, shortcut="membrane"), tiny(replace(BLOCK, mlp_ratio=2), shortcut="membrane"))
    built = [ref(module) for module, _ in calls(lambda: evaluator.calibrate(population, BATCHES[0]))]
    assert built
    with gc_disabled():
        evaluator.calibrate((DEEPER_MEMBRANE,), BATCHES[0])
        assert not [found for module in built if (found := module()) is not None]


def score_of(evaluator: TrieEvaluator, population: tuple[Architecture, ...], span: tuple[int, int] = (0, 25)) -> Callable[[], Any]:
    statistics = CalibratedStatistics.over([evaluator.calibrate(population, batch) for batch in BATCHES])
    return lambda: evaluator.score(population, statistics, span)


def test_each_node_runs_once_per_batch() -> None:
    """1 embedding; token and channel mixer of the first block; token mixer of the second; two channel mixers; two heads.

    Calibration leaves the heads out, for they do not normalise.
    """
    population = (DEEPER, WIDER, replace(DEEPER, time_steps=1))
    works = (
        (lambda: make_evaluator("sew").calibrate(population, BATCHES[0]), 0),
        (score_of(make_evaluator("sew"), population), 2),
    )
    for work, heads in works:
        called = calls(work)
        times = Counter(id(module) for module, _ in called)
        assert set(times.values()) == {1}
        assert sum(isinstance(module, SpikingPatchSplitting) for module, _ in called) == 1
        assert sum(type(module) is Linear for module, _ in called) == 2 * 4 + 3 * 2
        assert sum(isinstance(module, MeanHead) for module, _ in called) == heads


@pytest.mark.parametrize("kernels", ["native", "off"])
@pytest.mark.parametrize("shortcut", ["sew", "vanilla", "membrane"])
def test_statistics_do_not_depend_on_later_segments(shortcut: Shortcut, kernels: str) -> None:
    """A leaf runs only up to its last BatchNorm, an inner node completely; the results are bit-identical."""
    short, longer = tiny(BLOCK, shortcut=shortcut), tiny(BLOCK, BLOCK, shortcut=shortcut)
    name = {"sew": "sew", "vanilla": "vanilla", "membrane": "spike_driven"}[shortcut]
    with use_kernels(kernels):
        found = make_evaluator(name).calibrate((short,), BATCHES[0])
        beside = make_evaluator(name).calibrate((short, longer), BATCHES[0])
    assert len(found) == 3
    assert all(np.array_equal(values, beside[key]) for key, values in found.items())


def test_calibration_does_not_run_layers_after_the_last_normalisation() -> None:
    """LIF layers: 5 in the embedding, 7 in each block except the last of a candidate; one more of a sibling."""
    for population, more in (((DEEPER,), 0), ((DEEPER, WIDER), 1), ((DEEPER, tiny(BLOCK)), 0)):
        called = calls(lambda population=population: make_evaluator("sew").calibrate(population, BATCHES[0]))  # type: ignore[misc]
        assert sum(type(module) is LIF for module, _ in called) == 5 + 7 + 7 - 1 + more


def test_the_first_convolution_of_a_still_image_runs_for_one_step() -> None:
    """Its output is the same at every step."""
    images = make_evaluator("sew").search.batch((0, 25)).images.permute(0, 2, 3, 1)[None]
    called = calls(score_of(make_evaluator("sew"), (DEEPER,)))
    entered = [args[0] for module, args in called if type(module) is Conv]
    assert [tuple(x.shape[:2]) for x in entered] == [(1, 25), (3, 25), (3, 25), (3, 25), (3, 25)]
    assert torch.equal(entered[0], images)


def test_frames_are_convolved_at_every_step() -> None:
    called = calls(score_of(make_evaluator("events"), (replace(DEEPER, qkv_bias=False),)))
    assert next(args[0] for module, args in called if type(module) is Conv).shape == (3, 25, 8, 8, 2)


def test_cached_nodes_do_not_run_again() -> None:
    """Prefixes are cached, last blocks and heads are not: only the two nodes of the last block run after the cached first block."""
    evaluator = make_evaluator("sew")
    again = score_of(evaluator, (DEEPER,))
    assert executed_nodes(again) == 4
    assert executed_nodes(again) == 2
    assert not [module for module, _ in calls(again) if isinstance(module, SpikingPatchSplitting)]
    other = score_of(evaluator, (WIDER,))
    assert executed_nodes(other) == 1 + 1


def test_without_a_cache_every_node_runs_again() -> None:
    again = score_of(make_evaluator("sew", cache=ByteBudgetCache(0)), (DEEPER,))
    assert [executed_nodes(again) for _ in range(2)] == [4, 4]


def test_calibrating_again_changes_no_score() -> None:
    """Both jobs use the same modules; scoring uses the given statistics, not those of the last calibrated batch."""
    evaluator = make_evaluator("sew", cache=ByteBudgetCache(0))
    score = score_of(evaluator, (DEEPER, WIDER))
    before = score()
    evaluator.calibrate((DEEPER, WIDER), BATCHES[0])
    assert score() == before


def test_results_are_cached_by_batch() -> None:
    evaluator = make_evaluator("sew")
    score_of(evaluator, (DEEPER,))()
    assert executed_nodes(score_of(evaluator, (DEEPER,), (0, 9))) == 4


def linear_layers_of_a_batch(name: str, population: tuple[Architecture, ...]) -> int:
    """Return the number of linear layers before the heads that run for one batch, each at most once."""
    times = numbers_of_calls(Linear, score_of(make_evaluator(name), population))
    assert set(times) == {1}
    return len(times)


def with_groups(**groups: NeuronOverride) -> Block:
    return replace(BLOCK, groups=NeuronGroups(**groups))


SLOW = NeuronOverride(tau=3)


def test_siblings_share_their_first_linear_layers() -> None:
    """4 linear layers of attention and 2 of the MLP; a sibling adds those after the first different neurons."""
    assert linear_layers_of_a_batch("sew", (tiny(BLOCK),)) == 6
    assert linear_layers_of_a_batch("sew", (tiny(BLOCK), tiny(with_groups(q=SLOW)))) == 6 + 1 + 2  # projection and MLP; not q, k, v
    assert linear_layers_of_a_batch("sew", (tiny(BLOCK), tiny(with_groups(fc1=SLOW)))) == 6 + 1  # fc2
    assert linear_layers_of_a_batch("sew", (tiny(BLOCK), tiny(replace(BLOCK, mlp_ratio=2)))) == 6 + 2
    sdsa_2 = Block(token_mixer="sdsa_2", mlp_ratio=1)
    assert (
        linear_layers_of_a_batch("spike_driven", (tiny(BLOCK, shortcut="membrane"), tiny(sdsa_2, shortcut="membrane"))) == 6 + 1 + 2
    )


def calls_of(functions: dict[str, Callable[..., Any]], work: Callable[[], Any]) -> Counter[str]:
    """Count calls of functions by the interpreter's profile events, because hooks of modules would prevent fusion."""
    names, times = {function.__code__: name for name, function in functions.items()}, Counter[str]()
    sys.setprofile(
        lambda frame, event, _arg: times.update([names[frame.f_code]] if event == "call" and frame.f_code in names else [])
    )
    try:
        work()
    finally:
        sys.setprofile(None)
    return times


@pytest.mark.skipif(library("lif") is None or library("sparse_conv") is None, reason="no C compiler here")
def test_linear_layers_are_fused_with_their_neurons_unless_siblings_share_them() -> None:
    """Without siblings all layers are fused. With a sibling, q, k and v run once and are not fused, projections and MLPs are."""
    functions: dict[str, Callable[..., Any]] = {"fused": linear_lif.linear_lif, "separate": Linear.forward}
    evaluator, block = make_evaluator("sew", cache=ByteBudgetCache(0)), replace(BLOCK, mlp_ratio=2)
    one, other = (tiny(b, embed_dim=16) for b in (block, replace(with_groups(q=SLOW), mlp_ratio=2)))
    for population, own, shared_nodes in (((one,), 6, 0), ((one, other), 3 + 3, 3)):
        score = score_of(evaluator, population)
        score()  # the operator coverage check sees every operation
        assert calls_of(functions, score) == Counter({"fused": own, "separate": shared_nodes})


def test_with_membrane_shortcuts_siblings_share_linear_layers_only_after_equal_neurons() -> None:
    def both(**groups: NeuronOverride) -> int:
        return linear_layers_of_a_batch(
            "spike_driven", (tiny(BLOCK, shortcut="membrane"), tiny(with_groups(**groups), shortcut="membrane"))
        )

    assert both(q=SLOW) == 6 + 1 + 2
    assert both(token_input=SLOW) == 6 + 4 + 2
    assert both(channel_input=SLOW) == 6 + 2
    assert both(token_input=NeuronOverride(v_threshold=1.0)) == 6


def test_measurements_of_siblings_with_shared_layers_equal_separate_measurements() -> None:
    names = ("token_input", "q", "k", "v", "attention", "channel_input", "fc1")
    population = [tiny(with_groups(**{name: SLOW}), shortcut="membrane") for name in names]
    population += [tiny(Block(token_mixer=mixer, mlp_ratio=1), shortcut="membrane") for mixer in ("sdsa_1", "sdsa_2")]
    population += [tiny(replace(BLOCK, neuron=Neuron(v_threshold=v)), shortcut="membrane") for v in (0.5, 1.0)]
    evaluator = make_evaluator("spike_driven")
    assert measure_population(evaluator, population) == [measure_alone(evaluator, a) for a in population]


@pytest.mark.parametrize("name", slow_except(["sew", "spike_driven", "e_spikeformer", "e_spikeformer large"], FAMILIES))
def test_statistics_equal_those_of_a_separately_calibrated_model(name: str) -> None:
    evaluator = make_evaluator(name)
    population = tuple(population_of(evaluator, 2))
    trie = Trie(population)
    found = CalibratedStatistics.over([evaluator.calibrate(population, batch) for batch in BATCHES])
    assert found.batches == 2
    for architecture, path in trie.paths.items():
        model = calibrated(evaluator, architecture)
        for key in path:
            node = trie.nodes[key]
            if node.name == HEAD:
                assert key not in found.statistics
            else:
                assert torch.equal(torch.from_numpy(found.statistics[key]), read_statistics(model.get_submodule(node.name)))


def test_trie_evaluation_does_not_change_the_supernet() -> None:
    evaluator = make_evaluator("meta_spikeformer")
    before = {name: p.clone() for name, p in evaluator.supernet.named_parameters()}
    measure_population(evaluator, population_of(evaluator))
    assert all(torch.equal(p, before[name]) for name, p in evaluator.supernet.named_parameters())
    assert evaluator.supernet.state_dict().keys() == before.keys()


def test_an_operation_without_a_rule_is_an_error() -> None:
    def exponential_of_mlp(module: nn.Module, _args: Any, out: Tensor) -> Tensor | None:
        return torch.exp(out) if isinstance(module, MLP) else None

    handle = register_module_forward_hook(exponential_of_mlp)  # type: ignore[arg-type]  # a hook may return an output
    try:
        with pytest.raises(UnknownOperationError, match=r"stages\.0\.blocks\.0\.channel.*exp"):
            score_of(make_evaluator("sew"), (DEEPER,))()
    finally:
        handle.remove()


def test_an_empty_population_runs_nothing() -> None:
    called: list[Any] = []
    assert calls(lambda: called.extend(measure_population(make_evaluator("sew"), []))) == []
    assert called == []


def test_progress_is_reported_for_every_shard() -> None:
    """Two calibration batches and 25 images in shards of at most 9."""
    reported: list[tuple[int, int]] = []
    evaluator = replace(
        make_population_evaluator(Serial(state=make_evaluator("sew"))),
        progress=lambda done, architecture_of: reported.append((done, architecture_of)),
    )
    list(evaluator([DEEPER]))
    assert reported == [(i, 5) for i in range(1, 6)]
    assert SEARCH == 25


@dataclass(frozen=True)
class Sized:
    """A result with a given number of bytes."""

    nbytes: int


@pytest.mark.parametrize("budget", [0, 3, 50, 150, 1 << 20])
def test_every_pass_returns_the_result_of_every_node(budget: int) -> None:
    """Also if a stream is cached but its result was evicted or did not fit."""
    cache, trie = ByteBudgetCache(budget), Trie([DEEPER, WIDER])

    def run(_node: Node, _inputs: tuple[Any, ...], _shared: SharedResults) -> tuple[Tensor, Sized]:
        return torch.ones(16), Sized(100)

    for number in range(4):
        depth_first = DepthFirstPass(cache=cache, part=("pass",), run=run, share=lambda _node: SharedResults(()))
        assert set(depth_first.run_from(trie.roots.values(), lambda: (torch.zeros(1),))) == set(trie.nodes)
        cache.next_generation()
        cache.put(("something else", number), None, 40)
