"""Counting rules of torch operators, for what a model runs outside layers with rules of their own.

An operator is counted (`OPERATOR_RULES`), free under every convention (`FREE_OPERATORS`, with the reason), or unknown. Values are
told from weights by where they come from (`autospike.counting.provenance`). They are counted by their magnitudes, in units of their
common scale. The first dimension of an input is taken to be time x batch; where its size is not a multiple of that, the operator is
taken to run once, after an average over time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autospike.counting.accumulator import OperandAccumulator, OperationAccumulator
from autospike.counting.fan_out import fan_out
from autospike.counting.input_values import InputStatisticsCache
from autospike.counting.provenance import Provenance, address, constant, magnitudes
from autospike.energy.totals import REAL


@dataclass(kw_only=True)
class BatchContext:
    """What the rules need to know about the running batch.

    Attributes:
        images: Number of images, B.
        time_steps: T.
        weights: Storage pointers of the parameters and buffers of the model.
        inputs: Statistics of inputs.
        provenance: Where the results of operators come from, and their scales.
    """

    images: int
    time_steps: int
    weights: frozenset[int] = frozenset()
    inputs: InputStatisticsCache = field(default_factory=InputStatisticsCache)
    provenance: Provenance = field(default_factory=Provenance)

    def is_weight(self, x: object) -> bool:
        """Return whether `x` does not depend on the batch.

        This holds for a number, for a parameter, a buffer or a view of one, and for what operators computed from these alone. A
        tensor that no operator made is a weight if it has fewer values than there are images.

        Args:
            x: An argument of an operator.
        """
        if not isinstance(x, Tensor):
            return True
        source = self.provenance.source(x)
        if source is not None:
            return source == "weights"
        return x.numel() == 1 or x.numel() < self.images or address(x) in self.weights

    def is_parameter(self, x: object) -> bool:
        """Return whether `x` is a parameter or a buffer, or a view of one.

        Args:
            x: An argument of an operator.
        """
        return isinstance(x, Tensor) and address(x) in self.weights

    def levels(self, x: Tensor) -> Tensor:
        """Return the magnitudes of the values of `x`, in units of their common scale.

        Args:
            x: The input of an operation.
        """
        scale = self.provenance.scale(x)
        return x if scale == 1 and not _has_negative(x) else magnitudes(x, scale)

    def is_countable(self, x: Tensor) -> bool:
        """Return whether `x` has at least one value for each image.

        Args:
            x: An operand or a result of an operator.
        """
        return x.numel() >= self.images

    def steps_of(self, x: Tensor) -> int:
        """Return T for a tensor `[T * B * ..., ...]` or `[T, B, ...]`, and 1 for a tensor of another shape.

        Args:
            x: The tensor.
        """
        timed = len(x) % (self.time_steps * self.images) == 0 or x.shape[:2] == (self.time_steps, self.images)
        return self.time_steps if timed else 1


def _has_negative(x: Tensor) -> bool:
    return x.dtype != torch.bool and bool((x < 0).any())


MATRIX_PRODUCTS = frozenset(("mm", "bmm", "addmm", "baddbmm"))

# Called with the batch, the name of the layer and the arguments of the operator. Returns None where there is nothing to count.
OperationRule = Callable[..., OperationAccumulator | None]


def _matmul(batch: BatchContext, layer: str, a: Tensor, b: Tensor, **_options: Any) -> OperationAccumulator | None:
    """Rule of a matrix product: `a` `[n, k]` or `[groups, n, k]`, `b` `[k, m]` or `[groups, k, m]`."""
    if a.dim() == 3 and len(a) == 1:
        a, b = a[0], b[0]
    groups, (n, k), m = (len(a) if a.dim() == 3 else 1), a.shape[-2:], b.shape[-1]
    weights = (batch.is_weight(a), batch.is_weight(b) or _is_computed_weight(batch, a, b))
    values = [x for x, weight in zip((a, b), weights, strict=True) if not weight]
    if not values or not all(map(batch.is_countable, values)):
        return None
    first = _time_first(batch, a, b, weights)
    steps = batch.time_steps if weights[0] and _mixes_time(batch, a, b) else batch.steps_of(first)
    shared = steps * batch.images
    of_both = ((first if weights[1] else a, m, weights[0]), (first if weights[0] else b, n, weights[1]))
    operands = [
        OperandAccumulator.of(batch.inputs.total(batch.levels(x).reshape(steps, -1)), elements=x.numel() // shared, fan_out=reached)
        for x, reached, weight in of_both
        if not weight
    ]
    return OperationAccumulator(layer=layer, macs=groups * n * k * m // shared, time_steps=steps, operands=operands)


def _time_first(batch: BatchContext, a: Tensor, b: Tensor, weights: tuple[bool, bool]) -> Tensor:
    """The values of a product with weights, or the first factor of a product of values, with time as the first dimension.

    Time x batch is in the columns of `x` in `weight @ x`, unless the weights mix the time steps: `[T, T]` times `[T, n]`. In a
    product by groups, each with weights of its own, it is in the dimension after the groups.
    """
    lead = batch.time_steps * batch.images
    x, where = (b, -1) if weights[0] else (a, -2)
    mixes_time = weights[0] and _mixes_time(batch, a, b)
    if all(weights) or not any(weights) or mixes_time or (x.dim() == 3 and len(x) % lead == 0):
        return x
    return x.movedim(where, 0) if x.shape[where] % lead == 0 else x


def _mixes_time(batch: BatchContext, weight: Tensor, x: Tensor) -> bool:
    """Whether `weight @ x` is a product over time: `[T, T]` times `[T, n]`."""
    return batch.time_steps > 1 and x.dim() == 2 and weight.shape == (batch.time_steps, batch.time_steps)


def image_operand(batch: BatchContext, operator: str, args: Sequence[Any]) -> Tensor | None:
    """Return the operand of an operator that may be a still image, with time as the first dimension; None if there is none.

    Args:
        batch: The running batch.
        operator: The name of the operator.
        args: Its positional arguments.
    """
    if operator in MATRIX_PRODUCTS:
        a, b = args[-2:]
        a, b = (a[0], b[0]) if a.dim() == 3 and len(a) == 1 else (a, b)
        weights = (batch.is_weight(a), batch.is_weight(b) or _is_computed_weight(batch, a, b))
        return _time_first(batch, a, b, weights)
    return next((x for x in args if isinstance(x, Tensor) and not batch.is_weight(x)), None)


def _is_computed_weight(batch: BatchContext, a: Tensor, b: Tensor) -> bool:
    """Whether `b`, which no operator made, is a weight that the model holds neither as a parameter nor as a buffer.

    This is assumed where `a` is a single matrix `[T * B * n, k]`.
    """
    lead = batch.time_steps * batch.images
    return batch.provenance.source(b) is None and a.dim() == 2 and lead > 1 and len(a) % lead == 0


def _matvec(batch: BatchContext, layer: str, a: Tensor, b: Tensor, **_options: Any) -> OperationAccumulator | None:
    """Rule of a matrix-vector product."""
    return _matmul(batch, layer, a, b.unsqueeze(-1))


def _added_matmul(
    batch: BatchContext, layer: str, _added: Tensor, a: Tensor, b: Tensor, **_options: Any
) -> OperationAccumulator | None:
    """Rule of a matrix product to which another tensor is added."""
    return _matmul(batch, layer, a, b)


def _convolution(
    batch: BatchContext,
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
    """Rule of a convolution or transposed convolution with `x` `[T * B, C, *size]`."""
    if batch.is_weight(x) or not batch.is_countable(x):
        return None
    size, steps = x.shape[2:], batch.steps_of(x)
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    reached = fan_out(size, weight.shape[2:], transposed=transposed, output_padding=output_padding, **settings)
    outputs = weight.shape[1] if transposed else len(weight) // groups
    statistics = batch.inputs.per_position(batch.levels(x).movedim(1, -1).reshape(steps, len(x) // steps, -1, x.shape[1]))
    operand = OperandAccumulator.of(
        statistics, elements=x.numel() // (steps * batch.images), fan_out=reached.to(x.device) * outputs
    )
    positions = math.prod(size) if transposed else _outputs(size, weight.shape[2:], stride, padding, dilation)
    macs = positions * weight.numel() * len(x) // (steps * batch.images)
    return OperationAccumulator(layer=layer, macs=macs, time_steps=steps, operands=[operand])


def _outputs(size: Sequence[int], kernel: Sequence[int], *settings: Sequence[int]) -> int:
    """Number of output positions of a convolution."""
    dims = zip(size, kernel, *settings, strict=True)
    return math.prod((length + 2 * pad - gap * (taps - 1) - 1) // step + 1 for length, taps, step, pad, gap in dims)


def _elementwise_product(batch: BatchContext, layer: str, a: Any, b: Any, **_options: Any) -> OperationAccumulator | None:
    """Rule of an element-wise product of two computed tensors, a gate: each value of the larger one meets the other.

    A product with weights scales values, which is free, unless it makes several products of one value.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor) and batch.is_weight(a) != batch.is_weight(b):
        return _outer_product(batch, layer, *((b, a) if batch.is_weight(a) else (a, b)))
    if batch.is_weight(a) or batch.is_weight(b) or not batch.is_countable(max(a, b, key=Tensor.numel)):
        return None
    largest, products = max(a.numel(), b.numel()), math.prod(torch.broadcast_shapes(a.shape, b.shape))
    drivers = [x for x in (a, b) if x.numel() == largest]
    steps = batch.steps_of(drivers[0])
    shared = steps * batch.images
    operands = [
        OperandAccumulator.of(
            batch.inputs.total(batch.levels(x).reshape(steps, -1)), elements=largest // shared, fan_out=products // largest
        )
        for x in drivers
    ]
    return OperationAccumulator(layer=layer, macs=products // shared, time_steps=steps, operands=operands)


def _outer_product(batch: BatchContext, layer: str, x: Tensor, weight: Tensor) -> OperationAccumulator | None:
    """Rule of a product that broadcasts values over weights: a linear layer as `(x[..., None, :] * weight).sum(-1)`.

    Copies of values in a larger shape that one number scales are free.
    """
    products = math.prod(torch.broadcast_shapes(x.shape, weight.shape))
    if products <= x.numel() or constant(weight) is not None or not batch.is_countable(x):
        return None
    steps = batch.steps_of(x)
    shared = steps * batch.images
    statistics = batch.inputs.total(batch.levels(x).reshape(steps, -1))
    operand = OperandAccumulator.of(statistics, elements=x.numel() // shared, fan_out=products // x.numel())
    return OperationAccumulator(layer=layer, macs=products // shared, time_steps=steps, operands=[operand])


def dot_product(batch: BatchContext, layer: str, x: Tensor) -> OperationAccumulator | None:
    """Count a sum of values times weights: each value meets one weight.

    Args:
        batch: The running batch.
        layer: The name of the operation.
        x: The values.

    Returns:
        The operation, or None if there are fewer values than images.
    """
    if not batch.is_countable(x):
        return None
    steps = batch.steps_of(x)
    elements = x.numel() // (steps * batch.images)
    operand = OperandAccumulator.of(batch.inputs.total(batch.levels(x).reshape(steps, -1)), elements=elements, fan_out=1)
    return OperationAccumulator(layer=layer, macs=elements, time_steps=steps, operands=[operand])


def sum_of_spikes(batch: BatchContext, layer: str, x: Tensor, *_dims: Any, **_options: Any) -> OperationAccumulator | None:
    """Rule of a sum of spikes: each is added once. A sum of real values counts as a mean, which is free.

    Args:
        batch: The running batch.
        layer: The name of the operation.
        x: The values.
        _dims: Dimensions, which do not matter.
        _options: Other arguments, which do not matter.

    Returns:
        The operation, or None if the values are real, weights, or fewer than images.
    """
    if batch.is_weight(x) or not batch.is_countable(x):
        return None
    steps = batch.steps_of(x)
    statistics = batch.inputs.total(batch.levels(x).reshape(steps, -1))
    if int(statistics.kinds.max()) == REAL:
        return None
    elements = x.numel() // (steps * batch.images)
    return OperationAccumulator(
        layer=layer, macs=elements, time_steps=steps, operands=[OperandAccumulator.of(statistics, elements=elements, fan_out=1)]
    )


def count_einsum(batch: BatchContext, layer: str, equation: str, a: Tensor, b: Tensor) -> OperationAccumulator | None:
    """Count `torch.einsum` of two tensors by its labels, whatever the order in which it moves their dimensions.

    Args:
        batch: The running batch.
        layer: The name of the operation.
        equation: The equation, without an ellipsis.
        a: The first operand.
        b: The second operand.

    Returns:
        The operation, or None if there is nothing to count.
    """
    labels = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = dict(zip(labels[0] + labels[1], (*a.shape, *b.shape), strict=True))
    total = math.prod(sizes.values())
    values = [x for x in (a, b) if not batch.is_weight(x)]
    if not values or not all(map(batch.is_countable, values)):
        return None
    steps = batch.steps_of(values[0])
    shared = steps * batch.images
    operands = [
        OperandAccumulator.of(
            batch.inputs.total(batch.levels(x).reshape(steps, -1)), elements=x.numel() // shared, fan_out=total // x.numel()
        )
        for x in values
    ]
    return OperationAccumulator(layer=layer, macs=total // shared, time_steps=steps, operands=operands)


# Where a rule returns None, because an operand is a weight, the operator may be free for a reason below.
OPERATOR_RULES: dict[str, OperationRule] = {
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matvec,
    "addmm": _added_matmul,
    "baddbmm": _added_matmul,
    "convolution": _convolution,
    "mul": _elementwise_product,
    "sum": sum_of_spikes,
}

# Operators that no convention counts, by the reason.
FREE_OPERATORS = {
    "normalisation, which folds into weights": "native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm",
    "comparisons of max-pooling": "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices amax",
    "means, and sums of real values": "mean sum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d",
    "additions of residuals and biases": "add sub rsub",
    "scaling by a number or a weight": "mul div neg",
    "interpolation of maps": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d",
    "comparisons": "eq ne lt le gt ge where clamp clamp_min clamp_max relu",
    "moving and making data": "view _unsafe_view reshape expand permute transpose t clone copy _to_copy detach alias slice "
    "select unbind split split_with_sizes cat stack squeeze unsqueeze repeat as_strided index index_select gather roll flip "
    "unfold constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d im2col pixel_shuffle pixel_unshuffle channel_shuffle embedding empty empty_like empty_strided zeros "
    "zeros_like ones ones_like full full_like fill zero new_zeros new_ones new_empty new_full arange scalar_tensor lift_fresh "
    "lift_fresh_copy _local_scalar_dense resolve_conj resolve_neg",
}

# Batch normalisation, and the position of the argument that says that it computes statistics of its input: these do not fold.
TRAINING_FLAG = {"native_batch_norm": 5, "cudnn_batch_norm": 5, "miopen_batch_norm": 5}

FREE_REASONS = {name: reason for reason, names in FREE_OPERATORS.items() for name in names.split()}


def free_reason(name: str, batch: BatchContext, args: Sequence[Any]) -> str | None:
    """Return why an operator is free, or None if it is not.

    Division is free only by a number or a weight, and a normalisation only with statistics that do not depend on its input.

    Args:
        name: The operator, as `operator_name` returns it.
        batch: The running batch.
        args: The positional arguments of the operator.
    """
    tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
    if tensors and all(map(batch.is_weight, tensors)):
        return FREE_REASONS.get(name, "what depends on weights alone")
    if name in TRAINING_FLAG and args[TRAINING_FLAG[name]]:
        return None
    if name == "div" and not batch.is_weight(args[1]):
        return None
    return FREE_REASONS.get(name)


def operator_name(function: Any) -> str:
    """Return the name of an operator: `add` for `aten::add_.Tensor`; `namespace::name` for one that is not of ATen.

    Args:
        function: A `torch._ops.OpOverload`.
    """
    namespace, _, name = function._schema.name.partition("::")
    name = name.removesuffix("_") if not name.startswith("__") else name
    return name if namespace == "aten" else f"{namespace}::{name}"


def is_composite(function: Any) -> bool:
    """Return whether torch implements an operator by calling other operators (CompositeImplicitAutograd).

    Args:
        function: A `torch._ops.OpOverload`.
    """
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def storage_pointers(tensors: Iterator[Tensor]) -> frozenset[int]:
    """Return the storage addresses of tensors, by which views of them are recognised.

    Args:
        tensors: The tensors; those on the meta device and empty ones are left out.
    """
    return frozenset(x.untyped_storage().data_ptr() for x in tensors if not x.is_meta and x.numel())


def is_constant_over_time(x: Tensor, time_steps: int, images: int) -> bool:
    """Return whether `x` is the same at each of several time steps; its first dimension is T * B, or B * T.

    Args:
        x: `[T * B, ...]` or `[B * T, ...]`.
        time_steps: T.
        images: B.
    """
    if time_steps == 1:
        return False
    first, second = x.reshape(time_steps, -1), x.reshape(images, time_steps, -1) if len(x) % (images * time_steps) == 0 else None
    return bool((first == first[:1]).all()) or (second is not None and bool((second == second[:, :1]).all()))
