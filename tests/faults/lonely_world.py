"""A loop in hostile surroundings; part of the tests, run by `test_surroundings.py` in namespaces of its own.

The caller has made every file system read-only except `<checkout>/.retrain` and a folder for temporary files, put
a small tmpfs under the dataset, and left no network. What was found is written as JSON to the given file.
"""

import errno
import fcntl
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

FREE_KIB = (0, 24, 96, 160, 256, 384, 512, 768, 1024, 1536)
"""Room on the dataset's disk, step by step, so that it runs out at another point of packing each time."""


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

    from retrain.data_collection.collector import DataCollectionService

    service = DataCollectionService(
        resources.home, "all", blobs=resources.sample_blobs, state=resources.state, model=resources.model
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
    return asdict(service.stats())


def spoil(resources):
    """Stored images that rotted before the cycle came: one gone, one garbage, one replaced by another."""
    keys = sorted(resources.sample_blobs.keys("samples/"))
    resources.sample_blobs.delete(keys[0])
    resources.sample_blobs.put(keys[1], b"garbage")
    resources.sample_blobs.put(keys[2], resources.sample_blobs.get(keys[3]))
    return [key.rpartition("/")[2] for key in keys[:3]]


def run_with_little_room(resources, run, trigger):
    """The cycle, started again with a little more room each time, until it is through."""
    ballast = resources.datasets_path / ".work" / "ballast"
    room = os.statvfs(resources.datasets_path)
    ballast.write_bytes(bytes((room.f_bavail // 2) * room.f_bsize))
    ends = []
    for free in FREE_KIB:
        leave(ballast, free)
        started = time.time()
        state = run(trigger, return_state=True)
        ends.append([free, state.name, state.message, round(time.time() - started, 1)])
        if state.is_completed():
            break
    ballast.unlink()
    return ends


def leave(ballast, free_kib):
    """Grow or shrink the ballast until so much is free."""
    room = os.statvfs(ballast.parent)
    size = ballast.stat().st_size + room.f_bavail * room.f_bsize - free_kib * 1024
    with ballast.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1)
        file.truncate(min(size, ballast.stat().st_size))
        if size > ballast.stat().st_size:
            os.posix_fallocate(file.fileno(), 0, size)


def main(checkout, output):
    raise_loopback()
    found = {"surroundings": surroundings(checkout), "commands": commands(checkout)}
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    # As a library user would: nothing is prepared before the flows are imported.
    from small_world import make_world, picture

    import tasks.evaluation
    from flows.continuous_retraining import continuous_retraining_flow
    from retrain.cycle import list_cycles, stage_records
    from retrain.data_collection.triggers import record_crossing
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
    cycle = list_cycles(resources.state)[-1]
    found["cycle"] = {"status": cycle.status, "outcome": cycle.outcome}
    found["stages"] = {record.stage: record.output for record in stage_records(resources.state, cycle.id)}
    found["versions"] = resources.datasets.versions()
    found["images"] = len(resources.datasets.verify("v1.1.0").items)
    found["champion"] = resources.registry.current("squares", "champion").digest
    found["home"] = str(resources.home)
    output.write_text(json.dumps(found, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
