"""Walks a population's trie through a batch: what candidates share is computed once.

Every candidate gets what it would get alone, to the bit: a node runs the same operations on the same numbers whoever else passes
through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autospike.counting.counter import Counter, SegmentContext
from autospike.counting.input_values import InputStatisticsCache
from autospike.data.batches import FixedBatches, Span
from autospike.energy.totals import LayerTotal
from autospike.evaluation.calibration import install, mean, measuring, statistics
from autospike.evaluation.depth_first import DepthFirstPass, Run
from autospike.evaluation.node_modules import NodeModules
from autospike.evaluation.single import right_answers
from autospike.evaluation.trie import HEAD, Node, Trie
from autospike.memory.allocator import gc_disabled, retain_large_allocations, trim_memory
from autospike.memory.cache import ByteBudgetCache
from autospike.memory.mmap_tensor import MmapTensor
from autospike.models.contract import entering
from autospike.nn.blocks import Residual
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet

BYTES_PER_LAYER = 1000  # of what is noted: some twenty Python objects
NOTHING = MmapTensor.of(torch.empty(0))

Population = tuple[Architecture, ...]
Statistics = dict[str, NDArray[np.float32]]  # by node; see `calibration.statistics`


@dataclass(frozen=True, kw_only=True)
class CalibratedStatistics:
    """Statistics of every node, averaged over so many batches."""

    statistics: Statistics
    batches: int

    @classmethod
    def over(cls, of_batches: Sequence[Statistics]) -> CalibratedStatistics:
        """The average of batches, in their order."""
        stacked = {key: mean([torch.tensor(batch[key]) for batch in of_batches]) for key in of_batches[0]}
        return cls(statistics={key: values.numpy() for key, values in stacked.items()}, batches=len(of_batches))

    def install(self, node: str, module: nn.Module) -> None:
        """Give a node's module its statistics; one that does not normalise has none."""
        values = self.statistics.get(node)
        if values is not None:
            install(module, torch.tensor(values).to(next(module.parameters()).device), batches=self.batches)


