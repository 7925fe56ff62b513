"""Where the values of a forward pass come from: from weights alone or from the batch, and in units of which scale.

Spikes times one constant are spikes for the next layer, because the constant merges into its weights. To recognise them, the scale
of each tensor is followed through the operators: `s` in `x = s n`, with whole numbers `n`. A scale is a hypothesis. `magnitudes`
verifies it by the values, so that a wrong one can only make values real.

Tensors are known by the address of their storage, which all views share. Every operator records its results, so that an address
that memory of another tensor had before is never mistaken for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autospike.kernels.input_values import LIMIT

Source = Literal["weights", "batch"]

# Results of neurons: a unit of which all values are multiples is sought among fractions of the smallest value with these
# denominators, and values are at most this multiple of it. Real values do not pass by chance.
DENOMINATORS = range(1, 9)
MOST_LEVELS = 64
# Rounding errors of a few operations on values of a type, as a multiple of its machine epsilon.
ROUNDINGS = 16
LARGEST_ERROR = 0.05

# Operators of one tensor that move its values.
MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "expand",
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "unbind",
        "split",
        "split_with_sizes",
        "squeeze",
        "unsqueeze",
        "repeat",
        "index_select",
        "roll",
        "flip",
        "unfold",
    ]
)
# Operators whose results have the scale of their inputs.
KEEPS_SCALE = MOVES | frozenset(
    [
        "add",
        "sub",
        "rsub",
        "neg",
        "abs",
        "sum",
        "cat",
        "stack",
        "clone",
        "copy",
        "_to_copy",
        "index",
        "gather",
        "im2col",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "where",
        "constant_pad_nd",
        "relu",
        "clamp",
        "clamp_min",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "amax",
        "lift_fresh_copy",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "masked_fill",
        "as_strided",
        "detach",
        "alias",
        "index_put",
        "slice_scatter",
        "select_scatter",
    ]
)
PRODUCTS = frozenset(("mul", "mm", "bmm", "mv"))
CONSTANTS = frozenset(["zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"])
RANDOM = ("rand", "bernoulli", "normal", "multinomial", "poisson", "exponential", "uniform")


@dataclass
class Provenance:
    """Sources and scales of tensors, by the address of their storage.

    Attributes:
        sources: Where the values come from.
        scales: The constant that all values are whole multiples of, where it is not 1.
    """

    sources: dict[int, Source] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)

    def source(self, x: Tensor) -> Source | None:
        """Return where the values of `x` come from, or None if no operator made them.

        Args:
            x: A tensor of the running batch.
        """
        return self.sources.get(address(x))

    def scale(self, x: Tensor) -> float:
        """Return the constant that the values of `x` are expected to be whole multiples of.

        Args:
            x: A tensor of the running batch.
        """
        return self.scales.get(address(x), 1.0)

    def set_batch(self, result: Any, scale: float = 1.0) -> None:
        """Record that tensors depend on the batch.

        Args:
            result: Tensors, in any nesting.
            scale: Their scale.
        """
        for x in _tensors(result):
            self._set(x, "batch", scale)

    def record(self, operator: str, args: Sequence[Any], result: Any, *, is_weight: Any) -> None:
        """Record the results of an operator.

        Args:
            operator: Its name.
            args: Its positional arguments.
            result: What it returned.
            is_weight: Called with an argument; whether it does not depend on the batch.
        """
        inputs = _tensors(args)
        constants = operator in CONSTANTS or all(map(is_weight, inputs))
        source: Source = "weights" if constants and not any(word in operator for word in RANDOM) else "batch"
        scale = self._scale_of_result(operator, args, is_weight) if source == "batch" else 1.0
        before = {address(x) for x in inputs}
        in_place = bool(inputs) and any(x is inputs[0] for x in _tensors(result))
        for x in _tensors(result):
            if address(x) not in before or (in_place and x is inputs[0]):
                self._set(x, source, scale)

    def _set(self, x: Tensor, source: Source, scale: float) -> None:
        where = address(x)
        if where:
            self.sources[where] = source
            self.scales.pop(where, None)
            if scale != 1 and math.isfinite(scale) and scale:
                self.scales[where] = scale

    def _scale_of_result(self, operator: str, args: Sequence[Any], is_weight: Any) -> float:
        """The scale of a result that depends on the batch."""
        if operator in PRODUCTS:
            return math.prod(self._factor(x, operator, is_weight) for x in args[:2])
        if operator == "div":
            divisor = constant(args[1]) if is_weight(args[1]) else None
            return self._factor(args[0], operator, is_weight) / divisor if divisor else 1.0
        if operator.startswith("avg_pool"):
            return self.scale(args[0]) / _window(int(operator[-2]), *args[1:])
        if operator == "_adaptive_avg_pool2d" or operator == "_adaptive_avg_pool3d":
            return self.scale(args[0]) / _adaptive_window(args[0], args[1])
        if operator in KEEPS_SCALE:
            return self._common_scale([x for x in _tensors(args) if not is_weight(x)])
        return 1.0

    def _factor(self, x: Any, operator: str, is_weight: Any) -> float:
        """The scale that one factor gives to a product."""
        if not is_weight(x):
            return self.scale(x)
        value = constant(x) if operator in ("mul", "div") else None
        return 1.0 if value is None else value

    def _common_scale(self, inputs: Sequence[Tensor]) -> float:
        """The smallest scale: of sums of spikes in several scales it is the unit, if the others are multiples of it."""
        return min((self.scale(x) for x in inputs if x.is_floating_point()), key=abs, default=1.0)


def address(x: Tensor) -> int:
    """Return the address of the storage of a tensor; 0 if it has none, as a sparse tensor.

    Args:
        x: The tensor.
    """
    return 0 if x.is_meta or x.layout != torch.strided else x.untyped_storage().data_ptr()


def constant(x: Any) -> float | None:
    """Return the one number that a factor consists of, or None if it has several.

    Args:
        x: A number or a tensor.
    """
    if not isinstance(x, Tensor):
        return float(x) if isinstance(x, int | float) else None
    if x.is_meta or not x.numel() or x.is_complex():
        return None
    first = x.reshape(-1)[0]
    return float(first) if x.numel() == 1 or bool((x == first).all()) else None


def magnitudes(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return the absolute values of `x` in units of its scale; where these are no whole numbers, the values are real.

    Args:
        x: The input of an operation.
        scale: As `Provenance.scale` returns it.

    Returns:
        Whole numbers where all values are whole multiples of `scale`, up to rounding; otherwise `abs(x)`.
    """
    if scale != 1 and x.is_floating_point():
        levels = (x.double() / scale).abs()
        whole = levels.round()
        error = (ROUNDINGS * torch.finfo(x.dtype).eps * whole.clamp(min=1)).clamp(max=LARGEST_ERROR)
        if bool(((levels - whole).abs() <= error).all()) and bool((whole < LIMIT).all()):
            return whole.float()
    return x.abs() if x.is_floating_point() or x.dtype in SIGNED else x


SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def unit_of(x: Tensor) -> float:
    """Return the unit of what neurons fire: 1 for whole numbers, `s` for values 0, s, 2 s and so on, and 1 for real values.

    Args:
        x: The result of a layer of neurons.
    """
    if not x.is_floating_point() or x.is_meta:
        return 1.0
    values = x.double().abs()
    fired = values[values > 0]
    if not fired.numel() or bool((fired == fired.round()).all()) or not bool(torch.isfinite(fired).all()):
        return 1.0
    smallest = float(fired.min())
    for parts in DENOMINATORS:
        levels = fired * (parts / smallest)
        error = ROUNDINGS * torch.finfo(x.dtype).eps * levels
        if float(levels.max()) <= MOST_LEVELS and bool(((levels - levels.round()).abs() <= error).all()):
            return smallest / parts
    return 1.0


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _window(dims: int, kernel: Sequence[int], *options: Any) -> float:
    """What an average pooling divides by, if it is one number: (stride, padding, ceil_mode, count_include_pad, divisor)."""
    defaults: tuple[Any, ...] = (None, 0, False, True, None)
    _stride, padding, ceil_mode, include_pad, divisor = (*options, *defaults[len(options) :])
    if divisor:
        return float(divisor)
    padded = any(padding) if isinstance(padding, Iterable) else bool(padding)
    if ceil_mode or (padded and not include_pad):
        return 1.0
    sizes = list(kernel) * (dims if len(kernel) == 1 else 1)
    return float(math.prod(sizes))


def _adaptive_window(x: Tensor, outputs: Sequence[int]) -> float:
    """What an adaptive average pooling divides by, if its windows have one size."""
    size = x.shape[-len(outputs) :]
    if any(length % out for length, out in zip(size, outputs, strict=True)):
        return 1.0
    return float(math.prod(length // out for length, out in zip(size, outputs, strict=True)))
