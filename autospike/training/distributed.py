"""The ranks of a training: processes that torchrun started, each of which holds the whole supernet and a share of every batch.

Ranks never change a result, up to rounding: a batch is cut into shares, never drawn anew; normalisation is by the statistics of all
shares; gradients are averaged; every rank draws the same architectures, and updates the same weights. The first rank alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from autospike.data.rank_slice import RankSlice
from autospike.errors import Interrupted, UserError
from autospike.process import world_size
from autospike.supernet import Supernet

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One of several ranks; alone unless told otherwise.

    `local` counts those of this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """What torchrun says."""
        if world_size() == 1:
            return ALONE
        return cls(rank=int(os.environ["RANK"]), size=world_size(), local=int(os.environ["LOCAL_RANK"]))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """This rank's own, of a kind, "cpu" or "cuda".

        Raises:
            UserError: more ranks than CUDA devices were started on this machine.
        """
        if self.size == 1 or kind != "cuda":
            return torch.device(kind)
        if self.local >= torch.cuda.device_count():
            raise UserError(
                f"rank {self.rank}: this machine has {torch.cuda.device_count()} CUDA devices, one for each rank is needed; "
                "lower --nproc-per-node, or set device to cpu"
            )
        return torch.device(kind, self.local)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Meet the others for the length of a block: over nccl if each has a CUDA device, else gloo."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        except (UserError, Interrupted):  # all ranks leave, or torchrun ends those that do not
            dist.destroy_process_group()
            raise
        dist.destroy_process_group()

    def share(self, *, parts: int) -> RankSlice:
        return RankSlice(rank=self.rank, ranks=self.size, parts=parts)

    def replica(self, supernet: Supernet) -> DistributedDataParallel:
        """A supernet whose gradients are the mean over the ranks after the backward pass, except in `no_sync`.

        What no subnet of a step touched keeps no gradient, as on one rank, and an optimizer passes it by.
        """
        supernet.synchronise()
        return DistributedDataParallel(supernet, find_unused_parameters=True)

    def mean(self, values: Tensor) -> Tensor:
        """Over the ranks."""
        if self.size == 1:
            return values
        total = values.double()
        dist.all_reduce(total)
        return total / self.size

    def largest(self, number: int) -> int:
        """Of every rank's number. Nobody knows it before all have said theirs."""
        if self.size == 1:
            return number
        numbers = torch.tensor(number, device=_meeting_place())
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return int(numbers)

    def together(self, share: Tensor, dim: int) -> Tensor:
        """Every rank's share, in the order of the ranks."""
        if self.size == 1:
            return share
        shares = [torch.empty_like(share, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares, dim=dim)

    def first_alone(self, act: Callable[[], object]) -> None:
        """Act on the first rank, while the others wait.

        Raises:
            UserError: the first rank could not.
        """
        error = None
        if self.first:
            try:
                act()
            except UserError as reason:
                error = reason
        if self.largest(int(error is not None)):
            raise error or UserError(f"rank {self.rank}: the first rank could not go on, and says why")


ALONE = Ranks()


def _meeting_place() -> torch.device:
    """Where tensors are that the ranks exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else CPU
