"""The record of a retraining cycle: which stages are proven done, and under which fencing token.

A cycle is one pass of the loop for one model. Its stages are keyed by their inputs, so a cycle that was killed
anywhere starts again from the first stage whose record is missing. A stage's work must be idempotent and must
read back its own effect before it returns: the record written here is the proof that it did.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, insert, select, update

from retrain.errors import Conflict, LeaseLost, NotFound
from retrain.storage.schema import cycles, samples, stages
from retrain.storage.state import StateStore

Clock = Callable[[], float]

STAGES = (
    "plan",
    "select",
    "annotate",
    "version",
    "layout",
    "train",
    "evaluate",
    "gate",
    "report",
    "register",
    "promote",
)
"""What a cycle records, in this order, when it ends as promoted."""
FIRST_STAGES = ("layout", "train", "register", "serve")
"""The same of the cycle that makes a model's first champion; see `first_trigger`."""
_ADDED_LATER = frozenset({"report"})
"""Older cycles ended without these, and nothing tells them from newer ones."""
_LAST_STAGE = {"promoted": "promote", "kept_champion": "gate", "nothing_to_do": "select"}


class Fence(Protocol):
    """Proof of still being the only one at work; `retrain.storage.leases.Lease` is one."""

    @property
    def token(self) -> int: ...

    def check(self, connection: Connection) -> None:
        """Raise `LeaseLost` unless the token is still the newest."""
        ...


@dataclass(frozen=True)
class StageRecord:
    stage: str
    output: Mapping[str, Any]
    started_at: float
    finished_at: float


@dataclass(frozen=True)
class CycleRecord:
    id: str
    model: str
    trigger_id: str
    status: str
    attempts: int
    created_at: float
    finished_at: float | None
    outcome: Mapping[str, Any] | None


class Cycle:
    """One open cycle, worked on by the one process that holds its lease."""

    def __init__(
        self, state: StateStore, record: CycleRecord, fence: Fence, clock: Clock = time.time
    ) -> None:
        self.record = record
        self._state, self._fence, self._clock = state, fence, clock

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def token(self) -> int:
        """The fencing token that every write of this cycle carries."""
        return self._fence.token

    def check(self, connection: Connection) -> None:
        """Raise `LeaseLost` unless this process may still write, in the transaction it is about to commit.

        It may not once another process took the lease, nor once an operator abandoned the cycle.
        """
        self._fence.check(connection)
        status = connection.execute(select(cycles.c.status).where(cycles.c.id == self.id)).scalar_one()
        if status != "running":
            raise LeaseLost(f"Cycle {self.id} is {status}; nothing more is written for it.")

    def stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Do `work` unless this stage is already proven done for the same inputs.

        Args:
            inputs: JSON-ready values that determine the output; part of the stage's key.
            work: idempotent; returns JSON-ready output after reading back its own effect.

        Raises:
            Conflict: the stage was done for other inputs; results of two different cycles would be mixed.
            LeaseLost: another process has taken the cycle over; nothing was recorded.
        """
        key = _hash(inputs)
        if (done := self._recorded(name)) is not None:
            if done.input_hash != key:
                raise Conflict(
                    f"Stage {name} of cycle {self.id} was done for other inputs; start a new cycle."
                )
            return dict(done.output)
        started = self._clock()
        output = json.loads(json.dumps(work()))
        with self._state.write() as connection:
            self.check(connection)
            connection.execute(
                insert(stages).values(
                    cycle_id=self.id,
                    stage=name,
                    input_hash=key,
                    output=output,
                    token=self.token,
                    started_at=started,
                    finished_at=self._clock(),
                )
            )
        return dict(output)

    def require_ours(self) -> None:
        """Stop long work early: raise `LeaseLost` once another process, or an operator, took the cycle away."""
        with self._state.read() as connection:
            self.check(connection)

    def finish(self, status: str, outcome: Mapping[str, Any]) -> CycleRecord:
        """Close the cycle for good; its trigger is handled."""
        with self._state.write() as connection:
            self.check(connection)
            connection.execute(
                update(cycles)
                .where(cycles.c.id == self.id)
                .values(status=status, finished_at=self._clock(), outcome=dict(outcome))
            )
        return read_cycle(self._state, self.id)

    def _recorded(self, name: str) -> Any:
        with self._state.read() as connection:
            query = select(stages).where(stages.c.cycle_id == self.id, stages.c.stage == name)
            return connection.execute(query).one_or_none()


def open_cycle(
    state: StateStore, model: str, trigger_id: str, config_digest: str, fence: Fence, clock: Clock = time.time
) -> Cycle:
    """Start the cycle of a trigger, or continue the one a killed process left.

    Raises:
        Conflict: it was begun under another configuration, which would mix two sets of rules.
    """
    cycle_id = f"cycle-{trigger_id}"
    with state.write() as connection:
        fence.check(connection)
        row = connection.execute(select(cycles).where(cycles.c.id == cycle_id)).one_or_none()
        if row is None:
            connection.execute(
                insert(cycles).values(
                    id=cycle_id,
                    model=model,
                    trigger_id=trigger_id,
                    config_hash=config_digest,
                    status="running",
                    attempts=1,
                    created_at=clock(),
                )
            )
        elif row.status == "running":
            # Counted before anything can be refused: an attempt that may not go on is one all the same.
            connection.execute(
                update(cycles).where(cycles.c.id == cycle_id).values(attempts=row.attempts + 1)
            )
    if row is not None and row.status == "running" and row.config_hash != config_digest:
        raise Conflict(
            f"Cycle {cycle_id} was begun under another configuration. Restore that configuration to finish it, or "
            f"close it with `retrain cycle abandon {cycle_id}`."
        )
    return Cycle(state, read_cycle(state, cycle_id), fence, clock)


def abandon_cycle(state: StateStore, cycle_id: str, now: float) -> CycleRecord:
    """Close a running cycle without finishing its work; what it already did stays.

    If no dataset version holds its samples, they wait again for another cycle, and the outcome says how many.
    """
    read_cycle(state, cycle_id)
    running = (cycles.c.id == cycle_id) & (cycles.c.status == "running")
    with state.write() as connection:
        if connection.execute(select(cycles.c.id).where(running)).first() is not None:
            given_back = _give_back(connection, cycle_id)
            outcome = {"reason": "abandoned by an operator", "samples_waiting_again": given_back}
            change = update(cycles).where(running)
            connection.execute(change.values(status="abandoned", finished_at=now, outcome=outcome))
    return read_cycle(state, cycle_id)


def first_trigger(state: StateStore, model: str) -> str:
    """The trigger of the cycle that makes the model's first champion: a new one after each that was abandoned."""
    ended = sum(_is_first(cycle) and cycle.status == "abandoned" for cycle in list_cycles(state, model))
    return f"{model}-first" if ended == 0 else f"{model}-first-{ended + 1}"


