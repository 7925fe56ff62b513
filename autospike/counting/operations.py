"""Rules of torch's own operations: what a model does outside the layers that have rules of their own.

An operation is counted (`COUNTED`), free by every convention (`FREE`, with the reason), or unknown. Values are told from weights by
their storage. The first dimension of what enters is taken to be time x batch; where it is not a multiple of that, the operation
is taken to happen once, after time was averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autospike.counting.accumulator import Operand, OperationAccumulator
from autospike.counting.fan_out import fan_out
from autospike.counting.input_values import InputReader
from autospike.energy.totals import REAL


@dataclass(kw_only=True)
class Batch:
    """What runs: how many images at how many steps, and where the model keeps its weights."""

    images: int
    time_steps: int
    weights: frozenset[int] = frozenset()
    read: InputReader = field(default_factory=InputReader)

    def is_weight(self, x: object) -> bool:
        """A number, a parameter or buffer or a view of one, or what is smaller than the batch and so does not depend on it."""
        if not isinstance(x, Tensor) or x.numel() == 1 or x.numel() < self.images:
            return True
        return x.untyped_storage().data_ptr() in self.weights

    def steps_of(self, x: Tensor) -> int:
        """T of a tensor `[T * B * ..., ...]` or `[T, B, ...]`; 1 where its first dimensions are not that."""
        timed = len(x) % (self.time_steps * self.images) == 0 or x.shape[:2] == (self.time_steps, self.images)
        return self.time_steps if timed else 1


# A tally; None where nothing is to be counted after all.
OperationRule = Callable[..., OperationAccumulator | None]


def _matmul(batch: Batch, layer: str, a: Tensor, b: Tensor, **_options: Any) -> OperationAccumulator | None:
    """`[n, k]` or `[groups, n, k]` times `[k, m]` or `[groups, k, m]`."""
    groups, (n, k), m = (len(a) if a.dim() == 3 else 1), a.shape[-2:], b.shape[-1]
    weights = (batch.is_weight(a), batch.is_weight(b) or _is_computed_weight(batch, a))
    if all(weights):
        return None
    steps = batch.steps_of(b if weights[0] else a)
    shared = steps * batch.images
    operands = [
        Operand.of(batch.read.total(x.reshape(steps, -1)), elements=x.numel() // shared, fan_out=reached)
        for x, reached, weight in ((a, m, weights[0]), (b, n, weights[1]))
        if not weight
    ]
    return OperationAccumulator(layer=layer, macs=groups * n * k * m // shared, time_steps=steps, operands=operands)


def _is_computed_weight(batch: Batch, a: Tensor) -> bool:
    """Whether what `a` is multiplied by was made of weights in the forward (by a cast, a mask): where `a` is `[T * B * n, k]`."""
    lead = batch.time_steps * batch.images
    return a.dim() == 2 and lead > 1 and len(a) % lead == 0


def _matvec(batch: Batch, layer: str, a: Tensor, b: Tensor, **_options: Any) -> OperationAccumulator | None:
    return _matmul(batch, layer, a, b.unsqueeze(-1))


def _added_matmul(batch: Batch, layer: str, _added: Tensor, a: Tensor, b: Tensor, **_options: Any) -> OperationAccumulator | None:
    return _matmul(batch, layer, a, b)


def _convolution(
    batch: Batch,
    layer: str,
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    **_options: Any,
) -> OperationAccumulator | None:
    """`[T * B, C, *size]`."""
    if batch.is_weight(x):
        return None
    size, steps = x.shape[2:], batch.steps_of(x)
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    reached = fan_out(size, weight.shape[2:], transposed=transposed, output_padding=output_padding, **settings)
    outputs = weight.shape[1] if transposed else len(weight) // groups
    values = batch.read.by_position(x.movedim(1, -1).reshape(steps, len(x) // steps, -1, x.shape[1]))
    operand = Operand.of(values, elements=x.numel() // (steps * batch.images), fan_out=reached.to(x.device) * outputs)
    positions = math.prod(size) if transposed else _outputs(size, weight.shape[2:], stride, padding, dilation)
    macs = positions * weight.numel() * len(x) // (steps * batch.images)
    return OperationAccumulator(layer=layer, macs=macs, time_steps=steps, operands=[operand])


def _outputs(size: Sequence[int], kernel: Sequence[int], *settings: Sequence[int]) -> int:
    """Positions of a convolution's output."""
    dims = zip(size, kernel, *settings, strict=True)
    return math.prod((length + 2 * pad - gap * (taps - 1) - 1) // step + 1 for length, taps, step, pad, gap in dims)


def _product(batch: Batch, layer: str, a: Any, b: Any, **_options: Any) -> OperationAccumulator | None:
    """Element by element, of what was computed: a gate, of which the larger operand's values meet the other."""
    if batch.is_weight(a) or batch.is_weight(b):
        return None
    largest, products = max(a.numel(), b.numel()), math.prod(torch.broadcast_shapes(a.shape, b.shape))
    met = [x for x in (a, b) if x.numel() == largest]
    steps = batch.steps_of(met[0])
    shared = steps * batch.images
    operands = [
        Operand.of(batch.read.total(x.reshape(steps, -1)), elements=largest // shared, fan_out=products // largest) for x in met
    ]
    return OperationAccumulator(layer=layer, macs=products // shared, time_steps=steps, operands=operands)


def _sum(batch: Batch, layer: str, x: Tensor, *_dims: Any, **_options: Any) -> OperationAccumulator | None:
    """Of spikes: each is added once. A sum of real values is taken for a mean."""
    if batch.is_weight(x):
        return None
    steps = batch.steps_of(x)
    values = batch.read.total(x.reshape(steps, -1))
    if int(values.kinds.max()) == REAL:
        return None
    elements = x.numel() // (steps * batch.images)
    return OperationAccumulator(
        layer=layer, macs=elements, time_steps=steps, operands=[Operand.of(values, elements=elements, fan_out=1)]
    )


# What a rule does not count, for one of its operands is a weight, may be free for a reason below.
COUNTED: dict[str, OperationRule] = {
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matvec,
    "addmm": _added_matmul,
    "baddbmm": _added_matmul,
    "convolution": _convolution,
    "mul": _product,
    "sum": _sum,
}

FREE = {
    "normalisation, which folds into weights": "native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm",
    "comparisons of max-pooling": "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices amax",
    "means, and sums of real values": "mean sum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d",
    "additions of residuals and biases": "add sub rsub",
    "scaling by a number or a weight": "mul div neg",
    "comparisons": "eq ne lt le gt ge where clamp clamp_min clamp_max relu",
    "moving and making data": "view _unsafe_view reshape expand permute transpose t clone copy _to_copy detach alias slice select "
    "unbind split split_with_sizes cat stack squeeze unsqueeze repeat as_strided index index_select gather roll flip unfold "
    "constant_pad_nd empty empty_like empty_strided zeros zeros_like ones ones_like full full_like fill zero new_zeros new_ones "
    "new_empty new_full arange scalar_tensor lift_fresh lift_fresh_copy _local_scalar_dense resolve_conj resolve_neg",
}

REASONS = {name: reason for reason, names in FREE.items() for name in names.split()}


def free_reason(name: str, batch: Batch, args: Sequence[Any]) -> str | None:
    """Why an operation is free; None where it is not. To divide by what was computed is no scaling."""
    tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
    if tensors and all(map(batch.is_weight, tensors)):
        return REASONS.get(name, "what depends on weights alone")
    if name == "div" and not batch.is_weight(args[1]):
        return None
    return REASONS.get(name)


def operation(function: Any) -> str:
    """`add` for `aten::add_.Tensor`; with its namespace where it is not torch's own."""
    space, _, name = function._schema.name.partition("::")
    name = name.removesuffix("_") if not name.startswith("__") else name
    return name if space == "aten" else f"{space}::{name}"


def is_composite(function: Any) -> bool:
    """Whether an operation is nothing but others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def storages(tensors: Iterator[Tensor]) -> frozenset[int]:
    """Where tensors lie, by which a view of one is recognised."""
    return frozenset(x.untyped_storage().data_ptr() for x in tensors if not x.is_meta and x.numel())


def same_at_every_step(x: Tensor, time_steps: int) -> bool:
    """Whether `[T * B, ...]` holds a still image, repeated."""
    steps = x.reshape(time_steps, -1)
    return time_steps > 1 and bool(torch.all(steps == steps[:1]))
