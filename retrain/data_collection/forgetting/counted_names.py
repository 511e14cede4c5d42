"""Takes the names of forgotten cameras out of the counts that collecting processes publish beside the spool."""

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from retrain.data_collection.metadata import fitting
from retrain.data_collection.statistics.counter_files import FOLDED, read_published
from retrain.data_collection.statistics.counters import SUFFIX
from retrain.errors import BadInput
from retrain.storage.files import write_whole
from retrain.storage.schema import draws

HIDDEN = "(forgotten)"


def hide_names(spool: Path, cameras: Collection[str]) -> int:
    """Count their frames under `HIDDEN` from now on, in the files of running processes, ended ones and folded ones.

    Args:
        cameras: names as the index has them; counts have whole names.

    Returns:
        How many running processes named one: they publish what they counted again, by name, until they end.

    Raises:
        BadInput: a file is damaged, and may hold a name; all others were changed.
    """
    if not cameras or not spool.is_dir():
        return 0
    changed, damaged = set(), []
    with _no_folding(spool):
        for file in sorted(spool.glob("*" + SUFFIX)):
            try:
                if _hide(file, cameras):
                    changed.add(file.name.removesuffix(SUFFIX))
            except FileNotFoundError:
                continue  # its process is just ending
            except msgspec.DecodeError:
                damaged.append(file)
    if damaged:
        raise BadInput(f"The counts in {damaged[0]} are damaged and may name the camera; delete the file.")
    producers = read_published(spool, time.time()).producers
    return sum(one.name in changed and one.life == "live" for one in producers)


def _hide(file: Path, cameras: Collection[str]) -> bool:
    """Whether the file named one."""
    while True:
        data = file.read_bytes()
        counts = msgspec.json.decode(data)
        parts = [counts]
        if file.name == FOLDED:
            parts += [*counts["parts"].values(), *([counts["base"]] if counts["base"] else [])]
        changed = [_renamed(part, cameras) for part in parts]
        if not any(changed):
            return False
        # Unless its process published meanwhile.
        if file.read_bytes() == data:
            write_whole(file, msgspec.json.encode(counts))
            return True


def _renamed(counts: dict[str, Any], cameras: Collection[str]) -> bool:
    outcomes: dict[str, dict[str, int]] = counts["outcomes"]
    gone = [name for name in outcomes if fitting(name, draws.c.camera) in cameras]
    for name in gone:
        hidden = outcomes.setdefault(HIDDEN, {})
        for outcome, frames in outcomes.pop(name).items():
            hidden[outcome] = hidden.get(outcome, 0) + frames
    return bool(gone)


@contextmanager
def _no_folding(spool: Path) -> Iterator[None]:
    """Others that fold the counts of ended processes meanwhile give up, and fold them next time."""
    descriptor = os.open(spool / ".folding", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
