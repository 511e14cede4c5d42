"""Joins processes that a launcher started, and lets each know why another one failed."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import uuid4

from torch import distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from retrain import errors
from retrain.errors import ConfigError, RetrainError, Unavailable
from retrain.training.launched import Launched
from retrain.training.place import Place

_FAILURE = "failure"
_LEAVING_S = 10.0
_ASKING_AGAIN_S = 2.0

logger = logging.getLogger(__name__)


Explain = Callable[[Exception], RetrainError | None]


@contextmanager
def joined(launched: Launched, device: str, timeout_s: float) -> Iterator[tuple[Place, Explain]]:
    """Form one group with all that were launched; what one raises within is raised in all.

    Gives the place of this process, and what says why another one failed if an exception is only that this one noticed.

    Args:
        timeout_s: how long one waits for the others.

    Raises:
        ConfigError: this process is in a group already.
        Unavailable: the others did not come, or one of them is gone.
    """
    place = launched.place
    if distributed.is_initialized():
        raise ConfigError(
            "This process has a process group of torch.distributed already; training makes its own, so call "
            "destroy_process_group first."
        )
    meeting = _meeting(launched, timeout_s)
    try:
        distributed.init_process_group(
            # Objects are exchanged over the first, so that waiting for one occupies no GPU.
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=meeting.store,
            rank=place.rank,
            world_size=place.processes,
            timeout=timedelta(seconds=timeout_s),
        )
        yield place, meeting.explain
    except Exception as error:
        if cause := meeting.explain(error):
            raise cause from error
        meeting.tell(error)
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        meeting.leave()


class _Meeting:
    """Where processes leave word for each other that no longer answer."""

    def __init__(self, store: Store, place: Place, timeout_s: float) -> None:
        self.store, self._place, self._timeout_s = store, place, timeout_s
        self._name = f"Process {place.rank} of {place.processes}"

    def tell(self, error: Exception) -> None:
        """Leave word for the others, unless one was quicker."""
        if isinstance(error, RetrainError):
            told = {"error": type(error).__name__, "message": f"{self._name}: {error}"}
        else:
            told = {"error": Unavailable.__name__, "message": f"{self._name} failed: {error!r}"}
        with _perhaps_gone():
            self.store.compare_set(_FAILURE, "", json.dumps(told))

    def explain(self, error: Exception) -> RetrainError | None:
        """What another process failed of, if the exception is only that this one noticed."""
        if not isinstance(error, RuntimeError):
            return None
        if cause := self._failure():
            return cause
        if not _is_of_group(error):
            return None
        return Unavailable(
            f"{self._name} lost another one, or waited {self._timeout_s:g} s for it ({str(error).splitlines()[0]}); "
            "see what the others said, and start all again."
        )

    def _failure(self) -> RetrainError | None:
        with _perhaps_gone():
            if self.store.check([_FAILURE]):
                told = json.loads(self.store.get(_FAILURE))
                kind: type[RetrainError] = getattr(errors, told["error"])
                return kind(told["message"])
        return None

    def leave(self) -> None:
        """The store is the leading process's, so it leaves last."""
        with _perhaps_gone():
            self.store.set(f"left/{self._place.rank}", "")
            if self._place.leads:
                ranks = [f"left/{rank}" for rank in range(self._place.processes)]
                self.store.wait(ranks, timedelta(seconds=_LEAVING_S))


@contextmanager
def _perhaps_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        logger.warning("The processes that train together lost touch: %s", str(error).splitlines()[0])


def _meeting(launched: Launched, timeout_s: float) -> _Meeting:
    place = launched.place
    # Where torch looks for it, and knows a store that torchrun keeps there from one to be made.
    os.environ.setdefault("MASTER_ADDR", launched.address)
    os.environ.setdefault("MASTER_PORT", str(launched.port))
    try:
        store = _store(place, timeout_s)
        return _Meeting(PrefixStore(_assembled(store, place, timeout_s), store), place, timeout_s)
    except RuntimeError as error:
        raise Unavailable(
            f"Process {place.rank} of {place.processes} did not meet the others at {launched.address}:{launched.port} "
            f"within {timeout_s:g} s: {str(error).splitlines()[0]}"
        ) from error


def _assembled(store: Store, place: Place, timeout_s: float) -> str:
    """A name that those who are here now agree on, and nobody before them.

    Torchrun keeps its store when it starts processes again, and in it the addresses of those before, for which the new
    ones would wait.
    """
    mine = uuid4().hex
    if not place.leads:
        store.set(f"arrived/{place.rank}", mine)
        leading: str = store.get(f"welcome/{mine}").decode()
        store.set(f"ready/{leading}/{mine}", "")
        return leading
    until = time.monotonic() + timeout_s
    while True:
        arrived = [store.get(f"arrived/{rank}").decode() for rank in range(1, place.processes)]
        for other in arrived:
            store.set(f"welcome/{other}", mine)
        try:
            store.wait([f"ready/{mine}/{other}" for other in arrived], timedelta(seconds=_ASKING_AGAIN_S))
        except RuntimeError:
            # One had arrived before, and has not again.
            if time.monotonic() > until:
                raise
        else:
            return mine


@cache
def _store(place: Place, timeout_s: float) -> Store:
    """Kept: a second one at the same port could be mistaken for it by who is late."""
    found: Any = rendezvous("env://", place.rank, place.processes, timeout=timedelta(seconds=timeout_s))
    store: Store = next(found)[0]
    return store


def _is_of_group(error: RuntimeError) -> bool:
    # Gloo's have no type of their own.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
