"""What a launcher starts several times: `launched_worker.py JOBS CONFIG SAID`; each writes a file into SAID.

The first attempt of process 1 kills itself after as many validations as `KILL_AFTER` says.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from retrain.errors import BadInput, RetrainError
from retrain.training.detection_module import DetectionModule
from retrain.training.jobs import TrainingJobs
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import EpochReport
from retrain.training.ultralytics_parts import LOGGER  # noqa: F401 - in Ultralytics, the rank is read on import

RANK = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def main(jobs: Path, config: dict[str, Any], said: Path) -> None:
    import ultralytics.utils

    epochs: list[int] = []
    orchestrator = TrainingOrchestrator(jobs, stall_s=60)

    def note(report: EpochReport) -> None:
        epochs.append(report.epoch)

    if (
        (after := os.environ.get("KILL_AFTER"))
        and RANK == 1
        and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    ):
        _die_in(int(after))
    result = orchestrator.train(config, note)
    told = {
        **result.to_json(),
        "model_folder": str(result.model_folder),
        "reported": epochs,
        "ultralytics_rank": ultralytics.utils.RANK,
        "other_seeds": _error(orchestrator, {**config, "seed": RANK + 1}),
        "missing_data": _error(
            orchestrator, {**config, "val_data": f"missing-{RANK}"} if RANK else config | {"seed": 9}
        ),
        **_broken_in_training(orchestrator, jobs, {**config, "seed": 11}),
    }
    (said / f"{RANK}.json").write_text(json.dumps(told))


def _error(orchestrator: TrainingOrchestrator, config: dict[str, Any]) -> str:
    try:
        orchestrator.train(config)
    except RetrainError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _broken_in_training(
    orchestrator: TrainingOrchestrator, jobs: Path, config: dict[str, Any]
) -> dict[str, Any]:
    """Process 1 fails alone: with what it says, and with what nobody foresaw."""
    validated = DetectionModule.on_validation_epoch_end
    told = {}
    for name, error in {"unusable": BadInput("It is broken."), "unforeseen": ValueError("a bug")}.items():

        def breaking(module: DetectionModule, error: Exception = error) -> None:
            if RANK == 1:
                raise error
            validated(module)

        DetectionModule.on_validation_epoch_end = breaking  # type: ignore[method-assign]
        try:
            told[name] = _error(orchestrator, config)
        except ValueError as unforeseen:
            told[name] = repr(unforeseen)
        status = TrainingJobs(jobs).get(orchestrator.job_id(config))
        told[f"{name}_state"] = [status.state, status.error]
    DetectionModule.on_validation_epoch_end = validated  # type: ignore[method-assign]
    return told


def _die_in(epoch: int) -> None:
    validated = DetectionModule.on_validation_epoch_end

    def dying(module: DetectionModule) -> None:
        if module.epoch + 1 == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        validated(module)

    DetectionModule.on_validation_epoch_end = dying  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