@dataclass(frozen=True, kw_only=True)
class NodeResult:
    """What a node did with some images: operations and parameters; a head's right answers at T = 1, 2, ..."""

    layers: tuple[LayerTotal, ...]
    params: int
    images: int
    correct: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of memory, about."""
        return BYTES_PER_LAYER * len(self.layers)

    def __add__(self, other: NodeResult) -> NodeResult:
        layers = tuple(a + b for a, b in zip(self.layers, other.layers, strict=True))
        correct = tuple(a + b for a, b in zip(self.correct, other.correct, strict=True))
        return NodeResult(layers=layers, params=self.params, images=self.images + other.images, correct=correct)


@dataclass(kw_only=True)
class TrieEvaluator:
    """A supernet and its data, in one process, under one protocol: what is kept holds for one way to calibrate.

    Args:
        kept: what the next walks may need again, while there is room.
    """

    supernet: Supernet
    calibration: FixedBatches
    search: FixedBatches
    kept: ByteBudgetCache
    _grown: _Grown | None = field(default=None, repr=False)
    _settled: set[Any] = field(default_factory=set, repr=False)

    @property
    def time_steps(self) -> int:
        """Of every walk: the largest T of the space."""
        return max(self.supernet.space.time_steps.values)

    @torch.no_grad()
    def calibrate(self, population: Population, span: Span) -> Statistics:
        """Statistics of every node that normalises, from one batch of the calibration images."""

        def run(node: Node, *entering: Any) -> tuple[Tensor, MmapTensor]:
            if node.name == HEAD:  # it does not normalise, and nothing follows it
                return entering[0], NOTHING
            module = grown.modules.of(node)
            measuring(module)
            stream: Tensor = (
                module.update_statistics(*entering) if isinstance(module, Residual) and not node.goes_on else module(*entering)
            )
            return stream, MmapTensor.of(statistics(module))

        with gc_disabled():
            part = ("calibrate", span)
            grown = self._grow(population, part)
            grown.installed.clear()
            noted = self._walk(part, run, lambda: self.calibration.batch(span).images)
            return {key: values.array() for key, values in noted.items() if values.shape.numel()}

    @torch.no_grad()
    def score(self, population: Population, calibrated: CalibratedStatistics, span: Span) -> dict[str, NodeResult]:
        """What every node does with some images of the search split."""

        def run(node: Node, *entering: Any) -> tuple[Tensor, NodeResult]:
            module, found = grown.modules.of(node), grown.structure(node)
            grown.install(calibrated, node)
            counter = Counter(fully_covered=found.kind in self._settled)
            segment = SegmentContext(name=node.prefix, after_neurons=node.key not in roots, inputs=inputs, modules=found.named)
            with counter.watch(module, images=len(targets), time_steps=self.time_steps, segment=segment):
                leaving: Tensor = module(*entering)
            if counter.fully_covered:
                self._settled.add(found.kind)
            return leaving, NodeResult(
                layers=counter.totals(),
                params=found.params,
                images=len(targets),
                correct=tuple(right_answers(leaving, targets).tolist()) if node.name == HEAD else (),
            )

        with gc_disabled():
            part = ("score", span)
            grown, inputs, targets = self._grow(population, part), InputStatisticsCache(), self.search.targets(span)
            roots = {root.key for root in grown.trie.roots.values()}
            return self._walk(part, run, lambda: self.search.batch(span).images)

    def _grow(self, population: Population, part: tuple[Any, ...]) -> _Grown:
        """The trie of a population with its modules; the last one is remembered.

        What is new is built beforehand: little things that stay, made between large ones that go, would split their space.
        """
        if self._grown is None or self._grown.population != population:
            if self._grown is None:
                trim_memory()
            self._grown = None  # before there are two
            trie = Trie(population)
            self._grown = _Grown(population=population, trie=trie, modules=NodeModules(self.supernet))
            self.kept.turn()
            for node in trie.nodes.values():
                if self.kept.get(("note", *part, node.key)) is None:
                    self._grown.modules.of(node)
        return self._grown

    def _walk(self, part: tuple[Any, ...], run: Run, images: Callable[[], Tensor]) -> dict[str, Any]:
        assert self._grown is not None
        traversal = DepthFirstPass(kept=self.kept, part=part, run=run, finished=self._grown.modules.forget)
        with retain_large_allocations():
            return traversal.through(self._grown.trie.roots.values(), lambda: entering(images(), self.time_steps))


@dataclass(frozen=True, kw_only=True)
class _Structure:
    """Of a node's module: what decides which operations run, how many parameters it has, its modules by name in the network."""

    kind: Any
    params: int
    named: dict[str, nn.Module]

    @classmethod
    def of(cls, module: nn.Module, prefix: str) -> _Structure:
        parameters, named = dict(module.named_parameters()), dict(module.named_modules(prefix=prefix))
        kind = tuple((name.removeprefix(prefix), type(inner)) for name, inner in named.items()), tuple(parameters)
        return cls(kind=kind, params=sum(p.numel() for p in parameters.values()), named=named)


@dataclass(frozen=True, kw_only=True)
class _Grown:
    """A population's trie, and what its nodes' modules are; `installed`: the statistics that they have."""

    population: Population
    trie: Trie
    modules: NodeModules
    installed: dict[str, CalibratedStatistics] = field(default_factory=dict)
    _structures: dict[str, _Structure] = field(default_factory=dict)

    def structure(self, node: Node) -> _Structure:
        if node.key not in self._structures:
            self._structures[node.key] = _Structure.of(self.modules.of(node), node.prefix)
        return self._structures[node.key]

    def install(self, calibrated: CalibratedStatistics, node: Node) -> None:
        """Give a node's module its statistics, unless it has them from an earlier batch."""
        if self.installed.get(node.key) is not calibrated:
            calibrated.install(node.key, self.modules.of(node))
            self.installed[node.key] = calibrated
