"""How much memory a piece of work takes at its peak, and how much there is, on the CPU or a GPU."""

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

_LOOK_EVERY_S = 0.002
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes(device: str) -> int:
    """What this process may still take: of the GPU, or of the machine and the container it is in."""
    _give_back()
    if device == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    free = [psutil.virtual_memory().available]
    for limit, used in _CGROUPS:
        # Absent where there are no such groups, "max" where there is no limit.
        if Path(limit).is_file() and (most := Path(limit).read_text().strip()).isdigit():
            free.append(int(most) - int(Path(used).read_text()))
    return max(min(free), 0)


class PeakMeter:
    """Measures how far memory rises above where it was when this was made; on the CPU it looks every 2 ms.

    What is freed in between may stay with the process, where later work uses it again. Peaks are therefore always
    told from the beginning, and comparable only when they are measured from small to large.
    """

    def __init__(self, device: str) -> None:
        self._device, self._process = device, psutil.Process()
        _give_back()
        self._before = self._now()

    def peak(self, work: Callable[[], object]) -> int:
        """Bytes above the beginning at the highest point of `work`."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            work()
            torch.cuda.synchronize()
            return int(torch.cuda.max_memory_allocated()) - self._before
        highest = self._now()
        done = threading.Event()

        def look() -> None:
            nonlocal highest
            while not done.wait(_LOOK_EVERY_S):
                highest = max(highest, self._now())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            work()
        finally:
            done.set()
            looking.join()
        return max(highest, self._now()) - self._before

    def _now(self) -> int:
        if self._device == "cuda":
            torch.cuda.synchronize()
            return int(torch.cuda.memory_allocated())
        return int(self._process.memory_info().rss)


def _give_back() -> None:
    """What was freed before goes back to the machine, else new work is taken to need less than it does."""
    gc.collect()
    # Only glibc has it.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
