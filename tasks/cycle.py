"""Opens, continues and closes a retraining cycle under its lease."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import task

from retrain.cycle import Cycle, open_cycle
from tasks.events import announce
from tasks.resources import Resources
from tasks.retrying import RETRYING

_LEASE_TTL_S = 30.0


@dataclass(frozen=True)
class CycleWork:
    """An open cycle and what its tasks work with."""

    cycle: Cycle
    resources: Resources


@contextmanager
def cycle_work(resources: Resources, trigger_id: str) -> Iterator[CycleWork]:
    """The cycle of a trigger, started or continued, while this process alone holds the model's lease.

    Raises:
        Conflict: a cycle of this model is active elsewhere, or it was begun under another configuration.
    """
    model = resources.model
    with resources.leases.acquire(f"cycle-{model}", _LEASE_TTL_S) as lease:
        cycle = open_cycle(resources.state, model, trigger_id, resources.config.digest, lease)
        if cycle.record.status == "running" and cycle.record.attempts == 1:
            announce("cycle.started", model, cycle.id, {"cycle_id": cycle.id, "trigger_id": trigger_id})
        yield CycleWork(cycle, resources)


@task(name="finish cycle", task_run_name="finish as {status}", **RETRYING)
def finish_cycle(work: CycleWork, status: str, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    """Close the cycle; its trigger counts as handled from here on."""
    record = work.cycle.finish(status, outcome)
    announce(
        "cycle.finished", record.model, f"{record.id}/{status}", {"cycle_id": record.id, "status": status}
    )
    return outcome
