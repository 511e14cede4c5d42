"""`retrain collect drain`: stores what waits in the spool of this home, once or for as long as it runs."""

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from retrain.data_collection.background import SpoolDrainer
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.statistics.counter_files import fold
from retrain.data_collection.store.intake import DrainReport
from retrain.errors import RetrainError
from tasks.resources import Resources

if TYPE_CHECKING:
    from retrain.data_collection.redis_backend.drainer import StreamDrainer

Drains: TypeAlias = "SpoolDrainer | StreamDrainer"


def drain_once(resources: Resources, console: Console) -> None:
    """Return when everything that was in the spool is stored.

    Raises:
        RetrainError: the store does not take it; nothing is lost.
    """
    report = _pass(_drainers(resources), resources, wait=True)
    console.print(_said(report))
    if waiting := spool_depth(resources.spool).records:
        console.print(f"{waiting} came meanwhile and wait; --follow goes on.")


def drain_and_follow(
    resources: Resources, console: Console, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Drain every `data_collection.flush_s` until Ctrl-C; while the store does not answer, frames wait in the spool."""
    drainers, total, problem = _drainers(resources), Counter[str](), ""
    pause = resources.config.data_collection.flush_s
    console.print(f"Draining {resources.spool} every {pause:g} s until Ctrl-C.", soft_wrap=True)
    try:
        while True:
            try:
                report = _pass(drainers, resources, wait=False)
            except RetrainError as error:
                # Said once, not every few seconds.
                if str(error) != problem:
                    console.print(f"Frames wait in the spool, nothing is lost: {error}", soft_wrap=True)
                problem = str(error)
            else:
                problem = ""
                total += report.outcomes
                if report.outcomes or report.torn or report.damaged or report.unreadable:
                    console.print(_said(report))
            sleep(pause)
    except KeyboardInterrupt:
        console.print(f"In all: {_said(DrainReport(total))}")


def _drainers(resources: Resources) -> list[Drains]:
    """What empties the spool of this home, and what stores the frames that hosts sent to Redis, if one is set."""
    stream = resources.stream_drainer()
    own = resources.collection_service(background=False).drainer
    return [own] if stream is None else [own, stream]


def _pass(drainers: list[Drains], resources: Resources, *, wait: bool) -> DrainReport:
    total = DrainReport()
    for drainer in drainers:
        report = drainer.drain(wait=wait)
        total.outcomes += report.outcomes
        total.torn += report.torn
        total.damaged += report.damaged
        total.unreadable += report.unreadable
    fold(resources.spool, time.time())
    return total


def _said(report: DrainReport) -> str:
    said = [f"{frames} {outcome}" for outcome, frames in sorted(report.outcomes.items())]
    if report.torn:
        said.append(f"{report.torn} cut short by a kill, never acknowledged")
    if report.damaged:
        said.append(f"{report.damaged} stretches damaged on disk")
    if report.unreadable:
        said.append(f"{report.unreadable} written by another version of Retrain and left out")
    return ", ".join(said) or "nothing waits"
