"""How a compiled kernel becomes an operator of torch, and when it runs.

Each operator has a file of its own: a C file `x.c` and a Python file `x.py` with its `Library`, its `Operator`, and a function that
callers use. That function computes with the kernel where `Library.supports` says so, else with operations of torch: the composite
implementation, which works on every device and type, and is the reference in tests.

`torch.ops.autospike.x` is a complete operator: schema, CPU implementation, fake implementation, autograd formula. It runs inside
`torch.compile`. In eager mode an `Operator` calls the same functions without torch's dispatcher, whose Python code takes longer
than a small kernel (forward 72 us against 10 us, AMD EPYC).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from autospike.kernels.build import library, selected_instruction_set

POINTER, INT64, INT32, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
# Types of tensors that have memory, unlike those of a tracer.
PLAIN_TYPES = (Tensor, nn.Parameter)
OUT_OF_MEMORY = 0  # as in common.h


class Library:
    """The functions of one C file, loaded at first use.

    Args:
        name: Name of the C file, without its ending.
        functions: Types of the arguments of each function. It returns a status code (common.h), unless `returns` has another type.
        structs: Structures that the functions read, by their names in C. Their sizes are verified.
        returns: Types of results that are not status codes; None for void.
    """

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Sequence[Any]],
        *,
        structs: Mapping[str, type[ctypes.Structure]] | None = None,
        returns: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._signatures = functions
        self._structs = structs or {}
        self._returns = returns or {}
        self._loaded: dict[str | None, Any] = {}

    @property
    def functions(self) -> Any:
        """The library, its functions typed; None where there is none."""
        selected = selected_instruction_set()
        if selected not in self._loaded:
            loaded = library(self.name, selected)
            self._loaded[selected] = None if loaded is None else self._typed(loaded)
        return self._loaded[selected]

    def supports(self, *tensors: Tensor | None) -> bool:
        """Return whether the kernel computes with these tensors, rather than operations of torch.

        It does for float32 tensors on the CPU, in eager mode and in `torch.compile`. Composite operations run instead

        - where no kernel can be built, or kernels are switched off;
        - on other devices and types, and on fake tensors;
        - while torch.export, torch.jit.trace or make_fx record operations, so that what they record runs anywhere;
        - in transforms of torch.func;
        - under a `TorchDispatchMode` that observes operations, like `FlopCounterMode`: it would not see a kernel. A mode that
          counts whole layers by rules has an attribute `reads_layers` that is True while kernels may run.

        Args:
            *tensors: Inputs of the kernel; None for an input that is left out.
        """
        if torch.compiler.is_compiling():
            fits = all(x is None or (x.device.type == "cpu" and x.dtype == torch.float32) for x in tensors)
            return fits and not torch.compiler.is_exporting() and _is_available(self.name)
        for x in tensors:
            if x is not None and (type(x) not in PLAIN_TYPES or x.dtype != torch.float32 or x.device.type != "cpu" or x.is_neg()):
                return False
        return not is_observed() and self.functions is not None

    def _typed(self, loaded: Any) -> Any:
        for name, struct in self._structs.items():
            size = getattr(loaded, f"sizeof_{name}")
            size.restype = INT64
            if size() != ctypes.sizeof(struct):
                sizes = f"{size()} bytes in {self.name}.c and {ctypes.sizeof(struct)} in Python"
                raise RuntimeError(f"struct {name} has {sizes}: declare the same fields in both")
        for name, arguments in self._signatures.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = tuple(arguments), self._returns.get(name, INT32)
            if name not in self._returns:
                function.errcheck = _raise_if_out_of_memory
        return loaded


def is_observed() -> bool:
    """Return whether something records or transforms the operations of torch that run, and would not see a kernel."""
    if torch._C._is_tracing() or torch._C._are_functorch_transforms_active():
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(not getattr(mode, "reads_layers", False) for mode in _get_current_dispatch_mode_stack())


def _is_available(name: str) -> bool:
    return library(name) is not None


# What torch.compiler.assume_constant_result does, which imports torch._dynamo for it (seconds).
_is_available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _raise_if_out_of_memory(status: int, function: Any, _arguments: Any) -> int:
    if status == OUT_OF_MEMORY:
        raise MemoryError(f"{function.__name__}: no memory for the scratch space of the kernel")
    return status


class Operator:
    """An operator `torch.ops.autospike.<name>`, called with positional arguments.

    Args:
        schema: Name, arguments and results, `name(Tensor x, ...) -> Tensor`.
        cpu: The implementation on CPU tensors of float32.
        fake: Computes results of the right shape without data.
        backward: Computes gradients, `backward(ctx, *grads)`; None if there is no gradient.
        setup_context: Saves what backward needs, `setup_context(ctx, inputs, output)`.
    """

    def __init__(
        self,
        schema: str,
        cpu: Callable[..., Any],
        fake: Callable[..., Any],
        *,
        backward: Callable[..., Any] | None = None,
        setup_context: Callable[..., Any] | None = None,
    ) -> None:
        name, arguments = schema.split("(", 1)
        definition = torch.library.custom_op(f"autospike::{name}", cpu, mutates_args=(), device_types="cpu", schema=f"({arguments}")
        definition.register_fake(fake)
        if backward is not None:
            definition.register_autograd(backward, setup_context=setup_context)
        self.overload = getattr(torch.ops.autospike, name).default
        self._cpu = cpu
        self._function = None if backward is None else _autograd_function(name, cpu, backward, setup_context)

    def __call__(self, *args: Any) -> Any:
        """Call the operator: directly in eager mode, by torch's dispatcher in `torch.compile`."""
        if torch.compiler.is_compiling() or type(args[0]) not in PLAIN_TYPES:
            return self.overload(*args)
        if self._function is None or not torch.is_grad_enabled():
            return self._cpu(*args)
        return self._function.apply(*args)


def _autograd_function(
    name: str, cpu: Callable[..., Any], backward: Callable[..., Any], setup_context: Callable[..., Any] | None
) -> type[torch.autograd.Function]:
    """The formulas of an operator, for eager mode."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = cpu(*args)
        if setup_context is not None:
            setup_context(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(once_differentiable(backward))}
    return type(name, (torch.autograd.Function,), members)
