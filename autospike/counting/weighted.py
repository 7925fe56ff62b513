"""Values times weights that differ: a sum over them is a product of a vector with weights, as `(x * weight).sum(-1)`.

Scaling a value by a weight is free, because the weight merges into the next layer. A sum over values with different weights is
not: it is a linear layer. So the factors of such a product are followed through operators that move values, to the sum or mean
that adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autospike.counting.provenance import MOVES, constant

# Operators of one tensor that keep all of its values, besides those that move them.
KEEPS = frozenset(["clone", "_to_copy", "detach", "alias", "neg"])
SUMS = frozenset(("sum", "mean"))
POOLS = {f"{kind}{dims}d": dims for kind in ("avg_pool", "_adaptive_avg_pool") for dims in (1, 2, 3)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted:
    """One product of values with weights, as a term of a tensor.

    Attributes:
        values: The values, in the shape of the tensor.
        weight: The weights, in the shape of the tensor.
        whole: The values as they were multiplied, with time x batch in their first dimensions.
    """

    values: Tensor
    weight: Tensor
    whole: Tensor

    @property
    def is_part(self) -> bool:
        """Whether it has fewer values than were multiplied."""
        return self.values.numel() < self.whole.numel()

    def moved(self, move: Callable[[Tensor], Tensor]) -> Weighted:
        """Return the term after an operator that moves values.

        Args:
            move: The operator, for one tensor.
        """
        return Weighted(values=move(self.values), weight=move(self.weight), whole=self.whole)

    def read(self) -> Tensor:
        """Return the values, with time x batch in the first dimensions if all are left."""
        return self.values if self.is_part else self.whole

    def differs(self, dims: Sequence[int]) -> bool:
        """Return whether the weights differ along dimensions.

        Args:
            dims: The dimensions.
        """
        first = self.weight
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        return bool((self.weight != first).any())


@dataclass
class WeightedValues:
    """The tensors of a running batch that are sums of `Weighted` terms.

    Attributes:
        terms: The terms by tensor.
    """

    terms: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    def of(self, x: object) -> tuple[Weighted, ...]:
        """Return the terms of a tensor; none if it has none.

        Args:
            x: An argument of an operator.
        """
        return self.terms.get(x, ()) if isinstance(x, Tensor) else ()

    def product(self, x: Tensor, weight: Any, *, in_place: bool) -> tuple[Weighted, ...]:
        """Return the terms of the product of values with a weight.

        Args:
            x: The values.
            weight: What they are multiplied with or divided by.
            in_place: Whether the product replaces the values.
        """
        if not isinstance(weight, Tensor) or constant(weight) is not None:
            return self.of(x)
        shape = torch.broadcast_shapes(x.shape, weight.shape)
        if terms := self.of(x):
            return tuple(
                Weighted(values=term.values.expand(shape), weight=term.weight * weight, whole=term.whole) for term in terms
            )
        values = x.clone() if in_place else x
        return (Weighted(values=values.expand(shape), weight=weight.expand(shape), whole=values),)

    def record(self, operator: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Record the results of an operator that moves or adds values with weights.

        Args:
            operator: Its name.
            function: The operator.
            args: Its positional arguments.
            kwargs: Its other arguments.
            result: What it returned.
        """
        results = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if operator in ("add", "sub", "rsub"):
            (made,) = results
            terms = (*self.of(args[0]), *self.of(args[1]))
            self.set(made, [term.moved(lambda x: x.expand(made.shape)) for term in terms])
            return
        if operator in ("cat", "stack"):
            self.set(results[0], self._joined(function, args, kwargs))
            return
        terms = self.of(args[1 if operator == "copy" else 0]) if args else ()
        if operator in KEEPS or operator == "copy":
            self.set(results[0], terms)
        elif operator in ("view", "_unsafe_view", "reshape"):
            self.set(results[0], [term.moved(lambda x: x.reshape(results[0].shape)) for term in terms])
        elif operator in MOVES:
            for i, made in enumerate(results):
                self.set(made, [term.moved(partial(_moved, function, args, kwargs, i)) for term in terms])
        else:
            for made in results:
                self.set(made, ())

    def set(self, x: Tensor, terms: Sequence[Weighted]) -> None:
        """Record the terms of a tensor.

        Args:
            x: The tensor.
            terms: Its terms; none to forget those that it had.
        """
        if terms:
            self.terms[x] = tuple(terms)
        else:
            self.terms.pop(x, None)

    def _joined(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Weighted]:
        """The terms of joined tensors: the n-th of each; a tensor without terms is one with weights of 1."""
        parts, joined = args[0], []
        own = [self.of(x) or (Weighted(values=x, weight=torch.ones_like(x), whole=x),) for x in parts]
        for n in range(max(map(len, own)) if any(map(self.of, parts)) else 0):
            values = [terms[n].values if n < len(terms) else torch.zeros_like(x) for x, terms in zip(parts, own, strict=True)]
            weights = [terms[n].weight if n < len(terms) else torch.ones_like(x) for x, terms in zip(parts, own, strict=True)]
            whole = function(values, *args[1:], **kwargs)
            joined.append(Weighted(values=whole, weight=function(weights, *args[1:], **kwargs), whole=whole))
        return joined


def _moved(function: Any, args: Sequence[Any], kwargs: dict[str, Any], i: int, x: Tensor) -> Tensor:
    """The i-th result of an operator, of another tensor."""
    results = [y for y in tree_leaves(function(x, *args[1:], **kwargs)) if isinstance(y, Tensor)]
    return results[i]


def adds_parts(terms: Sequence[Weighted], others: Sequence[Weighted]) -> bool:
    """Return whether an addition adds up parts of the same values with different weights, as a sum written as a loop does.

    Args:
        terms: The terms of one summand.
        others: The terms of the other one.
    """
    pairs = [(a, b) for a in terms for b in others if a.whole is b.whole and a.is_part and b.is_part]
    return any(a.weight.shape != b.weight.shape or bool((a.weight != b.weight).any()) for a, b in pairs)


def summed_dims(operator: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """Return the dimensions that a sum, a mean or an average pooling adds up.

    Args:
        operator: Its name.
        args: Its positional arguments.
        kwargs: Its other arguments.
    """
    x = args[0]
    if operator in POOLS:
        return tuple(range(x.dim() - POOLS[operator], x.dim()))
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    listed = range(x.dim()) if dims is None or dims == [] else (dims,) if isinstance(dims, int) else dims
    return tuple(dim % x.dim() for dim in listed) if x.dim() else ()
