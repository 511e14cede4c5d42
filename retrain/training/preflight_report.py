"""What the checks before a training found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from retrain.errors import BadInput, ConfigError, PostConditionFailed, RetrainError, StorageFull

_ERRORS: Mapping[str, type[RetrainError]] = {
    "labels": BadInput,
    "separation": BadInput,
    "compile": ConfigError,
    "disk": StorageFull,
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: `labels`, `separation`, `compile` (if asked for), `overfit`, `memory`, `time` or `disk`.
        ok: false stops the training.
        said: what was found, and what to do about it where it is not ok.
        figures: behind it.
        warning: what is odd, but does not stop anything; empty when nothing is.
    """

    name: str
    ok: bool
    said: str
    figures: Mapping[str, float]
    warning: str = ""


@dataclass(frozen=True)
class PreflightReport:
    """All checks of one job, whether they were passed or not.

    Attributes:
        job_id: of the job that would be trained.
        seconds: that the checks took.
    """

    job_id: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def raise_if_failed(self) -> None:
        """Name every failed check.

        Raises:
            BadInput, ConfigError, StorageFull: only the data, the compiler or the disk is the reason.
            PostConditionFailed: anything else.
        """
        if self.ok:
            return
        failed = [check for check in self.checks if not check.ok]
        kinds = {_ERRORS.get(check.name, PostConditionFailed) for check in failed}
        kind = kinds.pop() if len(kinds) == 1 else PostConditionFailed
        said = " ".join(f"{check.name}: {check.said.rstrip('.')}." for check in failed)
        raise kind(f"Training would fail or be in vain, so it was not begun. {said}")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PreflightReport":
        checks = tuple(Check(**check) for check in data["checks"])
        return cls(data["job_id"], checks, data["seconds"])
