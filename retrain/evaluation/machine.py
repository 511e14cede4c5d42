"""The machine that a speed was measured on, without which the number says nothing."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_STATUS, _CLEAR, _CPUS = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/cpuinfo")
_RESET_PEAK = "5"


@dataclass(frozen=True)
class Machine:
    """Attributes:
    cores: that this process may use.
    threads: that torch and ONNX Runtime compute with.
    gpu: None where the models are on the CPU.
    load: processes that wanted to run, mean of the minute before; above `cores`, times are of a busy machine.
    """

    processor: str
    cores: int
    threads: int
    load: float
    gpu: str | None
    system: str
    torch: str
    onnxruntime: str

    @classmethod
    def here(cls, device: str) -> "Machine":
        """This one, as far as it works for models on `device`."""
        import torch

        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            load=round(os.getloadavg()[0], 2),
            gpu=None if device == "cpu" else torch.cuda.get_device_name(device),
            system=platform.platform(),
            torch=version("torch"),
            onnxruntime=version("onnxruntime"),
        )

    @property
    def is_busy(self) -> bool:
        return self.load > self.cores

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def peak_memory_mb(run: Callable[[], Any], device: str) -> float | None:
    """Most memory in 10^6 bytes while `run` ran: of the whole process, or on a GPU of its tensors.

    None where the system does not tell.
    """
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        run()
        return float(torch.cuda.max_memory_allocated(device)) / 1e6
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        # Not Linux, or a sandbox: the peak since the process began would be that of another model.
        return None
    run()
    fields = (line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    peak = dict(fields).get("VmHWM")
    return None if peak is None else int(peak.split()[0]) * 1024 / 1e6


def _processor() -> str:
    try:
        lines = _CPUS.read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
