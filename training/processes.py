"""The processes that train together: one alone, or those that torchrun started.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK and the address to meet at. Gradients are averaged by
DistributedDataParallel: nccl between GPUs, gloo between CPU processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inference.engine import DeviceName, Precision, choose_device, choose_precision

__all__ = ["Processes", "join_processes"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among those that train together.

    Attributes
    ----------
    rank, world : int
    device : torch.device
    dtype : torch.dtype
        Of autocast; float32 means none.
    """

    rank: int
    world: int
    device: torch.device
    dtype: torch.dtype

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Return the part of a batch that is computed here."""
        return slice(self.rank * batch // self.world, (self.rank + 1) * batch // self.world)

    def wrap(self, net: nn.Module) -> nn.Module:
        """Average gradients over all processes; `net` itself where there is one only."""
        if self.world == 1:
            return net
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=devices)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes, detached."""
        values = values.detach()
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, mine: list[_T]) -> list[_T]:
        """The lists of all processes, one after the other."""
        if self.world == 1:
            return mine
        lists: list[list[_T]] = [[] for _ in range(self.world)]
        dist.all_gather_object(lists, mine)
        return [item for one in lists for item in one]

    def wait(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in :attr:`dtype` where that is safe."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


@contextmanager
def join_processes(
    device: DeviceName = "auto", precision: Precision = "auto"
) -> Iterator[Processes]:
    """Meet the other processes, if torchrun started some; part at the end.

    ``auto`` precision: bfloat16 where the device computes in it, on older GPUs float16 with
    scaled gradients, else float32.

    Raises
    ------
    DeviceError
    """
    where = choose_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    dtype = choose_precision(precision, where)
    if precision == "auto" and where.type == "cuda" and dtype == torch.float32:
        dtype = torch.float16
    if world == 1:
        yield Processes(0, 1, where, dtype)
        return
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, where, dtype)
    finally:
        dist.destroy_process_group()
