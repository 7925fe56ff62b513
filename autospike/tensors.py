"""Files of tensors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from autospike.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, in the place of one that was there.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; the file is as it was.
    """
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:  # what it makes of a disk that is full
            raise OSError(str(error)) from None