def required_stages(cycle: CycleRecord) -> tuple[str, ...]:
    """The stages without whose records no cycle, of whatever age, can have ended as this one says.

    None if it has not ended, or was abandoned.
    """
    if _is_first(cycle):
        return FIRST_STAGES if cycle.status == "promoted" else ()
    last = _LAST_STAGE.get(cycle.status)
    ended = () if last is None else STAGES[: STAGES.index(last) + 1]
    return tuple(stage for stage in ended if stage not in _ADDED_LATER)


def read_cycle(state: StateStore, cycle_id: str) -> CycleRecord:
    """The stored record.

    Raises:
        NotFound: no such cycle.
    """
    with state.read() as connection:
        row = connection.execute(select(cycles).where(cycles.c.id == cycle_id)).one_or_none()
    if row is None:
        raise NotFound(f"No cycle {cycle_id!r}. `retrain cycle list` shows those there are.")
    return _record(row)


def list_cycles(state: StateStore, model: str | None = None) -> list[CycleRecord]:
    """All cycles, newest last."""
    query = select(cycles).order_by(cycles.c.created_at)
    if model is not None:
        query = query.where(cycles.c.model == model)
    with state.read() as connection:
        return [_record(row) for row in connection.execute(query)]


def stage_records(state: StateStore, cycle_id: str) -> list[StageRecord]:
    """Stages proven done, in the order they finished."""
    query = select(stages).where(stages.c.cycle_id == cycle_id).order_by(stages.c.finished_at)
    with state.read() as connection:
        return [
            StageRecord(row.stage, row.output, row.started_at, row.finished_at)
            for row in connection.execute(query)
        ]


def _is_first(cycle: CycleRecord) -> bool:
    name = f"{cycle.model}-first"
    return cycle.trigger_id == name or cycle.trigger_id.startswith(f"{name}-")


def _give_back(connection: Connection, cycle_id: str) -> int:
    versioned = select(stages.c.stage).where(stages.c.cycle_id == cycle_id, stages.c.stage == "version")
    if connection.execute(versioned).first() is not None:
        return 0
    claimed = update(samples).where(samples.c.cycle_id == cycle_id)
    return connection.execute(claimed.values(cycle_id=None)).rowcount


def _record(row: Any) -> CycleRecord:
    return CycleRecord(
        row.id,
        row.model,
        row.trigger_id,
        row.status,
        row.attempts,
        row.created_at,
        row.finished_at,
        row.outcome,
    )


def _hash(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
