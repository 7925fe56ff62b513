"""Safetensors files, written completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from autospike.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, replacing an existing one.

    Args:
        path: The file.
        tensors: The tensors by name.
        metadata: Stored in the header of the file.

    Raises:
        UserError: The disk is full or the folder is not writable; the existing file is unchanged.
    """
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:  # safetensors' own error for a full disk
            raise OSError(str(error)) from None
