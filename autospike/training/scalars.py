"""A training's course for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from autospike.errors import UserError
from autospike.training.progress import Progress

SCALARS = ("loss", "learning_rate", "images_per_second", "memory_mb")


class Scalars:
    """Event files in a folder, for the length of a block.

    Args:
        start: the step from which the training goes on. What an earlier call wrote beyond it is no longer shown.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes half a second

        try:
            self._writer = SummaryWriter(folder, purge_step=start + 1)
        except OSError as error:
            raise self._full(error) from None

    def write(self, now: Progress) -> None:
        """Raises:
        UserError: the disk is full.
        """
        try:
            for name in SCALARS:
                self._writer.add_scalar(name, getattr(now, name), now.step)
        except OSError as error:
            raise self._full(error) from None

    def __enter__(self) -> Scalars:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        try:
            self._writer.close()
        except OSError as error:
            if kind is None:
                raise self._full(error) from None

    def _full(self, error: OSError) -> UserError:
        return UserError(
            f"tensorboard: its events cannot be written ({error.strerror or error}); make room, and run it again to go on"
        )
