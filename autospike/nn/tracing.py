"""Layers as single calls in the graphs of `torch.fx.symbolic_trace`.

A symbolic tracer runs `forward` with proxies, which have neither data nor a shape. A layer of neurons depends on both: whether a
kernel runs, and whether an image is still. Such a layer is therefore recorded as one call of the module, as layers of `torch.nn`
are. The traced model runs the same layers, with the same kernels and parameters.

Tracers of tensors (`torch.export`, `torch.compile`, `torch.jit.trace`, `make_fx`, the ONNX exporters) do not need this. They record
the operations inside a layer; see `autospike.kernels.operator.Library.supports`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from torch import nn
from torch.fx import Proxy

F = TypeVar("F", bound=Callable[..., Any])


def is_symbolic(x: object) -> bool:
    """Return whether `x` is a proxy of a symbolic tracer, or a tuple with one: it has neither data nor a shape.

    Args:
        x: An argument of a module.
    """
    return isinstance(x, Proxy) or (isinstance(x, tuple) and any(isinstance(part, Proxy) for part in x))


def recorded_as_one_call(forward: F) -> F:
    """Decorator of a `forward`, which symbolic tracers then record as one call of the module.

    Args:
        forward: The method. Its first argument is a tensor, or a tuple of tensors.

    Returns:
        The method.
    """

    @wraps(forward)
    def forward_or_record(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        if is_symbolic(x):
            tracer = (x if isinstance(x, Proxy) else next(part for part in x if isinstance(part, Proxy))).tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (x, *args), kwargs)  # type: ignore[attr-defined]
        return forward(self, x, *args, **kwargs)

    return cast(F, forward_or_record)
