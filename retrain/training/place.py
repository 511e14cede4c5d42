"""Where one process stands among those that train together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from torch import distributed

_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """Given, not read from the environment, where Lightning and Ultralytics disagree about it.

    Attributes:
        rank: of this process among all, from 0.
        processes: on all machines.
        local_rank: on this machine; also its GPU.
        nodes: machines.
    """

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    nodes: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """What each process called this with, by rank; all have to."""
        if self.processes == 1:
            return [value]
        values: list[Any] = [None] * self.processes
        distributed.all_gather_object(values, value)
        return values

    def led(self, work: Callable[[], _T]) -> _T:
        """What the leading process gets from it; the others, which have to call it too, wait and do nothing."""
        if self.processes == 1:
            return work()
        made: list[Any] = [work() if self.leads else None]
        distributed.broadcast_object_list(made, src=0)
        got: _T = made[0]
        return got

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place; all have to call it."""
        if self.processes > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Overwrite with what the leading process has, in place; all have to call it."""
        if self.processes > 1:
            distributed.broadcast(tensor, src=0)


ALONE = Place()


class PlacedEnvironment(ClusterEnvironment):
    """Tells Lightning where this process stands, without any environment variable.

    Args:
        port: of the leading process, on this machine; nobody looks when a process group is there already.
    """

    def __init__(self, place: Place, port: int = 0) -> None:
        super().__init__()
        self._place, self._port = place, port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.processes

    def set_world_size(self, size: int) -> None:
        assert size == self._place.processes

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._place.rank

    def local_rank(self) -> int:
        return self._place.local_rank

    def node_rank(self) -> int:
        return self._place.rank // (self._place.processes // self._place.nodes)
