"""A loop in hostile surroundings; part of the tests, run by `test_surroundings.py` in namespaces of its own.

The caller has made every file system read-only except `<checkout>/.retrain` and a folder for temporary files, put
a small tmpfs under the dataset, and left no network. What was found is written as JSON to the given file.
"""

import errno
import fcntl
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import traceback
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

FREE_KIB = (0, 160, 2048)
"""Room on the dataset's disk for the cycle: none, some, enough."""
STEP_KIB = 4
"""A version alone gets this much more each time, so that the disk is full once at every point of making it."""


def raise_loopback():
    """A new network namespace has a loopback device, but down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(probe, 0x8914, request)  # SIOCSIFFLAGS


def surroundings(checkout):
    """What must be so, or the rest proves nothing: no writing, no network, and attempts are recorded."""
    found = {}
    for name, folder in {"checkout": checkout, "home": Path.home(), "root": Path("/")}.items():
        try:
            (folder / "written").write_text("x", encoding="utf-8")
            found[name] = "writable"
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
    try:
        socket.create_connection(("192.0.2.1", 443), timeout=2)
        found["network"] = "reachable"
    except OSError as error:
        found["network"] = errno.errorcode[error.errno or 0]
    return found


def in_words(checkout, *arguments, **environment):
    """Exit code and standard error of a `retrain` command."""
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return [done.returncode, done.stderr.strip().replace(str(checkout), "<checkout>")]


@contextmanager
def stack_beside(checkout, found):
    """The whole local stack goes up and down again while the block runs, in a home of its own."""
    command = f'{sys.executable} -c "from flows.cli import main; main()"'
    process = subprocess.Popen(
        ["sh", "-c", f"{command} up; code=$?; {command} down; exit $code"],
        env={**os.environ, "RETRAIN_HOME": str(checkout / ".retrain" / "stack")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield
    finally:
        said, _ = process.communicate(timeout=240)
        found["stack"] = [process.returncode, said]


def commands(checkout):
    elsewhere = {"RETRAIN_HOME": str(checkout / "elsewhere")}
    return {
        "config": in_words(checkout, "config"),
        "status": in_words(checkout, "status"),
        "cycle run": in_words(checkout, "cycle", "run", **elsewhere),
        "up": in_words(checkout, "up", **elsewhere),
        "data restore": in_words(checkout, "data", "restore", "--folder", str(checkout)),
    }


def offer_bad_images(resources, router, picture):
    """Broken frames among good ones, as a camera with a loose cable sends them."""
    import numpy as np
    from PIL import Image
    from sqlalchemy import select

    from retrain.data_collection.collector import DataCollectionService
    from retrain.storage.schema import draws

    service = DataCollectionService(
        resources.home,
        "all",
        blobs=resources.sample_blobs,
        state=resources.state,
        model=resources.model,
        background=False,
    )
    for number in range(140, 144):
        whole, _ = picture(number)
        answer = router.predict(np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")))
        for data in (whole[:-200], b"", b"\xff\xd8\xff" + bytes(500), whole):
            service.collect(
                image=data,
                prediction=answer.detections,
                release=answer.digest,
                metadata={"camera_id": "c", "recording": f"new-{number // 2}", "captured_at": time.time()},
            )
    service.flush()
    with resources.state.read() as connection:
        outcomes = connection.execute(select(draws.c.outcome)).scalars().all()
    return {"counts": dict(service.stats().by_outcome()), "outcomes": Counter(outcomes)}


def spoil(resources):
    """Stored images that rotted before the cycle came: one gone, one garbage, one replaced by another."""
    blobs = resources.sample_blobs
    key = min(blobs.keys("packs/"))
    with zipfile.ZipFile(io.BytesIO(blobs.get(key))) as archive:
        images = {name: archive.read(name) for name in sorted(archive.namelist())}
    gone, garbage, exchanged, other = list(images)[:4]
    del images[gone]
    images |= {garbage: b"garbage", exchanged: images[other]}
    rotten = io.BytesIO()
    with zipfile.ZipFile(rotten, "w") as archive:
        for name, data in images.items():
            archive.writestr(name, data)
    blobs.put(key, rotten.getvalue())
    return [name.partition(".")[0] for name in (gone, garbage, exchanged)]


def run_with_little_room(resources, run, trigger):
    """The cycle, started again with a little more room each time, until it is through."""
    ends = []
    with Ballast(resources.datasets_path) as ballast:
        for free in FREE_KIB:
            ballast.leave(free)
            state = run(trigger, return_state=True)
            ends.append([state.name, state.message])
    return ends


def fill_to_the_brim(resources, picture):
    """The errors met while a version is made again and again with a little more room, until it is there."""
    datasets, packs = resources.datasets, resources.datasets_path / "packs"
    needed = {path.name for path in packs.iterdir()}
    frames = [picture(number) for number in range(200, 206)]
    met = []
    with Ballast(resources.datasets_path) as ballast:
        for free in range(0, 4096, STEP_KIB):
            # What earlier attempts left would be replaced, and so give more room than was meant.
            shutil.rmtree(resources.datasets_path / ".work" / "incoming", ignore_errors=True)
            for stray in (path for path in packs.iterdir() if path.name not in needed):
                stray.unlink()
            ballast.leave(free)
            try:
                draft = datasets.create_version("v1.2.0", parent="v1.1.0")
                datasets.add_images(draft, [data for data, _ in frames], [boxes for _, boxes in frames])
                datasets.commit(draft)
                break
            except Exception as error:
                at = traceback.extract_tb(error.__traceback__)
                inner = traceback.extract_tb(error.__cause__.__traceback__) if error.__cause__ else at
                met.append([type(error).__name__, str(error), inner[-1].name])
    return met


class Ballast:
    """A file that leaves so much room on a dataset's disk, where no dataset looks."""

    def __init__(self, folder):
        self._file = folder / ".work" / "ballast"

    def __enter__(self):
        self._file.touch()
        return self

    def __exit__(self, *_):
        self._file.unlink()

    def leave(self, kib):
        room, now = os.statvfs(self._file.parent), self._file.stat().st_size
        wanted = now + room.f_bavail * room.f_bsize - kib * 1024
        if wanted < now:
            os.truncate(self._file, wanted)
        else:
            with self._file.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, wanted)


