"""Producers and drainers of one spool, killed with SIGKILL at random moments under load; part of the tests.

A process of its own, because it forks while nothing else runs. Prints what was acknowledged and what is stored as JSON.
"""

import io
import json
import os
import random
import signal
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import func, select

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.queue import SpoolLimits
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.drainer import Drainer
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.packs import SamplePacks
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import RetrainError
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import draws, packs, samples
from retrain.storage.state import open_state

MODEL = "killed"


def picture(child, number):
    """PNG bytes that no other child and number give."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0] = [number % 256, number // 256 % 256, child % 256]
    pixels[0, 1] = [child // 256, 0, 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def store(folder):
    state = open_state(f"sqlite:///{folder / 'state.db'}")
    return state, SampleStore(state, LocalBlobs(folder / "blobs"), folder / "cache", "driver")


def produce(folder, child):
    """Collect until killed; an id is acknowledged only after `collect` returned."""
    service = DataCollectionService(
        folder,
        "all",
        model=MODEL,
        limits=SpoolLimits(segment_bytes=30_000, max_bytes=10**9),
        state=open_state(f"sqlite:///{folder / 'state.db'}"),
        blobs=LocalBlobs(folder / "blobs"),
        background=False,
    )
    acknowledged = os.open(folder / "acknowledged" / str(child), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    frames = folder / "frames" / str(child)
    frames.mkdir(parents=True)
    for number in range(100_000):
        data = picture(child, number)
        offer = {"image": data}
        if number % 2:
            path = frames / f"{number}.png"
            path.write_bytes(data)
            offer = {"image_path": path}
        taken = service.collect(**offer, confidence=0.5, metadata={"camera_id": f"c{child % 3}"}).taken
        if number % 2:
            path.unlink()
        if taken:
            os.write(acknowledged, (content_digest(data) + "\n").encode())


def drain(folder):
    _, samples_ = store(folder)
    drainer = Drainer(folder / "spool", Intake(samples_))
    while True:
        try:
            drainer.drain()
        except RetrainError as error:
            print(error, file=sys.stderr)


def start(work, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        finally:
            os._exit(9)
    return pid


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(folder, kills, seed):
    rng = random.Random(seed)
    (folder / "acknowledged").mkdir()
    state, _ = store(folder)
    state.close()
    children = iter(range(10_000))
    producers = [start(produce, folder, next(children)) for _ in range(2)]
    drainer = start(drain, folder)
    exits = []
    for _ in range(kills):
        time.sleep(rng.uniform(0.005, 0.12))
        exits.append(kill(producers.pop(0)))
        producers.append(start(produce, folder, next(children)))
        time.sleep(rng.uniform(0.005, 0.12))
        exits.append(kill(drainer))
        drainer = start(drain, folder)
    exits += [kill(pid) for pid in (*producers, drainer)]
    return exits


def images(state, folder, rows):
    """Rows with what is stored as their image: each pack is opened once, since packs hold hundreds."""
    reader = SamplePacks(state, LocalBlobs(folder / "blobs"), folder / "cache", "driver")
    for pack, its_rows in groupby(sorted(rows, key=lambda row: row.pack), key=lambda row: row.pack):
        ours = list(its_rows)
        yield from zip(ours, reader.read(pack, [row.file_name for row in ours]), strict=True)


def findings(folder):
    """After one undisturbed drain: what is there."""
    state, samples_ = store(folder)
    report = Drainer(folder / "spool", Intake(samples_)).drain()
    acknowledged = []
    for path in (folder / "acknowledged").iterdir():
        acknowledged += path.read_text().split("\n")[:-1]
    with state.read() as connection:
        rows = connection.execute(select(samples)).all()
        by_outcome = dict(
            connection.execute(select(draws.c.outcome, func.count()).group_by(draws.c.outcome)).all()
        )
        referenced = {row.pack for row in rows}
        recorded = dict(connection.execute(select(packs.c.id, packs.c.state)).all())
    stored = LocalBlobs(folder / "blobs")
    return {
        "acknowledged": len(acknowledged),
        "acknowledged_twice": len(acknowledged) - len(set(acknowledged)),
        "lost": len(set(acknowledged) - {row.id for row in rows}),
        "stored": len(rows),
        "readable": sum(content_digest(data) == row.id for row, data in images(state, folder, rows)),
        "draws": by_outcome,
        "torn": report.torn,
        "damaged": report.damaged,
        "left_in_spool": spool_depth(folder / "spool").records,
        "files_left_in_spool": sum(
            1 for path in (folder / "spool").rglob("*") if path.suffix in {".spool", ".images"}
        ),
        "orphan_packs": sorted({Path(key).stem for key in stored.keys("packs/")} ^ referenced),
        "unfinished_packs": sum(state != "stored" for state in recorded.values()),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    exits = run(target, int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"killed": exits.count(-signal.SIGKILL), "ended": len(exits), **findings(target)}))
