"""How an orchestrator runs its jobs, checked; what is trained is said by each request."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from retrain.errors import ConfigError, Unavailable
from retrain.storage.open_blobs import open_blobs
from retrain.training.export.bundle import FORMATS
from retrain.training.precision import checked_precision


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings of `TrainingOrchestrator`, described there.

    Raises:
        ConfigError: one cannot be.
        Unavailable: there are fewer GPUs than asked for.
    """

    num_gpus: int = 0
    mixed_precision: bool | str = False
    gradient_accumulation: int = 1
    checkpoint_minutes: float | None = 10.0
    num_processes: int | None = None
    supervised: bool = False
    stall_s: float = 600.0
    max_restarts: int = 3
    slice_drop_limit: float = 0.05
    keep_best: int = 1
    checkpoint_mirror: str | None = None
    export: Sequence[str] = tuple(FORMATS)
    pictures: bool = False

    def __post_init__(self) -> None:
        if not _whole(self.num_gpus, 0):
            raise ConfigError(f"num_gpus must be a whole number of at least 0, got {self.num_gpus!r}.")
        if self.num_gpus and self.num_processes not in {None, self.num_gpus}:
            raise ConfigError(
                f"num_processes is {self.num_processes}, but every GPU has one process; leave it out beside num_gpus."
            )
        if self.num_processes is not None and not _whole(self.num_processes, 1):
            raise ConfigError(f"num_processes must be at least 1, got {self.num_processes}.")
        if not _whole(self.gradient_accumulation, 1):
            raise ConfigError(f"gradient_accumulation must be at least 1, got {self.gradient_accumulation}.")
        if self.checkpoint_minutes is not None and not _number(self.checkpoint_minutes, 0):
            raise ConfigError(
                f"checkpoint_minutes must be 0 or more, or None, got {self.checkpoint_minutes}."
            )
        if not _number(self.stall_s, 0) or self.stall_s == 0:
            raise ConfigError(f"stall_s must be a number of seconds above 0, got {self.stall_s!r}.")
        if not _whole(self.max_restarts, 0):
            raise ConfigError(f"max_restarts must be at least 0, got {self.max_restarts!r}.")
        if not _number(self.slice_drop_limit, 0) or self.slice_drop_limit > 1:
            raise ConfigError(f"slice_drop_limit must be in [0, 1], got {self.slice_drop_limit}.")
        if not _whole(self.keep_best, 1):
            raise ConfigError(f"keep_best must be a whole number of at least 1, got {self.keep_best!r}.")
        for name in ("supervised", "pictures"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        if not isinstance(self.export, list | tuple) or not set(self.export) <= set(FORMATS):
            raise ConfigError(
                f"export must be a list of {', '.join(FORMATS)}, or empty, got {self.export!r}."
            )
        checked_precision(self.mixed_precision, self.device)
        if self.checkpoint_mirror is not None:
            if not isinstance(self.checkpoint_mirror, str):
                raise ConfigError(f"checkpoint_mirror must be a text, got {self.checkpoint_mirror!r}.")
            open_blobs(self.checkpoint_mirror)  # a wrong address is an error now
        if self.num_gpus > torch.cuda.device_count():
            raise Unavailable(
                f"num_gpus is {self.num_gpus}, but torch sees {torch.cuda.device_count()} on this machine; use at most "
                "that many, 0 for the CPU."
            )

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    @property
    def asked_processes(self) -> int | None:
        """On this machine; None where that is left to whoever launched this one."""
        return self.num_gpus or self.num_processes

    @property
    def processes(self) -> int:
        """That share every batch, where this one was not launched among others."""
        return self.asked_processes or 1

    @property
    def watched(self) -> bool:
        return self.supervised or self.processes > 1

    def to_json(self) -> dict[str, Any]:
        """To make another like it."""
        return asdict(self)


def _number(value: Any, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < math.inf


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
