"""Operator coverage check: every torch operator that a model runs outside layers with rules, and the layer in which it runs."""

from __future__ import annotations

from collections import Counter as Frequencies
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from autospike.counting.accumulator import OperationAccumulator
from autospike.counting.layer_rules import LAYER_RULES
from autospike.counting.neuron_rules import NEURON_RULES
from autospike.counting.operator_rules import (
    FREE_REASONS,
    OPERATOR_RULES,
    BatchContext,
    count_einsum,
    dot_product,
    free_reason,
    image_operand,
    is_composite,
    is_constant_over_time,
    operator_name,
    sum_of_spikes,
)
from autospike.counting.provenance import unit_of
from autospike.counting.weighted import POOLS, SUMS, Weighted, WeightedValues, adds_parts, summed_dims
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF
from autospike.nn.regions import Uncounted

# The neuron classes of spikingjelly have no common base class.
NEURON_LAYERS: tuple[type[nn.Module], ...] = (
    LIF,
    *(kind for kind in vars(neuron).values() if isinstance(kind, type) and issubclass(kind, nn.Module)),
)
NEURONS = "neurons"
NORMALISATION = "normalisation, which folds into weights"
BOXES = "arithmetic on boxes, and interpolation of features"
# Inside neurons of other code, element-wise operators are free. These are not: products with weights, and statistics of the input.
COUNTED_IN_NEURONS = frozenset(
    [
        "mm",
        "bmm",
        "mv",
        "addmm",
        "baddbmm",
        "convolution",
        "native_batch_norm",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "_native_batch_norm_legit",
        "native_layer_norm",
        "native_group_norm",
    ]
)
# Operators that make spikes of real values. Those of the second kind also compare and convert spikes.
THRESHOLDS = frozenset(("ge", "gt", "le", "lt", "heaviside", "sign"))
THRESHOLDS_OF_REAL_VALUES = frozenset(("eq", "ne", "_to_copy"))


class UnknownOperationError(RuntimeError):
    """An operator ran that has no rule, so that its cost is unknown."""


def numbered(name: str, calls: Frequencies[str]) -> str:
    """Return `name` for the first call of a layer in a forward pass, `name#2` for the second, and so on.

    Args:
        name: The name of the layer.
        calls: Number of calls so far, by name; this call is added.
    """
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}#{calls[name]}"


def unnumbered(name: str) -> str:
    """Return the name of a layer without the number of the call.

    Args:
        name: Name of a layer, with `#` before the number of the call if it is called several times.
    """
    return name.partition("#")[0]


def _normalises_by_input(module: nn.Module) -> bool:
    """Whether batch normalisation uses statistics of its input."""
    return module.training or getattr(module, "running_mean", None) is None


@dataclass(frozen=True, kw_only=True)
class _ModuleInfo:
    """What the check knows of a module of the model.

    Attributes:
        name: Its path in the network.
        kind: The name of its class.
        covered: Whether its operators are counted by a rule of the layer, or free.
        neurons: Whether it is a layer of neurons of other code, whose weights are counted.
        free: Why its operators are free, if they are.
        weighted: Whether it is a linear layer or a convolution.
        max_pool: Whether it is a max-pooling of this package.
        encoder: Whether it encodes values as spikes.
    """

    name: str
    kind: str
    covered: bool
    neurons: bool
    free: str | None
    weighted: bool
    max_pool: bool
    encoder: bool

    @classmethod
    def of(cls, name: str, module: nn.Module, neurons: tuple[type[nn.Module], ...]) -> _ModuleInfo:
        """Describe a module; normalisation with statistics of its input does not fold and is not free."""
        is_neurons = isinstance(module, (*NEURON_LAYERS, *neurons))
        folds = isinstance(module, _BatchNorm) and not _normalises_by_input(module)
        free = NEURONS if is_neurons else NORMALISATION if folds else BOXES if isinstance(module, Uncounted) else None
        return cls(
            name=name,
            kind=type(module).__name__,
            covered=free is not None or type(module) in LAYER_RULES,
            neurons=is_neurons and not isinstance(module, LIF),
            free=free,
            weighted=isinstance(module, nn.Linear | _ConvNd),
            max_pool=isinstance(module, TimewiseMaxPool),
            encoder=type(module).__module__.startswith("spikingjelly.activation_based.encoding"),
        )