def main(checkout, output):
    raise_loopback()
    found = {"surroundings": surroundings(checkout)}
    with stack_beside(checkout, found):
        found["commands"] = commands(checkout)
        live(found)
    output.write_text(json.dumps(found), encoding="utf-8")


def live(found):
    """From an empty home to a second champion, in this process."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    # As a library user would: nothing is prepared before the flows are imported.
    from small_world import make_world, picture

    import tasks.evaluation
    from flows.continuous_retraining import continuous_retraining_flow
    from retrain.cycle import list_cycles
    from retrain.data_collection.triggers.crossings import record_crossing
    from retrain.detector import Detector
    from retrain.evaluation.gate import GateDecision
    from retrain.serving.router import Router
    from tasks.resources import build_resources

    # A two-epoch model on sixteen images learns nothing; this test is about surroundings, not about the gate.
    tasks.evaluation.decide = lambda *_: GateDecision("better", True, ("forced by the fault test",))
    resources = build_resources(None)
    make_world(resources)
    with Router(
        "squares", resources.routes, resources.releases, Detector.load, replica="r", poll_s=0.2
    ) as router:
        found["offered"] = offer_bad_images(resources, router, picture)
        found["spoilt"] = spoil(resources)
        crossing = record_crossing(resources.state, "squares", 40, time.time())
        found["runs"] = run_with_little_room(resources, continuous_retraining_flow, crossing.id)
        found["served"] = router.served_digest
    found |= outcome(resources, list_cycles(resources.state)[-1])
    found["brim"] = fill_to_the_brim(resources, picture)
    found["versions"] = {
        name: len(resources.datasets.verify(name).items) for name in resources.datasets.versions()
    }


def outcome(resources, cycle):
    from retrain.cycle import stage_records

    stages = {record.stage: record.output for record in stage_records(resources.state, cycle.id)}
    return {
        "status": cycle.status,
        "labels": cycle.outcome["labels"],
        "left_out": stages["annotate"]["left_out"],
        "leaking": stages["version"]["left_out"],
        "release": cycle.outcome["release"]["digest"],
        "champion": resources.registry.current("squares", "champion").digest,
        "home": str(resources.home),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
