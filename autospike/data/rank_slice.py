"""The share of a training batch that one of several ranks takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from autospike.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RankSlice:
    """Which images of a batch are one rank's.

    A batch goes through the network in `parts`; every rank takes an equal share of each, from both of its ends:

        part of 8 images on 2 ranks    0 0 1 1 1 1 0 0

    So a rank that holds image i of a batch of B holds image B - 1 - i, too, the one that timm's mixup and cutmix mix it with. Mixed
    by itself, a rank's share has the very pixels and targets that it has in the whole batch.
    """

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def of(self, batch: Sequence[T]) -> list[T]:
        """This rank's, in the batch's order.

        Raises:
            UserError: there are several ranks, and no equal shares.
        """
        if self.ranks == 1:
            return list(batch)
        unit = 2 * self.ranks * self.parts
        if len(batch) % unit:
            raise UserError(
                f"training.batch_size: batches of {len(batch)} images cannot be shared by {self.ranks} ranks in {self.parts} "
                f"part{'s' if self.parts > 1 else ''} each; choose a multiple of {unit}"
            )
        size = len(batch) // self.parts
        return [image for start in range(0, len(batch), size) for image in self._of_part(batch[start : start + size])]

    def _of_part(self, part: Sequence[T]) -> Sequence[T]:
        size = len(part) // (2 * self.ranks)
        start, stop = self.rank * size, (self.rank + 1) * size
        return [*part[start:stop], *part[len(part) - stop : len(part) - start]]


WHOLE = RankSlice()
