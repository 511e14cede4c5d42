import io
import json
import time

from rich.console import Console

from flows.collect_drain import drain_and_follow, drain_once
from flows.collect_status import monitor_of, show_status
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.statistics.counter_files import FOLDED
from retrain.errors import Unavailable
from retrain.storage.local_blobs import LocalBlobs
from tests.unit.data_collection.conftest import png_bytes


def offer(resources, number=1):
    """Hand one frame over and leave it in the spool."""
    service = resources.collection_service(background=False)
    decision = service.collect(image=png_bytes(number), prediction=[], confidence=0.5)
    assert decision.taken
    service.close()


def test_drain_stores_what_waits(resources):
    offer(resources)
    file = io.StringIO()

    drain_once(resources, Console(file=file))

    assert file.getvalue() == "1 stored\n"
    assert spool_depth(resources.spool).records == 0
    drain_once(resources, Console(file=file))
    assert file.getvalue() == "1 stored\nnothing waits\n"


def test_drain_folds_the_counts_of_processes_long_gone(resources):
    offer(resources)
    [counts] = resources.spool.glob("*.counts")
    old = json.loads(counts.read_text()) | {"at": 5.0, "since": 1.0}
    counts.rename(counts.with_name(f"{2**22 + 1}-x.counts")).write_text(json.dumps(old))

    drain_once(resources, Console(file=io.StringIO()))

    assert [path.name for path in resources.spool.glob("*.counts")] == [FOLDED]


def test_a_following_drain_goes_on_over_outages_which_it_says_once(resources, monkeypatch):
    offer(resources, 1)
    put, file, naps = LocalBlobs.put_file, io.StringIO(), []

    def refuse(*_):
        raise Unavailable("The store is gone.")

    def sleep(_seconds):
        naps.append(1)
        if len(naps) == 2:
            monkeypatch.setattr(LocalBlobs, "put_file", put)
        if len(naps) == 3:
            offer(resources, 2)
        if len(naps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalBlobs, "put_file", refuse)
    drain_and_follow(resources, Console(file=file, width=300), sleep=sleep)

    assert file.getvalue().splitlines()[1:] == [
        "Frames wait in the spool, nothing is lost: The store is gone.",
        "1 stored",
        "1 stored",
        "In all: 2 stored",
    ]


def status(resources, **more):
    file = io.StringIO()
    show_status(monitor_of(resources), Console(file=file, width=120), sleep=lambda _: None, **more)
    return file.getvalue()


def cells(text):
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_status_shows_numbers_and_says_what_is_not_known(resources):
    offer(resources)
    drain_once(resources, Console(file=io.StringIO()))

    shown = cells(status(resources))

    assert "frames offered 1 rate not known" in shown
    assert "taken 1 100.0%, rate not known" in shown
    assert any(line.startswith("samples stored 1 ") for line in shown)
    assert "unknown 1 1 100.0%" in shown
    assert "uncertainty 1 1 not known" in shown


def test_status_before_anything_was_collected_shows_no_zeros_for_what_is_not_known(resources):
    shown = cells(status(resources))

    assert "counts published not known" in shown
    assert "frames offered not known nobody has published counts in this spool" in shown
    assert "in the spool not known there is no spool yet" in shown
    assert "samples stored 0 not known each" in shown


def test_status_as_json_holds_every_number(resources):
    offer(resources)

    shown = json.loads(status(resources, as_json=True))

    assert shown["flow"] | {"skipped": None} == {
        "offered": 1,
        "taken": 1,
        "skipped": None,
        "rejected": 0,
        "dropped": {},
        "evicted": 0,
        "accept_ratio": 1.0,
    }
    assert shown["queue"]["records"] == 1
    assert shown["stored"]["bytes_per_sample"] is None
    assert shown["producers"][0]["life"] == "live"


def test_status_names_stale_producers(resources):
    offer(resources)
    [counts] = resources.spool.glob("*.counts")
    silent = json.loads(counts.read_text()) | {"at": time.time() - 600}
    counts.write_text(json.dumps(silent))

    shown = cells(status(resources))

    assert shown[1] == f"counts published 10 min ago processes: 1 stale (silent: {counts.stem})"


def test_watching_reads_again_and_again_until_ctrl_c(resources):
    file, naps = io.StringIO(), []

    def sleep(_seconds):
        naps.append(offer(resources, len(naps)))
        if len(naps) == 3:
            raise KeyboardInterrupt

    console = Console(file=file, width=120, height=60, force_terminal=True, color_system=None)
    show_status(monitor_of(resources), console, watch=True, sleep=sleep)

    assert [line for line in cells(file.getvalue()) if line.startswith("frames offered")][-1].startswith(
        "frames offered 2"
    )
