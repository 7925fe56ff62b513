"""Ranks of a distributed training: processes started by torchrun, each with the whole supernet and a slice of every batch.

The number of ranks changes a result by rounding only. A batch is divided into slices and not sampled anew; BatchNorm statistics
are those of all slices; gradients are averaged; all ranks sample the same architectures and make the same update. Only the first
rank writes files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from autospike.data.rank_slice import RankSlice
from autospike.errors import Interrupted, UserError
from autospike.process import world_size
from autospike.supernet import Supernet

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This rank among all ranks. The default is a training without torchrun.

    Attributes:
        rank: Number of this rank.
        size: Number of ranks.
        local: Number of this rank among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """Read the environment variables that torchrun sets.

        Returns:
            This rank.
        """
        if world_size() == 1:
            return ALONE
        return cls(rank=int(os.environ["RANK"]), size=world_size(), local=int(os.environ["LOCAL_RANK"]))

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """Return the device of this rank.

        Args:
            kind: "cpu" or "cuda".

        Returns:
            The device; with several ranks, each has its own CUDA device.

        Raises:
            UserError: The machine has fewer CUDA devices than ranks.
        """
        if self.size == 1 or kind != "cuda":
            return torch.device(kind)
        if self.local >= torch.cuda.device_count():
            raise UserError(
                f"rank {self.rank}: this machine has {torch.cuda.device_count()} CUDA devices, but each rank needs one; "
                "lower --nproc-per-node, or set device to cpu"
            )
        return torch.device(kind, self.local)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Join the process group for the length of a block, over nccl on CUDA devices, else over gloo.

        Args:
            device: The device of this rank.
        """
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # torchrun may keep its store when it restarts the ranks: the addresses of the ended ones must not be found again.
        store, rank, size = next(rendezvous("env://"))
        store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        try:
            yield
        except (UserError, Interrupted):  # raised on all ranks; after another error torchrun ends the other ranks
            dist.destroy_process_group()
            raise
        dist.destroy_process_group()

    def slice(self, *, parts: int) -> RankSlice:
        """Return the images of a batch that belong to this rank.

        Args:
            parts: Number of parts in which a batch is processed.
        """
        return RankSlice(rank=self.rank, ranks=self.size, parts=parts)

    def replica(self, supernet: Supernet) -> tuple[nn.Module, Callable[[], AbstractContextManager[Any]]]:
        """Make the backward pass of a supernet average its gradients over the ranks.

        Parameters that no subnet of a step uses keep `grad` None, as on one rank, and the optimizer skips them.

        Args:
            supernet: The supernet. With several ranks, it normalises by the statistics of all ranks from now on.

        Returns:
            The module to call instead of the supernet, and the context in which gradients are not averaged; with one rank, the
            supernet itself and a context without effect.
        """
        if self.size == 1:
            return supernet, nullcontext
        supernet.synchronise()
        parallel = DistributedDataParallel(supernet, find_unused_parameters=True)
        return parallel, parallel.no_sync

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, in float64 if there are several.

        Args:
            values: The tensor of this rank, of the same shape on every rank.
        """
        if self.size == 1:
            return values
        total = values.double()
        dist.all_reduce(total)
        return total / self.size

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the ranks give.

        Args:
            number: The number of this rank.
        """
        if self.size == 1:
            return number
        numbers = torch.tensor(number, device=_communication_device())
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return int(numbers)

    def gather(self, local: Tensor, dim: int) -> Tensor:
        """Concatenate the tensors of all ranks, in the order of the ranks.

        Args:
            local: The tensor of this rank; all have the same shape.
            dim: The dimension to concatenate along.

        Returns:
            The whole tensor, on every rank.
        """
        if self.size == 1:
            return local
        tensors = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(tensors, local.contiguous())
        return torch.cat(tensors, dim=dim)

    def first_alone(self, act: Callable[[], object]) -> None:
        """Call a function on the first rank while the others wait.

        Args:
            act: The function.

        Raises:
            UserError: On all ranks, if the function raised it on the first one.
        """
        error = None
        if self.first:
            try:
                act()
            except UserError as reason:
                error = reason
        if self.largest(int(error is not None)):
            raise error or UserError(f"rank {self.rank}: the first rank failed; see its error message")


ALONE = Ranks()


def _communication_device() -> torch.device:
    """Device of the tensors that ranks exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else CPU
