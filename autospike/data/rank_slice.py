"""The slice of a training batch that belongs to one of several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from autospike.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RankSlice:
    """Selects the images of a batch that belong to a rank.

    A batch is processed in `parts` parts. Each rank takes equally many images of each part, from both of its ends:

        part of 8 images on 2 ranks    0 0 1 1 1 1 0 0

    A rank with image i of a batch of B therefore also has image B - 1 - i, with which timm's mixup and cutmix mix it. So a rank can
    mix its slice by itself, with the same pixels and targets as in the whole batch.

    Attributes:
        rank: Number of this rank.
        ranks: Number of ranks.
        parts: Number of parts in which a batch is processed.
    """

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def of(self, batch: Sequence[T]) -> list[T]:
        """Return the images of this rank.

        Args:
            batch: All images.

        Returns:
            Those of this rank, in the order of the batch.

        Raises:
            UserError: The batch cannot be divided equally among several ranks.
        """
        if self.ranks == 1:
            return list(batch)
        unit = 2 * self.ranks * self.parts
        if len(batch) % unit:
            raise UserError(
                f"training.batch_size: {len(batch)} images cannot be divided among {self.ranks} ranks in {self.parts} "
                f"part{'s' if self.parts > 1 else ''} each; use a multiple of {unit}"
            )
        size = len(batch) // self.parts
        return [image for start in range(0, len(batch), size) for image in self._slice_part(batch[start : start + size])]

    def _slice_part(self, part: Sequence[T]) -> Sequence[T]:
        size = len(part) // (2 * self.ranks)
        start, stop = self.rank * size, (self.rank + 1) * size
        return [*part[start:stop], *part[len(part) - stop : len(part) - start]]


WHOLE = RankSlice()
