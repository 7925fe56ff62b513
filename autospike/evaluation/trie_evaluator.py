"""Trie evaluation: one depth-first pass of a batch through the trie of a population. Shared prefixes are computed once.

Measurements are bit-identical to those of each candidate by itself: a node runs the same operations on the same numbers, whichever
candidates share it.

Two things about a node may be in the cache from an earlier pass: its result (BatchNorm statistics, or operation counts and correct
predictions) and its output stream. A node whose result is cached runs only if a node behind it has to run and its stream is not
cached. Cached are results of prefixes that continue with another segment than a head, and their streams at the ends of blocks,
where the candidates of the next generation branch off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autospike.counting.counter import Counter, SegmentContext
from autospike.counting.input_values import InputStatisticsCache
from autospike.data.batches import FixedBatches, Span
from autospike.energy.counts import LayerCount
from autospike.energy.totals import LayerTotal
from autospike.evaluation.calibration import average, read_statistics, record_batch_statistics, write_statistics
from autospike.evaluation.node_modules import NodeModules
from autospike.evaluation.packing import Packed
from autospike.evaluation.trie import HEAD, Node, Trie
from autospike.memory.allocator import gc_disabled, retain_large_allocations, trim_memory
from autospike.memory.cache import ByteBudgetCache
from autospike.memory.mmap_tensor import MmapTensor
from autospike.models.contract import initial_stream
from autospike.nn.blocks import Residual
from autospike.nn.layers import SharedResults
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet, batch_norms
from autospike.tasks.classification import ConfidentSteps, classified_at_every_step, confident_at
from autospike.tasks.contract import MetricState
from autospike.tasks.registry import task_of

BYTES_PER_LAYER = 1000  # of a `NodeResult`: about twenty Python objects of 50 bytes
NO_STATISTICS = MmapTensor.of(torch.empty(0))

Population = tuple[Architecture, ...]
NodeStatistics = dict[str, NDArray[np.float32]]  # by node key; each as `calibration.read_statistics` returns it


@dataclass(frozen=True, kw_only=True)
class CalibratedStatistics:
    """BatchNorm statistics of every node, averaged over batches.

    Attributes:
        statistics: By node key.
        batches: Number of batches.
    """

    statistics: NodeStatistics
    batches: int

    @classmethod
    def over(cls, batches: Sequence[NodeStatistics]) -> CalibratedStatistics:
        """Average the statistics of batches, in their order.

        Args:
            batches: Statistics of every node by batch; at least one batch.

        Returns:
            The means.
        """
        averages = {key: average([torch.tensor(batch[key]) for batch in batches]) for key in batches[0]}
        return cls(statistics={key: values.numpy() for key, values in averages.items()}, batches=len(batches))

    def write(self, key: str, module: nn.Module) -> None:
        """Set the statistics of a node's module; nodes without BatchNorm have none.

        Args:
            key: Key of the node.
            module: The module of the node.
        """
        values = self.statistics.get(key)
        if values is not None:
            write_statistics(module, torch.tensor(values).to(next(module.parameters()).device), batches=self.batches)


@dataclass(frozen=True, kw_only=True)
class NodeResult:
    """What a node computed from some images. Results of disjoint images add up.

    Attributes:
        layers: Operations of each layer.
        params: Number of parameters.
        images: Number of images.
        metric_states: Predictions of a head, compared with the targets, by T.
        decoder_layers: Operations of each layer of a decoder by T: it runs anew for each T, so that its operations at a smaller T
            are not the first ones of those at a larger T.
        confident: When each image is confident enough to stop, by exit margin; of a head, if candidates have early exit.
    """

    layers: tuple[LayerTotal, ...]
    params: int
    images: int
    metric_states: Mapping[int, MetricState] = field(default_factory=dict)
    decoder_layers: Mapping[int, tuple[LayerTotal, ...]] = field(default_factory=dict)
    confident: Mapping[float, ConfidentSteps] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Approximate size in memory."""
        return BYTES_PER_LAYER * len(self.layers)

    def __add__(self, other: NodeResult) -> NodeResult:
        return NodeResult(
            layers=_added(self.layers, other.layers),
            params=self.params,
            images=self.images + other.images,
            metric_states={t: state + other.metric_states[t] for t, state in self.metric_states.items()},
            decoder_layers={t: _added(layers, other.decoder_layers[t]) for t, layers in self.decoder_layers.items()},
            confident={margin: steps + other.confident[margin] for margin, steps in self.confident.items()},
        )

    def counts_at(self, steps: int, images: int) -> tuple[LayerCount, ...]:
        """Return the operation counts at T = `steps`, as means over the images.

        Args:
            steps: A number of time steps, from 1 to that of the pass.
            images: Number of images of the pass.
        """
        if self.decoder_layers:
            return tuple(layer.count(images) for layer in self.decoder_layers[steps])
        return tuple(layer.count(images).first(steps) for layer in self.layers)

    def spikes_at(self, steps: int, images: int) -> float:
        """Return the spikes that layers read at T = `steps`, as a mean over the images; those of the form that always runs.

        Args:
            steps: A number of time steps, from 1 to that of the pass.
            images: Number of images of the pass.
        """
        layers = self.decoder_layers[steps] if self.decoder_layers else self.layers
        return sum(layer.spikes(images, steps) for layer in layers if layer.form in ("always", "fused"))


