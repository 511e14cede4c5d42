"""Training in the memory there is: after running out of it, on from the last checkpoint in smaller parts of a batch."""

import gc
import logging
from dataclasses import replace

import torch

from retrain.errors import OutOfMemory
from retrain.training.checkpoints import CheckpointManager
from retrain.training.execution import Execution
from retrain.training.fitting import Clock, FitSettings, Saved, fit
from retrain.training.job import TrainingJob
from retrain.training.micro_batches import more_parts
from retrain.training.place import Place
from retrain.training.recorder import OnEpoch
from retrain.training.reproducible import seed_everything
from retrain.training.result import EpochReport
from retrain.training.supervisor import Supervisor

logger = logging.getLogger(__name__)


class FittingInMemory:
    """Trains jobs to their end, in this process or in watched ones.

    Args:
        how: which of both, and in how many.
        clock: seconds, for durations only.
    """

    def __init__(self, how: Execution, supervisor: Supervisor, clock: Clock) -> None:
        self._how, self._supervisor, self._clock = how, supervisor, clock

    def run(
        self,
        job: TrainingJob,
        settings: FitSettings,
        saved: Saved | None,
        checkpoints: CheckpointManager,
        on_epoch: OnEpoch,
        place: Place,
    ) -> None:
        """Train until the last checkpoint says that the job is finished; call within `reproducible`.

        Args:
            saved: the checkpoint to go on from; the same in all processes.

        Raises:
            OutOfMemory: not even one image at a time fits, or other launched processes have to be started again.
        """
        while True:
            parts = place.led(job.micro_batches)
            now = replace(settings, micro_batches=parts)
            try:
                if place.processes > 1 or not self._how.watched:
                    written = checkpoints if place.leads else None
                    fit(job, now, saved, written, on_epoch, self._clock, place)
                else:
                    self._supervisor.run(job, now, self._how.processes, _once_each(on_epoch, saved))
            except OutOfMemory as error:
                told = str(error)
            else:
                return
            # Out of the handler, which keeps the failed attempt in memory.
            images = job.request.batch_size // max(place.processes, self._how.processes)
            job.split(more_parts(parts, images, told))
            if place.processes > 1:
                # The others wait for a batch of this one: only their launcher can start all again.
                raise OutOfMemory(
                    f"{told} Started again, job {job.id} trains in {job.micro_batches()} parts."
                )
            logger.warning("%s Training job %s goes on in %d parts.", told, job.id, job.micro_batches())
            gc.collect()
            torch.cuda.empty_cache()
            seed_everything(job.request.seed)
            saved = checkpoints.newest_good()


def _once_each(on_epoch: OnEpoch, saved: Saved | None) -> OnEpoch:
    """Watched processes that are started again report an epoch again."""
    reported = set() if saved is None else {saved[0].epoch}

    def report_new(report: EpochReport) -> None:
        if report.epoch not in reported:
            reported.add(report.epoch)
            on_epoch(report)

    return report_new
