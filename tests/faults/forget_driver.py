"""Deletions of samples killed with SIGKILL at every file they touch and every commit; part of the tests.

A process of its own, because it forks while nothing else runs. Prints what was found afterwards as JSON.
"""

import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, forget
from retrain.data_collection.forgetting.retention import RetentionPolicy, retain
from retrain.data_collection.forgetting.tombstones import CLOCK_SKEW_S
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.packs import SamplePacks
from retrain.data_collection.store.samples import SampleStore
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import drawn, is_exact, stored

NOW = 1000.0
STORED = {1: "gate", 2: "yard", 3: "gate", 4: "gate", 5: "gate", 6: "yard", 7: "yard"}
"""Number of the picture → camera: a pack of both, one of the gate alone, one of the yard alone."""
PACKS = [(1, 2, 3), (4, 5), (6, 7)]
WAITING = {8: "gate", 9: "yard", 10: "gate"}
"""In the spool; number 10 as a linked file."""
LEFT = 11
"""In a pack that a drainer of another machine put before it was killed."""
TOUCHES = {
    "open",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.scandir",
    "fcntl.flock",
    "shutil.rmtree",
}


class World:
    """A service in the middle of its work: packs, copies in the cache, a spool with a segment still written to."""

    def __init__(self, folder):
        self.folder, self.now = folder, NOW - 1
        self.state, self.blobs = (
            open_state(f"sqlite:///{folder / 'state.sqlite'}"),
            LocalBlobs(folder / "blobs"),
        )
        self.service = DataCollectionService(
            folder, "all", model="m", state=self.state, blobs=self.blobs, background=False, audit_rate=0.0,
            near_duplicates=None, clock=lambda: self.now,
        )  # fmt: skip
        for pack in PACKS:
            for number in pack:
                self.collect(number, STORED[number])
            self.service.flush()
        for sample in stored(self.state).values():
            self.store.image(sample)
        for number, camera in WAITING.items():
            self.collect(number, camera)
        left = {f"{content_digest(png_bytes(LEFT))}.png": png_bytes(LEFT)}
        SamplePacks(self.state, self.blobs, folder / "cache", "elsewhere").put(left, NOW)

    @property
    def store(self):
        return SampleStore(self.state, self.blobs, self.folder / "cache", "reader")

    def collect(self, number, camera):
        metadata = {"camera_id": camera, "captured_at": float(number) if number < 12 else self.now}
        offer = {"image": png_bytes(number)}
        if number % 10 == 0:
            file = self.folder / "frame.png"
            file.write_bytes(png_bytes(number))
            offer = {"image_path": file}
        assert self.service.collect(**offer, confidence=0.5, metadata=metadata).taken
        if number % 10 == 0:
            file.unlink()

    def forget(self):
        scope = Scope(cameras=("gate",), samples=(content_digest(png_bytes(LEFT)),))
        forget(
            Eraser(self.state, self.blobs, self.folder / "cache"),
            scope,
            now=NOW,
            drainer=self.service.drainer,
        )

    def retain(self):
        """Delete what was captured before second 4: all of the first pack and none of the others."""
        policy = RetentionPolicy(max_age_s=NOW - 3.5)
        retain(
            Eraser(self.state, self.blobs, self.folder / "cache"), policy, NOW, drainer=self.service.drainer
        )

    def close(self):
        self.service.close()
        self.state.close()


def killed_at(world, work, point):
    """Whether a child that does the work got as far as this point, where it is killed."""
    child = os.fork()
    if child == 0:
        passed = 0

        def touch(*_):
            nonlocal passed
            passed += 1
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "commit", touch)
        sys.addaudithook(lambda name, _: touch() if name in TOUCHES else None)
        code = 1
        try:
            getattr(world, work)()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def findings(world, gone, kept):
    """What is wrong, after the work was done once undisturbed."""
    images = {content_digest(png_bytes(number)): number for number in {*gone, *kept}}
    wrong = []
    if sorted(images[name] for name in stored(world.state)) != sorted(kept):
        wrong.append(f"stored are {[images[name] for name in stored(world.state)]}")
    for name, sample in stored(world.state).items():
        if world.store.image(sample) != png_bytes(images[name]):
            wrong.append(f"picture {images[name]} is not readable")
    files = {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    for number in gone:
        picture = png_bytes(number)
        wrong += [f"{path} holds {number}" for path, data in files.items() if picture in data]
    if any((world.folder / "cache" / "work").iterdir()) or any((world.blobs.root / ".incoming").iterdir()):
        wrong.append("scratch is left")
    if len(drawn(world.state)) != len(STORED) + len(WAITING):
        wrong.append(f"{len(drawn(world.state))} draws")
    if not is_exact(world.state, world.blobs):
        wrong.append("packs, rows and blobs differ")
    if spool_depth(world.folder / "spool").records:
        wrong.append("records are left in the spool")
    return wrong


def run(work, kills):
    """One world: killed at each of these points in turn, then done to the end. None: it never got to the first."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        codes = [killed_at(world, work, point) for point in kills]
        if codes[0] == 0:
            world.close()
            return None
        getattr(world, work)()
        if work == "forget":
            gone, kept = [1, 3, 4, 5, 8, 10, LEFT], [2, 6, 7, 9]
        else:
            SamplePacks(world.state, world.blobs, world.folder / "cache", "elsewhere").delete_leftovers()
            gone, kept = [1, 2, 3], [4, 5, 6, 7, 8, 9, 10]
        wrong = findings(world, gone, kept)
        wrong += [f"a child ended with {code}" for code in codes if code not in (0, -signal.SIGKILL)]
        # The producer goes on with the segment that was cleared under it.
        world.now = NOW + CLOCK_SKEW_S + 1
        world.collect(12, "gate")
        world.service.flush()
        if content_digest(png_bytes(12)) not in stored(world.state):
            wrong.append("the next frame of the camera was not stored")
        world.close()
        return wrong


def main(work, twice, seed):
    point, found = 0, {}
    while True:
        point += 1
        wrong = run(work, [point])
        if wrong is None:
            break
        found[str(point)] = wrong
    rng = random.Random(seed)
    for _ in range(twice):
        kills = [rng.randrange(1, point), rng.randrange(1, point)]
        found[str(kills)] = run(work, kills)
    print(
        json.dumps({"points": point - 1, "runs": len(found), "wrong": {k: v for k, v in found.items() if v}})
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
