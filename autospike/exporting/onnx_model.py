"""ONNX, by torch's exporter of exported programs, with a dynamic batch size. onnxruntime checks what was written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autospike import files
from autospike.errors import UserError
from autospike.exporting.program import batch_dimension, export_program
from autospike.exporting.variants import LARGEST_INT8, Variant

FILE = "model.onnx"
OPSET = 18  # the exporter's own; newer ones are conversions of it


def require() -> None:
    """Check that the packages are installed.

    Raises:
        UserError: One is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx: needs {error.name}; install it with: pip install 'autospike[onnx]'") from None


@torch.no_grad()
def save(program: torch.export.ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str], *, int8: bool) -> None:
    """Convert a program to ONNX and write it as one file.

    Args:
        program: The program.
        path: The file.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        int8: Whether to store weights that were rounded to 8 bits as integers with a `DequantizeLinear`.
    """
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=list(inputs), output_names=list(outputs), verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    if int8:
        store_integers(model)
    onnx.checker.check_model(model)
    with files.replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def store_integers(model: Any) -> None:
    """Replace each initialiser whose values are multiples of one scale for each output channel by integers, exactly.

    Weights of convolutions pass a `DequantizeLinear`, weights of linear layers a `Cast` and a `Mul`: onnxruntime replaces
    `DequantizeLinear` and `MatMul` by a `MatMulNBits` that rounds the activations to 8 bits too where the processor has VNNI.

    Args:
        model: The ONNX model, which is changed.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, added, kept = model.graph, [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        found = next((f for f in (as_integers(values, axis) for axis in range(min(2, values.ndim))) if f is not None), None)
        if values.dtype != np.float32 or values.ndim < 2 or found is None:
            kept.append(tensor)
            continue
        axis, integers, scale = found
        names = [f"{tensor.name}.integers", f"{tensor.name}.scale"]
        if values.ndim == 2:
            scale = scale[:, None] if axis == 0 else scale[None, :]
            added.append(helper.make_node("Cast", names[:1], [f"{tensor.name}.float"], to=TensorProto.FLOAT))
            added.append(helper.make_node("Mul", [f"{tensor.name}.float", names[1]], [tensor.name]))
        else:
            added.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        kept += [numpy_helper.from_array(integers, names[0]), numpy_helper.from_array(scale, names[1])]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*added, *nodes])


def as_integers(values: NDArray[Any], axis: int) -> tuple[int, NDArray[np.int8], NDArray[np.float32]] | None:
    """Express values as 8-bit integers times a scale for each channel, of which the largest integer is 127.

    Args:
        values: In float32.
        axis: Of the channels.

    Returns:
        Axis, integers and scales; None if they do not give exactly these values.
    """
    if values.dtype != np.float32 or values.ndim < 2:
        return None
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = (np.abs(values).max(axis=others) / np.float32(LARGEST_INT8)).astype(np.float32)
    scale[scale == 0] = 1
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    integers = np.rint(values / scale.reshape(shape)).astype(np.int8)
    return (axis, integers, scale) if np.array_equal(integers.astype(np.float32) * scale.reshape(shape), values) else None


def write(variant: Variant, folder: Path, images: Tensor) -> tuple[str, ...]:
    """Write a model.

    Args:
        variant: The model.
        folder: The folder to write to.
        images: Example input, at least 2 images.

    Returns:
        Names of the files.

    Raises:
        UserError: A package is missing.
    """
    require()
    shapes = ({batch_dimension(images): torch.export.Dim("batch", min=1)},)
    program = export_program(variant.model, (images,), shapes)
    save(program, folder / FILE, ["images"], ["logits"], int8=bool(variant.int8))
    return (FILE,)


def session(path: Path) -> Callable[..., list[Tensor]]:
    """Return the outputs of an ONNX file in onnxruntime, on one thread of the CPU, as a function of its inputs.

    Args:
        path: The file.
    """
    require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in found.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        values = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(output)) for output in found.run(None, values)]

    return run


def load(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return the logits of a written model in onnxruntime as a function of images.

    Args:
        folder: The folder that `write` wrote to.
    """
    run = session(folder / FILE)
    return lambda images: run(images)[0]
