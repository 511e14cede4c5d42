"""The files in which processes publish their counts: read as one sum, and folded into one when a process is gone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from retrain.data_collection.locks import lock_file
from retrain.data_collection.statistics.counters import SUFFIX, Counts, Standstill, total
from retrain.errors import BadInput
from retrain.storage.files import write_whole

FOLDED = "folded" + SUFFIX
LIVE_S = 10.0
"""Producers publish every second; one that is silent for longer hangs or is gone."""
_SILENT_S = 3600.0
"""A process of another container looks dead from here: only such a long silence says that it is."""
_REMEMBERED_S = 86_400.0

Life = Literal["live", "stale", "ended"]


class _Folded(Counts, frozen=True):
    """The sum of files that are gone.

    Attributes:
        base: counts of processes long gone.
        parts: counts of those folded lately, by file name. Should such a file still or again be there, it says all
            that its part says and perhaps more, so it counts instead: a kill between the writing of this file and the
            deletion of those changes no sum, and neither does a process that was only asleep.
    """

    base: Counts | None = None
    parts: dict[str, Counts] = {}


@dataclass(frozen=True)
class Producer:
    """A process that published counts.

    Attributes:
        name: its process id and a random part.
        life: `live` published just now, `stale` did not although its process exists, `ended` has none.
        standstills: what did not go on when it published: "storing", "quota".
    """

    name: str
    published_at: float
    life: Life
    standstills: Mapping[str, Standstill]


@dataclass(frozen=True)
class Published:
    """Everything published in one folder.

    Attributes:
        counts: the sum over all processes, those that have ended too; None if nobody ever published.
        producers: those with a file of their own, the last heard of first.
        damaged: names of files that cannot be read and are missing in the sum.
    """

    counts: Counts | None
    producers: tuple[Producer, ...]
    damaged: tuple[str, ...]


def read_published(folder: Path, now: float) -> Published:
    """The sum of what was published there, and who published it.

    Args:
        now: seconds since the epoch, to tell who is live.
    """
    found, damaged = _read_files(folder)
    # Read last: a file that vanished since is in it, and one that is in both counts once.
    try:
        folded = _read_folded(folder)
    except BadInput:
        folded, damaged = None, (*damaged, FOLDED)
    parts = [*found.values(), *_folded_parts(folded, found)]
    producers = [
        Producer(name, counts.at, _life(name, counts, now), counts.standstills)
        for name, counts in found.items()
    ]
    producers.sort(key=lambda one: one.published_at, reverse=True)
    return Published(total(parts) if parts else None, tuple(producers), damaged)


def fold(folder: Path, now: float) -> int:
    """Move the counts of processes that are gone for an hour into one file; returns how many.

    Killed anywhere, no count is lost and none counts twice for `read_published`. Does nothing while another process
    folds.

    Raises:
        BadInput: the folded file is damaged; nothing was changed.
        StorageFull: no space; nothing was changed.
    """
    if (lock := lock_file(folder / ".folding", wait=False)) is None:
        return 0
    try:
        return _fold(folder, now)
    finally:
        lock.unlock()


def _fold(folder: Path, now: float) -> int:
    found, _ = _read_files(folder)
    gone = {
        name: counts
        for name, counts in found.items()
        if now - counts.at > _SILENT_S and _life(name, counts, now) == "ended"
    }
    if not gone:
        return 0
    folded = _read_folded(folder)
    parts = (folded.parts if folded else {}) | gone
    old = {name for name, part in parts.items() if now - part.at > _REMEMBERED_S and name not in found}
    base = [*([folded.base] if folded and folded.base else []), *(parts.pop(name) for name in old)]
    everything = total([*base, *parts.values()])
    whole = _Folded(
        everything.since,
        everything.at,
        everything.outcomes,
        everything.histogram,
        base=total(base) if base else None,
        parts=parts,
    )
    write_whole(folder / FOLDED, msgspec.json.encode(whole))
    for name in gone:
        (folder / (name + SUFFIX)).unlink(missing_ok=True)
    return len(gone)


def _folded_parts(folded: _Folded | None, found: Mapping[str, Counts]) -> list[Counts]:
    if folded is None:
        return []
    parts = [part for name, part in folded.parts.items() if name not in found]
    return parts if folded.base is None else [folded.base, *parts]


def _read_files(folder: Path) -> tuple[dict[str, Counts], tuple[str, ...]]:
    """Counts by producer, and the names of files that cannot be read."""
    found, damaged = {}, []
    for path in sorted(folder.glob("*" + SUFFIX)):
        if path.name == FOLDED:
            continue
        try:
            found[path.name.removesuffix(SUFFIX)] = msgspec.json.decode(path.read_bytes(), type=Counts)
        except FileNotFoundError:
            continue  # just folded
        except msgspec.DecodeError:
            damaged.append(path.name)
    return found, tuple(damaged)


def _read_folded(folder: Path) -> _Folded | None:
    path = folder / FOLDED
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Folded)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise BadInput(f"The counts in {path} are damaged ({error}); delete the file.") from error


def _life(name: str, counts: Counts, now: float) -> Life:
    if now - counts.at <= LIVE_S:
        return "live"
    return "stale" if _has_process(name, counts.since) else "ended"


def _has_process(name: str, since: float) -> bool:
    """Whether the process that began to count at `since` is still there."""
    try:
        process = psutil.Process(int(name.split("-", maxsplit=1)[0]))
        # Another process that has got the same number began after the counting did.
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1)
    except (ValueError, psutil.NoSuchProcess):
        return False
