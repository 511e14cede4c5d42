"""What was in production when, and why: append-only, each entry sealed over the one before it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from retrain.errors import BadInput, Conflict
from retrain.storage.schema import ledger
from retrain.storage.state import StateStore

CHAMPION_KINDS = ("promoted", "rolled_back")
"""Entries after which another release is in production; their payload names it as `digest`."""
_FIRST = "0" * 64


@dataclass(frozen=True)
class LedgerEntry:
    seq: int
    model: str
    key: str
    kind: str
    at: float
    payload: dict[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class LedgerCheck:
    """Result of walking the chain; `damaged` is the number of the first entry that cannot be trusted."""

    entries: int
    damaged: int | None
    reason: str | None

    @property
    def intact(self) -> bool:
        return self.damaged is None


class Ledger:
    """One chain for all models. Entries cut off its end cannot be noticed; compare `entries` with a copy."""

    def __init__(self, state: StateStore) -> None:
        self._state = state

    def append(self, model: str, key: str, kind: str, payload: Mapping[str, Any], now: float) -> LedgerEntry:
        """Add an entry, or return the one this key already has: what was recorded first stays.

        Raises:
            Conflict: the key belongs to an entry of another model or kind.
            BadInput: a payload that JSON cannot hold, or that lacks the `digest` its kind needs.
        """
        if kind in CHAMPION_KINDS and not payload.get("digest"):
            raise BadInput(
                f"A ledger entry {kind!r} needs the release in payload['digest'], got {dict(payload)}."
            )
        text = _canonical(payload)
        with self._state.write() as connection:
            if known := connection.execute(select(ledger).where(ledger.c.key == key)).one_or_none():
                if (known.model, known.kind) != (model, kind):
                    raise Conflict(
                        f"Ledger key {key!r} is taken by {known.kind!r} of {known.model}, entry {known.seq}."
                    )
                return _entry(known)
            return _entry(_append(connection, model, key, kind, text, float(now)))

    def entries(self, model: str) -> list[LedgerEntry]:
        """Oldest first."""
        query = select(ledger).where(ledger.c.model == model).order_by(ledger.c.seq)
        with self._state.read() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def champion_at(self, model: str, t: float) -> LedgerEntry | None:
        """The entry that put in production what served at `t`, with its evidence; None before the first."""
        query = (
            select(ledger)
            .where(ledger.c.model == model, ledger.c.kind.in_(CHAMPION_KINDS), ledger.c.at <= t)
            .order_by(ledger.c.seq.desc())
            .limit(1)
        )
        with self._state.read() as connection:
            row = connection.execute(query).one_or_none()
        return _entry(row) if row else None

    def verify(self) -> LedgerCheck:
        """Recompute every seal."""
        previous_seq, previous_hash = 0, _FIRST
        with self._state.read() as connection:
            rows = connection.execute(select(ledger).order_by(ledger.c.seq)).all()
        for row in rows:
            if reason := _damage(row, previous_seq, previous_hash):
                return LedgerCheck(len(rows), row.seq, reason)
            previous_seq, previous_hash = row.seq, row.hash
        return LedgerCheck(len(rows), None, None)


def _append(connection: Connection, model: str, key: str, kind: str, text: str, at: float) -> Row[Any]:
    last = connection.execute(select(ledger).order_by(ledger.c.seq.desc()).limit(1)).one_or_none()
    seq, previous = (last.seq + 1, last.hash) if last else (1, _FIRST)
    seal = _seal(previous, seq, model, key, kind, at, text)
    values = {"seq": seq, "model": model, "key": key, "kind": kind, "at": at, "payload": text}
    connection.execute(insert(ledger).values(**values, previous_hash=previous, hash=seal))
    return connection.execute(select(ledger).where(ledger.c.seq == seq)).one()


def _damage(row: Row[Any], previous_seq: int, previous_hash: str) -> str | None:
    if row.seq != previous_seq + 1:
        return f"Entry {previous_seq + 1} is missing: {row.seq} follows {previous_seq}."
    if row.previous_hash != previous_hash:
        return f"Entry {row.seq} ({row.key}) does not follow from entry {previous_seq}."
    if row.hash != _seal(previous_hash, row.seq, row.model, row.key, row.kind, row.at, row.payload):
        return f"Entry {row.seq} ({row.key}) was changed after it was written."
    return None


def _seal(previous: str, seq: int, model: str, key: str, kind: str, at: float, text: str) -> str:
    fields = {"seq": seq, "model": model, "key": key, "kind": kind, "at": at, "payload": text}
    return hashlib.sha256((previous + _canonical(fields)).encode()).hexdigest()


def _canonical(payload: Mapping[str, Any]) -> str:
    try:
        return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"A ledger payload must be plain JSON without NaN: {error}.") from error


def _entry(row: Row[Any]) -> LedgerEntry:
    return LedgerEntry(
        row.seq, row.model, row.key, row.kind, row.at, json.loads(row.payload), row.previous_hash, row.hash
    )