@dataclass
class _StillImageReaders:
    """Detects layers that read a still image.

    Their input is the same at every time step, or at every call, and no neuron fires before them. An input of zeros alone, such as
    a mask that is zero in this batch, is no evidence of an image.

    Attributes:
        inputs: The first input of each layer that was called before any neuron fired.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)

    def reads_image(self, layer: str, x: Tensor, *, time_steps: int, images: int, neurons_fired: bool) -> bool:
        """Return whether a layer reads a still image in this call.

        Args:
            layer: The name of the layer.
            x: Its input, `[T * B, ...]` or `[B * T, ...]`.
            time_steps: T.
            images: B.
            neurons_fired: Whether neurons fired before.
        """
        if not x.any():
            return False
        first = self.inputs.get(unnumbered(layer))
        if first is not None:
            return torch.equal(first, x)
        if not neurons_fired:
            self.inputs[unnumbered(layer)] = x
        return not neurons_fired and is_constant_over_time(x, time_steps, images)


class OperatorCoverageCheck(TorchDispatchMode):
    """Looks at every operator of one batch, and counts those that run outside layers with rules.

    Args:
        modules: The model first, then all its submodules, by name.
        batch: The size of the batch, and where weights are stored.
        strict: Whether an operator without a rule is an error.
        after_neurons: Whether the model is a segment of a network in which neurons fire before it.
        add: Called with what each operator counts.
        reads_image: Returns whether a layer of an earlier batch reads a still image, or None for a new layer.
        neurons: Classes of layers of neurons, in addition to those of this package and of spikingjelly.

    Attributes:
        counted: Whether an operator was counted.
        free: Number of free calls by reason.
        unknown: Number of calls without a rule, by layer and operator.
        thresholds: Modules that compare values of the batch with a threshold outside neurons, with their class.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        batch: BatchContext,
        *,
        strict: bool,
        after_neurons: bool,
        add: Callable[[OperationAccumulator], None],
        reads_image: Callable[[str], bool | None],
        neurons: Collection[type[nn.Module]] = (),
    ) -> None:
        super().__init__()
        self.counted = False
        self.thresholds: dict[str, str] = {}
        self.free, self.unknown = Frequencies[str](), Frequencies[str]()
        self._batch, self._strict, self._after_neurons = batch, strict, after_neurons
        self._add, self._reads_image = add, reads_image
        self._infos = {module: _ModuleInfo.of(name, module, tuple(neurons)) for name, module in modules.items()}
        self._path = [next(iter(self._infos.values()))]  # starts with the model: a caller may call its methods instead of itself
        self._covered_depth, self._neuron_depth = 0, 0
        # The storage of a weight that the model replaces must not be used again for other values while its address is known.
        self._weights = [x for module in self._infos for x in (*module.parameters(recurse=False), *module.buffers(recurse=False))]
        self._image_readers, self._calls = _StillImageReaders(), Frequencies[str]()
        self._weighted = WeightedValues()

    @property
    def reads_layers(self) -> bool:
        """Whether compiled kernels may run now, although the check does not see them; read by `kernels.operator.Library.supports`.

        They may in layers that are counted by a rule or free, and in max-pooling, which is free. Elsewhere, for example in a
        subclass without a rule, they would not be counted, so torch operators run instead.
        """
        return self._covered_depth > 0 or self._path[-1].max_pool

    @contextmanager
    def active(self) -> Iterator[None]:
        """Check every operator inside the block.

        Hooks of other code run inside the layer that they are registered on, so their operators belong to that layer.

        Yields:
            Nothing.
        """
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._enter).remove)  # global: runs before hooks of the module
            for module in self._infos:
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)  # runs after them
            stack.enter_context(_EinsumMode(self))
            stack.enter_context(self)
            yield

    def _enter(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook: push the module on the path."""
        info = self._infos.get(module)
        if info:
            if info.free == NORMALISATION and _normalises_by_input(module):  # the model switched it to training
                info = replace(info, covered=False, free=None)
            if info is self._path[0]:
                self._batch.provenance.set_batch([x for x in tree_leaves(args) if not self._batch.is_parameter(x)])
            self._path.append(info)
            norms = (self._infos[x] for x in args if isinstance(x, _BatchNorm) and x in self._infos)
            for inside in (info, *norms):  # neurons may run the normalisation that they are given as an argument
                if inside.free:
                    self.free[inside.free] += 1
            rule = NEURON_RULES.get(type(module))
            if rule and not self._covered_depth:
                with _disable_current_modes():
                    self._add_counted(rule(numbered(info.name, self._calls), self._batch, module, args[0]), args[0])
            self._covered_depth += info.covered
            self._neuron_depth += info.neurons and not rule

    def _leave(self, module: nn.Module, _args: Any, result: Any) -> None:
        """Forward hook: pop the module from the path, and record what it returns as values of the batch."""
        info = self._path.pop()
        if info.covered and result is not None:
            made = next((x for x in tree_leaves(result) if isinstance(x, Tensor)), None)
            with _disable_current_modes():
                scale = unit_of(made) if info.neurons and made is not None else 1.0
                self._batch.provenance.set_batch(result, scale)
        self._covered_depth -= info.covered
        self._neuron_depth -= info.neurons and type(module) not in NEURON_RULES

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ("prim", "profiler"):  # a tensor asks for its device; a name for the profiler, as in DataParallel
            return func(*args, **kwargs)
        if self._covered_depth and not self._neuron_depth:
            result = func(*args, **kwargs)
            self._batch.provenance.set_batch(result)
            return result
        name = operator_name(func)
        if name not in OPERATOR_RULES and name not in FREE_REASONS and is_composite(func):
            with self:  # inference mode does not decompose composite operators before they arrive here
                return func.decompose(*args, **kwargs)
        counted = False
        if not self._covered_depth or name in COUNTED_IN_NEURONS:
            counted = self._check(name, args, kwargs)  # before the operator runs: it may overwrite its input
        terms = self._terms_of_product(func, name, args) if name in ("mul", "div") and not counted else None
        result = func(*args, **kwargs)
        self._batch.provenance.record(name, args, result, is_weight=self._batch.is_weight)
        if terms is None:
            self._weighted.record(name, func, args, kwargs, result)
        else:
            self._weighted.set(result, terms)
        return result

    def _terms_of_product(self, func: Any, name: str, args: Any) -> tuple[Weighted, ...] | None:
        """Values and weights of a product that is not counted, because it scales values; None for another one."""
        if self._covered_depth:
            return None
        x, weight = args[:2]
        if name == "mul" and isinstance(weight, Tensor) and self._batch.is_weight(x):
            x, weight = weight, x
        if self._batch.is_weight(x) or not self._batch.is_weight(weight):
            return None
        return self._weighted.product(x, weight, in_place=func._schema.is_mutable)

    def count_einsum(self, equation: str, a: Tensor, b: Tensor) -> bool:
        """Count `torch.einsum` of weights and values by its labels.

        Args:
            equation: The equation.
            a: The first operand.
            b: The second operand.

        Returns:
            Whether that was possible.
        """
        if (self._covered_depth and not self._neuron_depth) or self._batch.is_weight(a) == self._batch.is_weight(b):
            return False
        with _disable_current_modes():
            found = count_einsum(self._batch, self._layer_name("einsum"), equation, a, b)
            if found is None:
                return False
            self._add_counted(found, b if self._batch.is_weight(a) else a)
        return True

    @contextmanager
    def covering(self) -> Iterator[None]:
        """Treat operators inside the block as counted.

        Yields:
            Nothing.
        """
        self._covered_depth, depth = self._covered_depth + 1, self._neuron_depth
        self._neuron_depth = 0
        try:
            yield
        finally:
            self._covered_depth -= 1
            self._neuron_depth = depth

    def _check(self, operator: str, args: Any, kwargs: Any) -> bool:
        """Count an operator, or record that it is free or unknown. Return whether it is counted."""
        inside = self._path[-1]
        if not inside.encoder and self._makes_spikes(operator, args, kwargs):
            self.thresholds[inside.name] = inside.kind
        rule = OPERATOR_RULES.get(operator)
        layer = self._layer_name(operator) if rule else ""
        found = rule(self._batch, layer, *args, **kwargs) if rule else None
        if found is not None:
            self._add_counted(found, image_operand(self._batch, operator, args))
            return True
        if self._check_weighted(operator, layer, args, kwargs):
            return True
        reason = free_reason(operator, self._batch, args)
        if reason is None:
            self._report_unknown(f"{self._path[-1].name or 'the model'}: {operator}")
        else:
            self.free[reason] += 1
        return False

    def _check_weighted(self, operator: str, layer: str, args: Any, kwargs: Any) -> bool:
        """Count the sum or mean of values times weights; a pooling or addition of them has no rule. Return False if it is free.

        Weights that are equal along what is added up scale the sum, which is free; the sum of the values is not.
        """
        terms, counted = self._weighted.of(args[0]) if args else (), False
        if not terms:
            return False
        if operator in ("add", "sub") and adds_parts(terms, self._weighted.of(args[1])):
            self._report_unknown(f"{self._path[-1].name or 'the model'}: {operator} of values times weights")
            return True
        dims = summed_dims(operator, args, kwargs) if operator in SUMS or operator in POOLS else ()
        if operator in POOLS and any(term.differs(dims) for term in terms):
            self._report_unknown(f"{self._path[-1].name or 'the model'}: {operator} of values times weights")
            return True
        for term in terms if operator in SUMS else ():
            rule = dot_product if term.differs(dims) else sum_of_spikes if operator == "sum" else None
            name = layer if layer and not counted else self._layer_name(operator)
            found = rule(self._batch, name, term.read()) if rule else None
            if found is not None:
                self._add_counted(found, term.read())
                counted = True
        return counted

    def _makes_spikes(self, operator: str, args: Any, kwargs: Any) -> bool:
        """Whether an operator compares values of the batch with a threshold, or rounds real ones by a conversion."""
        if operator in THRESHOLDS:
            return not self._batch.is_weight(args[0])
        if operator not in THRESHOLDS_OF_REAL_VALUES or self._batch.is_weight(args[0]) or not args[0].is_floating_point():
            return False
        to = kwargs.get("dtype")
        if operator == "_to_copy" and (to is None or to.is_floating_point or to.is_complex):
            return False
        with _disable_current_modes():
            levels = self._batch.levels(args[0])
            return bool((levels != levels.round()).any())

    def _add_counted(self, found: OperationAccumulator, x: Tensor | None) -> None:
        """Add what an operator or a layer of neurons counted.

        An operation that reads a still image is real, whatever the values are.

        Args:
            found: What was counted.
            x: The input that may be a still image.
        """
        self.counted = True
        reads_image = self._reads_image(found.layer)
        if reads_image is None and x is not None:
            fired = self._after_neurons or self.free[NEURONS] > 0
            reads_image = self._image_readers.reads_image(
                found.layer, x, time_steps=found.time_steps, images=self._batch.images, neurons_fired=fired
            )
        self._add(replace(found, operands=(), reads="image") if reads_image else found)

    def _layer_name(self, operator: str) -> str:
        """The path of the innermost module, followed by the operator unless the module is that operator, and by the call number."""
        inside = self._path[-1]
        name = inside.name if inside.name and inside.weighted else f"{inside.name}.{operator}".lstrip(".")
        return numbered(name, self._calls)

    def _report_unknown(self, name: str) -> None:
        if self._strict:
            raise UnknownOperationError(
                f"{name}: this operator has no rule, so its cost is unknown; give its layer a rule in "
                "autospike.counting.layer_rules.LAYER_RULES, or count with strict=False, which lists it"
            )
        self.unknown[name] += 1


class _EinsumMode(TorchFunctionMode):
    """Counts `torch.einsum` with weights before torch moves the dimensions of its operands, among which it loses time."""

    def __init__(self, check: OperatorCoverageCheck) -> None:
        super().__init__()
        self._check = check

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.einsum:
            args = (args[0], *tree_leaves(args[1:]))
            if _is_simple(args) and self._check.count_einsum(*args):
                with self._check.covering():
                    return func(*args, **kwargs)
        return func(*args, **kwargs)


def _is_simple(args: tuple[Any, ...]) -> bool:
    """Whether `torch.einsum` has an equation and two tensors, without an ellipsis, a diagonal or a sum of one tensor alone."""
    if len(args) != 3 or not isinstance(args[0], str) or not all(isinstance(x, Tensor) for x in args[1:]):
        return False
    left, arrow, output = args[0].replace(" ", "").partition("->")
    first, _, second = left.partition(",")
    shared = set(first) & set(second)
    distinct = all(len(labels) == len(set(labels)) == x.dim() for labels, x in zip((first, second), args[1:], strict=True))
    return bool(arrow) and "." not in left and distinct and set(first + second) - shared <= set(output)
