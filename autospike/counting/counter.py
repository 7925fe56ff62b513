"""Count operations during the forward pass that also measures the accuracy.

Layers that have a rule (`LAYER_RULES`) are counted by forward pre-hooks. During the first batch an operator coverage check looks at
every operator that torch runs outside of them: each is counted by a rule of its own, free for a named reason, or unknown; none is
silently ignored. The check stays on in later batches only if it counted something. In the models of this package it never does, so
later batches run at full speed.
"""

from __future__ import annotations

from collections import Counter as Frequencies
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from autospike.counting.accumulator import OperationAccumulator
from autospike.counting.coverage import OperatorCoverageCheck, numbered
from autospike.counting.input_values import InputStatisticsCache
from autospike.counting.layer_rules import LAYER_RULES, UNCOUNTED_ARGUMENTS, LayerRule
from autospike.counting.operator_rules import BatchContext, storage_pointers
from autospike.energy.operations import Operations
from autospike.energy.totals import LayerTotal
from autospike.nn.neuron import LIF

# Part of the protocol id: increase it when the counts of the same forward pass change.
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class SegmentContext:
    """Where in its network a segment is that is counted by itself.

    Attributes:
        name: Path of the segment in the network, a prefix of all layer names.
        after_neurons: Whether neurons fire before the segment.
        inputs: Statistics of inputs, shared by all segments that may read the same tensors.
        modules: The modules of the segment by their names in the network, if the caller has them already.
    """

    name: str = ""
    after_neurons: bool = False
    inputs: InputStatisticsCache = field(default_factory=InputStatisticsCache)
    modules: dict[str, nn.Module] | None = None


@dataclass(kw_only=True)
class Counter:
    """Totals of each operation over batches.

    Run each batch inside `with counter.watch(model, ...)`, then call `operations`.

    Attributes:
        strict: Whether an operator without a rule is an error, instead of an entry of `Operations.unknown`.
        fully_covered: Whether a coverage check found nothing to count outside layers with rules, so that it may be skipped.
        accumulators: Running totals by the name of the layer, in the order of execution.
        free: Number of calls that no convention counts, by reason.
        unknown: Number of calls without a rule, by layer and operator.
        images: Number of images that were counted.
        neurons: Classes of layers of neurons, in addition to those of this package and of spikingjelly.
        thresholds: Modules that compare values with a threshold outside neurons, with their class.
    """

    strict: bool = True
    fully_covered: bool = False
    neurons: tuple[type[nn.Module], ...] = ()
    thresholds: dict[str, str] = field(default_factory=dict)
    accumulators: dict[str, list[OperationAccumulator]] = field(default_factory=dict)
    free: Frequencies[str] = field(default_factory=Frequencies)
    unknown: Frequencies[str] = field(default_factory=Frequencies)
    images: int = 0

    @contextmanager
    def watch(self, model: nn.Module, *, images: int, time_steps: int, segment: SegmentContext | None = None) -> Iterator[None]:
        """Count what runs inside the block: one batch through `model`.

        Args:
            model: The model, or a segment of one.
            images: Number of images of the batch.
            time_steps: T of operators outside layers with rules.
            segment: Where `model` is in its network, if it is a segment.

        Yields:
            Nothing.

        Raises:
            UnknownOperationError: In strict mode, an operator without a rule runs.
        """
        segment, calls = segment or SegmentContext(), Frequencies[str]()
        modules = segment.modules or dict(model.named_modules(prefix=segment.name))
        with ExitStack() as stack:
            if not self.fully_covered:
                batch = BatchContext(images=images, time_steps=time_steps, inputs=segment.inputs)
                stack.enter_context(self._check_coverage(modules, batch, after_neurons=segment.after_neurons))
            for name, module in modules.items():
                if isinstance(module, LIF):
                    record = partial(segment.inputs.record, integers=module.neuron.levels > 1)
                    stack.callback(module.register_spike_count_hook(record).remove)
                if type(module) not in LAYER_RULES:
                    continue
                hook = partial(self._count_layer, name, LAYER_RULES[type(module)], segment.inputs, calls)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield
        self.images += images

    def operations(self) -> Operations:
        """Return means over the images, in the order of execution.

        Raises:
            ValueError: No batch was counted.
        """
        if not self.images:
            raise ValueError("no batch was counted: call the model inside `with counter.watch(model, ...)` first")
        counts = tuple(total.count(self.images) for total in self.totals())
        return Operations(images=self.images, counts=counts, free=dict(self.free), unknown=dict(self.unknown))

    def totals(self) -> tuple[LayerTotal, ...]:
        """Return sums over the images, in the order of execution."""
        return tuple(accumulator.total() for each in self.accumulators.values() for accumulator in each)

    def _add(self, name: str, new: list[OperationAccumulator]) -> None:
        """Add what one call of a layer counted to the running totals."""
        totals = self.accumulators.setdefault(name, new)
        if totals is not new:
            for total, accumulator in zip(totals, new, strict=True):
                total.add(accumulator)

    def _count_layer(
        self,
        name: str,
        rule: LayerRule,
        inputs: InputStatisticsCache,
        calls: Frequencies[str],
        module: nn.Module,
        args: Any,
        kwargs: Any,
    ) -> None:
        """Forward pre-hook of a layer with a rule; `args` and `kwargs` are the arguments of its forward."""
        layer = numbered(name, calls)
        kwargs = {key: value for key, value in kwargs.items() if key not in UNCOUNTED_ARGUMENTS}
        with torch.no_grad():
            self._add(layer, rule(layer, inputs, module, *args, **kwargs))

    @contextmanager
    def _check_coverage(self, modules: dict[str, nn.Module], batch: BatchContext, *, after_neurons: bool) -> Iterator[None]:
        """Run one batch under the operator coverage check."""
        model = next(iter(modules.values()))
        batch.weights = storage_pointers(chain(model.parameters(), model.buffers()))
        check = OperatorCoverageCheck(
            modules,
            batch,
            strict=self.strict,
            after_neurons=after_neurons,
            add=lambda accumulator: self._add(accumulator.layer, [accumulator]),
            reads_image=lambda layer: self.accumulators[layer][0].reads == "image" if layer in self.accumulators else None,
            neurons=self.neurons,
        )
        with check.active():
            yield
        self.fully_covered = not check.counted
        self.free |= check.free
        self.unknown |= check.unknown
        self.thresholds |= check.thresholds