def _added(one: Sequence[LayerTotal], other: Sequence[LayerTotal]) -> tuple[LayerTotal, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


@dataclass(kw_only=True)
class TrieEvaluator:
    """Measures populations of subnets on batches, in one process.

    Attributes:
        supernet: The subnets' parameters.
        calibration: Images for the BatchNorm statistics. The cache holds results of one calibration protocol only, so an evaluator
            must always be given the same batches of them.
        search: Images for accuracy and operation counts.
        cache: Decoded images, results and streams of earlier passes, as far as they fit.
    """

    supernet: Supernet
    calibration: FixedBatches
    search: FixedBatches
    cache: ByteBudgetCache
    _prepared: _PreparedTrie | None = field(default=None, repr=False)
    _fully_covered: set[Any] = field(default_factory=set, repr=False)

    @property
    def time_steps(self) -> int:
        """T of every pass: the largest of the space."""
        return max(self.supernet.space.time_steps.values)

    @torch.no_grad()
    def calibrate(self, population: Population, span: Span) -> NodeStatistics:
        """Measure the BatchNorm statistics of every node on one batch.

        Args:
            population: The subnets.
            span: The batch: positions in the calibration images.

        Returns:
            Statistics of each node that has a BatchNorm, by node key.
        """

        def run(node: Node, inputs: tuple[Any, ...], shared: SharedResults) -> tuple[Tensor, MmapTensor]:
            if node.name == HEAD and node.architecture.decoder is None:  # has no BatchNorm, and nothing follows
                return inputs[0], NO_STATISTICS
            module = prepared.modules.of(node)
            if node.name == HEAD and not batch_norms(module):
                return inputs[0][0], NO_STATISTICS
            record_batch_statistics(module)
            if node.name == HEAD:
                stream = module(inputs[0], self.time_steps, self.calibration.size)
            elif isinstance(module, Residual):
                is_read = node.is_inner or node.architecture.decoder is not None
                stream = module(inputs[0], shared) if is_read else module.update_statistics(inputs[0], shared)
            else:
                stream = module(*inputs)
            return stream, MmapTensor.of(read_statistics(module))

        with gc_disabled():
            part = ("calibrate", span)
            prepared = self._prepare(population, part)
            prepared.calibrated.clear()
            found = self._pass(prepared, part, run, lambda: self.calibration.batch(span).images)
            return {key: values.array() for key, values in found.items() if values.shape.numel()}

    @torch.no_grad()
    def score(
        self, population: Population, calibrated: CalibratedStatistics, span: Span, exit_margins: Sequence[float] = ()
    ) -> dict[str, NodeResult]:
        """Count operations and correct predictions of every node on some images.

        Args:
            population: The subnets.
            calibrated: Statistics of all their nodes.
            span: Positions in the search images.
            exit_margins: The exit margins of classifiers with early exit.

        Returns:
            Results by node key.
        """

        def run(node: Node, inputs: tuple[Any, ...], shared: SharedResults) -> tuple[Tensor, NodeResult]:
            module, structure = prepared.modules.of(node), prepared.structure(node)
            prepared.calibrate(node, calibrated)
            if node.name == HEAD and node.architecture.decoder is not None:
                return self._score_decoder(node, structure, module, inputs[0], targets, start=span[0])
            counter = Counter(fully_covered=structure.kind in self._fully_covered)
            segment = SegmentContext(
                name=node.module_prefix, after_neurons=bool(node.parent), inputs=input_statistics, modules=structure.modules
            )
            with counter.watch(module, images=len(targets), time_steps=self.time_steps, segment=segment):
                output: Tensor = module(inputs[0], shared) if isinstance(module, Residual) else module(*inputs)
            if counter.fully_covered:
                self._fully_covered.add(structure.kind)
            return output, NodeResult(
                layers=counter.totals(),
                params=structure.params,
                images=len(targets),
                metric_states=classified_at_every_step(output, targets, span[0]) if node.name == HEAD else {},
                confident=confident_at(output, exit_margins, span[0]) if node.name == HEAD and exit_margins else {},
            )

        with gc_disabled():
            part = ("score", span)
            prepared, targets = self._prepare(population, part), self.search.targets(span)
            input_statistics = InputStatisticsCache()
            return self._pass(prepared, part, run, lambda: self.search.batch(span).images)

    def _score_decoder(
        self, node: Node, structure: _Structure, module: nn.Module, levels: Sequence[Tensor], targets: Any, *, start: int
    ) -> tuple[Tensor, NodeResult]:
        """Run a decoder for each T up to the largest of the space."""
        outputs, layers = {}, {}
        for steps in range(1, self.time_steps + 1):
            counter = Counter(fully_covered=structure.kind in self._fully_covered)
            segment = SegmentContext(name=node.module_prefix, after_neurons=True, modules=structure.modules)
            with counter.watch(module, images=len(targets), time_steps=steps, segment=segment):
                outputs[steps] = module(levels, steps, self.search.size)
            if counter.fully_covered:
                self._fully_covered.add(structure.kind)
            layers[steps] = counter.totals()
        metric_states = task_of(node.architecture.decoder).compare(list(outputs.values()), targets, start)
        result = NodeResult(
            layers=(),
            params=structure.params,
            images=len(targets),
            metric_states=dict(zip(outputs, metric_states, strict=True)),
            decoder_layers=layers,
        )
        return next(iter(outputs.values())), result

    def _prepare(self, population: Population, part: tuple[Any, ...]) -> _PreparedTrie:
        """The trie of a population with its modules; that of the last population is reused.

        Modules that the first pass needs are built here, before its large tensors are allocated: small allocations between large
        ones would fragment the heap.
        """
        if self._prepared is None or self._prepared.population != population:
            if self._prepared is None:
                trim_memory()
            self._prepared = None  # free the modules before new ones are built
            trie = Trie(population)
            self._prepared = _PreparedTrie(population=population, trie=trie, modules=NodeModules(self.supernet))
            self.cache.next_generation()
            for node in trie.nodes.values():
                if self.cache.get(("note", *part, node.key)) is None:
                    self._prepared.modules.of(node)
        return self._prepared

    def _pass(self, prepared: _PreparedTrie, part: tuple[Any, ...], run: RunNode[R], images: Callable[[], Tensor]) -> dict[str, R]:
        depth_first = DepthFirstPass(cache=self.cache, part=part, run=run, share=prepared.modules.shared_by_children)
        with retain_large_allocations():
            return depth_first.run_from(prepared.trie.roots.values(), lambda: initial_stream(images(), self.time_steps))


class Sized(Protocol):
    """The result of a node that can be cached."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""


R = TypeVar("R", bound=Sized)
# Runs a node on its inputs; returns its output and its result. The last argument holds results shared with its siblings.
RunNode = Callable[[Node, tuple[Any, ...], SharedResults], tuple[Tensor, R]]
Inputs = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class DepthFirstPass(Generic[R]):
    """One pass of a batch through a trie, which runs only nodes whose results or streams are missing.

    Attributes:
        cache: Results and streams.
        part: Prefix of cache keys: names the batch and the job.
        run: Runs a node.
        share: Returns the store for results that the children of a node share. It is dropped when they have run.
        results: Results so far, by node key.
    """

    cache: ByteBudgetCache
    part: tuple[Any, ...]
    run: RunNode[R]
    share: Callable[[Node], SharedResults]
    results: dict[str, R] = field(default_factory=dict)

    def run_from(self, roots: Iterable[Node], inputs: Inputs) -> dict[str, R]:
        """Run a trie.

        Args:
            roots: The roots.
            inputs: Returns the inputs of the roots. It is called at most once, and only if a root has to run.

        Returns:
            The result of every node, by its key.
        """
        once = cache(inputs)
        for root in roots:
            self._visit(root, once, SharedResults(()), ())
        return self.results

    def _visit(self, node: Node, inputs: Inputs, shared: SharedResults, levels: tuple[Inputs, ...]) -> None:
        """Run a node and those behind it. `levels` are the streams before it that a decoder reads."""
        output: Inputs = cache(partial(self._output, node, inputs, shared))
        result = self.cache.get(("note", *self.part, node.key))
        if result is None:
            output()
        else:
            self.results[node.key] = result
        shared_by_children = self.share(node)
        for child in node.children.values():
            below = (*levels, output) if child.follows_level else levels
            reads: Inputs = partial(_gathered, below) if child.reads_levels else output
            self._visit(child, reads, shared_by_children, below)

    def _output(self, node: Node, inputs: Inputs, shared: SharedResults) -> tuple[Tensor]:
        """The stream behind a node, from the cache or computed. A cached stream is of no use without the node's result."""
        packed: Packed | None = self.cache.get(("stream", *self.part, node.key)) if node.key in self.results else None
        if packed is not None:
            return (packed.unpacked(),)
        stream, result = self.run(node, inputs(), shared)
        self.results[node.key] = result
        if node.is_inner:
            self.cache.put(("note", *self.part, node.key), result, result.nbytes)
            if node.ends_block:
                packed = Packed.of(stream)
                self.cache.put(("stream", *self.part, node.key), packed, packed.nbytes)
        return (stream,)


def _gathered(levels: Sequence[Inputs]) -> tuple[list[Tensor]]:
    """The inputs of a decoder: the streams of all levels."""
    return ([level()[0] for level in levels],)


@dataclass(frozen=True, kw_only=True)
class _Structure:
    """Properties of a node's module.

    Attributes:
        kind: Decides which operations run; equal for modules that need one operator coverage check together.
        params: Number of parameters.
        modules: Inner modules by their names in the network.
    """

    kind: Any
    params: int
    modules: dict[str, nn.Module]

    @classmethod
    def of(cls, module: nn.Module, prefix: str) -> _Structure:
        parameters, modules = dict(module.named_parameters()), dict(module.named_modules(prefix=prefix))
        kind = tuple((name.removeprefix(prefix), type(inner)) for name, inner in modules.items()), tuple(parameters)
        return cls(kind=kind, params=sum(p.numel() for p in parameters.values()), modules=modules)


@dataclass(frozen=True, kw_only=True)
class _PreparedTrie:
    """The trie of a population, and the modules of its nodes.

    Attributes:
        population: The subnets.
        trie: Their trie.
        modules: The modules of its nodes.
        calibrated: Whose statistics each node's module has, by node key.
    """

    population: Population
    trie: Trie
    modules: NodeModules
    calibrated: dict[str, CalibratedStatistics] = field(default_factory=dict)
    _structures: dict[str, _Structure] = field(default_factory=dict)

    def structure(self, node: Node) -> _Structure:
        if node.key not in self._structures:
            self._structures[node.key] = _Structure.of(self.modules.of(node), node.module_prefix)
        return self._structures[node.key]

    def calibrate(self, node: Node, calibrated: CalibratedStatistics) -> None:
        """Set the statistics of a node's module, unless an earlier batch has."""
        if self.calibrated.get(node.key) is not calibrated:
            calibrated.write(node.key, self.modules.of(node))
            self.calibrated[node.key] = calibrated
