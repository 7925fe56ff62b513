"""Slices of a batch for the ranks of a distributed training."""

from __future__ import annotations

import pytest
from trainings import CONFIG, batches

from autospike.data.rank_slice import WHOLE, RankSlice
from autospike.errors import UserError
from autospike.training.distributed import Ranks


def test_a_slice_consists_of_both_ends_of_each_part() -> None:
    assert [RankSlice(rank=rank, ranks=2, parts=1).of(range(8)) for rank in (0, 1)] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert [RankSlice(rank=rank, ranks=2, parts=2).of(range(8)) for rank in (0, 1)] == [[0, 3, 4, 7], [1, 2, 5, 6]]
    assert WHOLE.of(range(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (2, 2), (4, 2), (1, 3)])
def test_slices_of_a_mixed_batch_together_are_the_batch(ranks: int, parts: int) -> None:
    """Bit-identical: part p of the whole batch consists of part p of every rank, in any order."""
    config = CONFIG.model_copy(update={"batch_size": 48, "accumulate": parts})
    (whole,) = batches(config)(0, 1)
    slices = [next(batches(config, ranks=Ranks(rank=rank, size=ranks))(0, 1)) for rank in range(ranks)]
    for part in range(parts):
        place, size = slice(part * 48 // parts, (part + 1) * 48 // parts), 48 // parts // ranks
        own = slice(part * size, (part + 1) * size)
        for name in ("images", "targets"):
            expected = [tensor.tolist() for tensor in getattr(whole, name)[place]]
            found = [tensor.tolist() for local in slices for tensor in getattr(local, name)[own]]
            assert sorted(found) == sorted(expected)


def test_a_batch_that_cannot_be_divided_is_rejected() -> None:
    config = CONFIG.model_copy(update={"batch_size": 36, "accumulate": 2})
    with pytest.raises(UserError, match="36 images cannot be divided among 2 ranks in 2 parts each; use a multiple of 8"):
        batches(config, ranks=Ranks(rank=0, size=2))
