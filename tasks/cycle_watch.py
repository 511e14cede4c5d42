"""Follows a cycle from another process, through the durable state and Prefect's API; it starts nothing."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun

from retrain.cycle import StageRecord, read_cycle, stage_records
from retrain.data_collection.triggers.crossings import Crossing
from retrain.errors import NotFound, PostConditionFailed
from tasks.resources import Resources

Show = Callable[..., None]


@dataclass(frozen=True)
class FlowRunFacts:
    """What Prefect says about the run that answered the crossing."""

    id: str
    name: str
    created_by: str
    created_by_type: str
    created_at: float
    started_at: float | None


class CycleWatch:
    """Watches the cycle that answers one crossing."""

    def __init__(self, resources: Resources, crossing: Crossing) -> None:
        self.resources = resources
        self.trigger = crossing
        self.cycle_id = f"cycle-{crossing.id}"
        self._run_id: str | None = None

    @staticmethod
    def of_first(resources: Resources) -> "CycleWatch":
        """The cycle that makes the first champion, which no crossing starts."""
        name = f"{resources.model}-first"
        return CycleWatch(resources, Crossing(name, resources.model, 0, 0, 0, time.time(), None))

    @property
    def status(self) -> str:
        return read_cycle(self.resources.state, self.cycle_id).status

    @property
    def outcome(self) -> Mapping[str, Any]:
        return read_cycle(self.resources.state, self.cycle_id).outcome or {}

    def stages(self) -> list[StageRecord]:
        return stage_records(self.resources.state, self.cycle_id)

    def wait_for_run(self, timeout_s: float) -> FlowRunFacts:
        """The flow run that Prefect's automation made for the crossing.

        Raises:
            PostConditionFailed: none appeared in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (run := self._flow_run()) is not None and run.start_time is not None:
                self._run_id = str(run.id)
                return _facts(run)
            time.sleep(0.5)
        raise PostConditionFailed(
            f"No flow run started for {self.trigger.id} within {timeout_s:.0f} s of its event. See the automation "
            "retrain-on-threshold-crossed in the Prefect UI, and the worker's log."
        )

    def wait_until_finished(self, show: Show, timeout_s: float) -> None:
        """Return when the cycle is closed; show its stages and epochs meanwhile.

        Raises:
            PostConditionFailed: the flow run failed, or the cycle is not closed in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._show(show)
            if self._finished():
                return
            self._raise_if_failed()
            time.sleep(1.0)
        raise PostConditionFailed(f"Cycle {self.cycle_id} is not finished after {timeout_s:.0f} s.")

    @contextmanager
    def showing(self, show: Show) -> Iterator[None]:
        """Show progress from a thread while the block runs the cycle in this process."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(1.0):
                self._show(show)

        thread = threading.Thread(target=follow, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _show(self, show: Show) -> None:
        epochs = [
            entry for entry in self.resources.progress(self.cycle_id).entries() if entry.kind == "epoch"
        ]
        done = [record.stage for record in self.stages()]
        if epochs and "train" not in done:
            last = epochs[-1].payload
            text = f"epoch {last['epoch']}/{last['epochs']}, mAP50 {last['map50']:.3f}, {last['eta_s']:.0f} s left"
            show(text, last["epoch"], last["epochs"])
        elif done:
            show(f"done: {', '.join(done)}")

    def _finished(self) -> bool:
        try:
            return read_cycle(self.resources.state, self.cycle_id).finished_at is not None
        except NotFound:
            return False

    def _raise_if_failed(self) -> None:
        run = self._flow_run()
        if run is not None and run.state is not None and run.state.is_final() and not self._finished():
            raise PostConditionFailed(f"Flow run {run.name!r} ended as {run.state.name}: {run.state.message}")

    def _flow_run(self) -> FlowRun | None:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["continuous-retraining"])),
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["retrain"])),
            )
        answering = [run for run in runs if run.parameters.get("trigger_id") == self.trigger.id]
        return answering[0] if answering else None


def _facts(run: FlowRun) -> FlowRunFacts:
    creator = run.created_by
    return FlowRunFacts(
        str(run.id),
        run.name,
        str(creator.display_value if creator else None),
        str(creator.type if creator else None),
        run.created.timestamp() if run.created else 0.0,
        run.start_time.timestamp() if run.start_time else None,
    )
