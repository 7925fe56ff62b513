"""Operations counted where they happen, in the forward pass that also gives the accuracy.

Layers that have a rule are hooked. Around them, during the first batch, every operation that torch runs is looked at: one that no
rule covers is counted by what it is, free for a reason that is named, or unknown; it is never silently zero. Only if something was
counted in that way does the second look go on in later batches; in this package's models there is nothing, and they run at speed.
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
from autospike.counting.coverage import OperatorCoverage, numbered
from autospike.counting.input_values import InputReader
from autospike.counting.layers import RULES, Rule
from autospike.counting.operations import Batch, storages
from autospike.energy.operations import Operations
from autospike.energy.totals import LayerTotal
from autospike.nn.neuron import LIF

# Counts of the same forward differ between versions; scores are compared within one.
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a network, counted by itself: its name there, whether neurons have fired before it, what reads values for all parts
    that share tensors, and its modules by name, if they are known."""

    name: str = ""
    behind_neurons: bool = False
    read: InputReader = field(default_factory=InputReader)
    named: dict[str, nn.Module] | None = None


@dataclass(kw_only=True)
class Counter:
    """Totals by operation. Run each batch in `with counter.watch(model, ...)`, then read `operations`.

    Args:
        strict: an operation without a rule is an error, not a line in the report.
    """

    strict: bool = True
    settled: bool = False
    """Whether every operation was looked at before, and nothing was counted outside layers with rules."""
    tallies: dict[str, list[OperationAccumulator]] = field(default_factory=dict)
    free: Frequencies[str] = field(default_factory=Frequencies)
    unknown: Frequencies[str] = field(default_factory=Frequencies)
    images: int = 0

    @contextmanager
    def watch(self, model: nn.Module, *, images: int, time_steps: int, part: Part | None = None) -> Iterator[None]:
        """Count what `model` does with one batch: everything that runs in the block is taken to be of the model.

        Args:
            images: of the batch.
            time_steps: T of what runs outside layers with rules.
            part: which part of a network `model` is, if it is not the whole.

        Raises:
            UnknownOperationError: in strict mode, as soon as the operation runs.
        """
        part, calls = part or Part(), Frequencies[str]()
        named = part.named or dict(model.named_modules(prefix=part.name))
        with ExitStack() as stack:
            if not self.settled:
                stack.enter_context(self._second_look(named, part, Batch(images=images, time_steps=time_steps, read=part.read)))
            for name, module in named.items():
                if isinstance(module, LIF):
                    stack.callback(setattr, module, "counted", module.counted)
                    module.counted = part.read.spikes
                if type(module) not in RULES:
                    continue
                hook = partial(self._count_layer, name, RULES[type(module)], part.read, calls)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield
        self.images += images

    def operations(self) -> Operations:
        """Means over the images, in the order in which operations run.

        Raises:
            ValueError: no batch was counted.
        """
        if not self.images:
            raise ValueError("no batch was counted: call the model inside `with counter.watch(model, ...)` first")
        counts = tuple(total.count(self.images) for total in self.totals())
        return Operations(images=self.images, counts=counts, free=dict(self.free), unknown=dict(self.unknown))

    def totals(self) -> tuple[LayerTotal, ...]:
        """Sums over the images, in the order in which operations run."""
        return tuple(tally.total() for tallies in self.tallies.values() for tally in tallies)

    def _add(self, name: str, tallies: list[OperationAccumulator]) -> None:
        held = self.tallies.setdefault(name, tallies)
        if held is not tallies:
            for total, new in zip(held, tallies, strict=True):
                total.add(new)

    def _count_layer(
        self, name: str, rule: Rule, read: InputReader, calls: Frequencies[str], module: nn.Module, args: Any, kwargs: Any
    ) -> None:
        called, entering = numbered(name, calls), {key: value for key, value in kwargs.items() if key != "lif"}
        with torch.no_grad():
            self._add(called, rule(called, read, module, *args, **entering))

    @contextmanager
    def _second_look(self, named: dict[str, nn.Module], part: Part, batch: Batch) -> Iterator[None]:
        """Watch every operation of one batch, and settle whether that was needed."""
        model = next(iter(named.values()))
        batch.weights = storages(chain(model.parameters(), model.buffers()))
        look = OperatorCoverage(
            named,
            batch,
            strict=self.strict,
            behind_neurons=part.behind_neurons,
            add=lambda tally: self._add(tally.layer, [tally]),
            reads_image=lambda layer: self.tallies[layer][0].reads == "image" if layer in self.tallies else None,
        )
        with look.on():
            yield
        self.settled = not look.counted
        self.free |= look.free
        self.unknown |= look.unknown
