"""Measures data collection: what `collect` costs a production loop, and how fast the spool is emptied.

    python benchmarks/collection.py [--parts hot loop drain] [--output benchmarks/results/collection.json]

Every figure stands beside its peers, measured in turn within one run; ratios are what to quote, because the absolute
times of a shared machine drift. The hot path hands over one sample as production would: eight boxes, a confidence, a
file name and metadata, about 900 bytes encoded.
"""

import argparse
import json
import os
import platform
import queue
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.likeness import LikenessIndex
from retrain.data_collection.queue import DataCollectionQueue, SpoolLimits
from retrain.data_collection.spool.offer import Offer, encode_offer
from retrain.data_collection.store.drainer import Drainer
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.duplicates.near_duplicates import NearDuplicateRule
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.s3_blobs import S3Blobs
from retrain.storage.state import open_state

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd" / "JPEGImages"
ROUNDS, CALLS = 15, 400
FRAMES = 2000
"""Of the inference loop; half of them with collection on, and a tenth of those accepted."""
PREDICTION = {
    "boxes": [[10.5 * i, 5.25, 10.5 * i + 40, 60.0] for i in range(8)],
    "classes": list(range(8)),
    "scores": [0.65] * 8,
}
METADATA = {
    "camera_id": "cam_01",
    "recording": "cam_01/2026-11-24T10",
    "captured_at": 1_764_000_000.25,
    "site": "hall 3, gate north",
    "note": "x" * 120,
}
Call = Callable[[], object]


def main() -> None:
    """Run the parts, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", default=["hot", "loop", "drain"], choices=["hot", "loop", "drain"]
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/collection.json"))
    arguments = parser.parse_args()
    parts: Mapping[str, Callable[[Path], dict]] = {"hot": hot_path, "loop": inference_loop, "drain": drain}
    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        }
    }
    # Where the project lives is a disk; /tmp may be memory.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        for name in arguments.parts:
            place = Path(folder) / name
            place.mkdir()
            result[name] = parts[name](place)
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the README:\n\n{markdown(result)}")


# --- the hot path -----------------------------------------------------------------------------------------------


def hot_path(folder: Path) -> dict:
    """Microseconds a call, p50 and p99, of `collect` and of other ways to hand a sample over."""
    with opponents(folder) as calls:
        times: dict[str, list[int]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name] += timed(call, CALLS)
    found = {
        name: {"p50_us": percentile(one, 50), "p99_us": percentile(one, 99)} for name, one in times.items()
    }
    floor, link = found["msgspec encode + append"]["p50_us"], found["os.link"]["p50_us"]
    accepted = found["collect, accepted"]["p50_us"]
    with_file = found["collect, accepted, image file"]["p50_us"]
    ratios = {
        "accepted / (encode + append)": (accepted / floor, 3.0, "at most"),
        "accepted with file / (3 x (encode + append) + one link)": (
            with_file / (3 * floor + link),
            1.0,
            "at most",
        ),
        "SQLite WAL insert / accepted": (found["SQLite WAL insert"]["p50_us"] / accepted, 3.0, "at least"),
    }
    if "Redis XADD" in found:
        ratios["Redis XADD / accepted"] = (found["Redis XADD"]["p50_us"] / accepted, 3.0, "at least")
    ratios["rejected, µs"] = (found["collect, rejected"]["p50_us"], 3.0, "at most")
    return {
        "calls": ROUNDS * CALLS,
        "encoded_bytes": len(encode_offer(offer())),
        "times": found,
        "targets": {
            name: {"value": value, "target": target, "sense": sense, "met": met(value, target, sense)}
            for name, (value, target, sense) in ratios.items()
        },
    }


@contextmanager
def opponents(folder: Path) -> Iterator[dict[str, Call]]:
    """Ways to hand over the same sample, each ready to be called."""
    encoder = msgspec.msgpack.Encoder()
    frame = folder / "frame.jpg"
    frame.write_bytes(os.urandom(20_000))
    sample = {"path": str(frame), "prediction": PREDICTION, "confidence": 0.65, "metadata": METADATA}
    plain = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    database = sqlite3.connect(folder / "wal.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE samples (id INTEGER PRIMARY KEY, record BLOB)")
    waiting: queue.Queue[object] = queue.Queue()
    links = iter(range(10**9))
    (folder / "links").mkdir()
    unlimited = SpoolLimits(max_bytes=50 * 2**30)
    bytes_service, file_service = (
        DataCollectionService(folder / name, limits=unlimited, background=False)
        for name in ("bytes", "files")
    )
    small = b"\0" * 16
    common = {"prediction": PREDICTION, "metadata": METADATA}
    calls: dict[str, Call] = {
        "queue.put": lambda: waiting.put(sample),
        "msgspec encode + append": lambda: os.write(plain, encoder.encode(sample)),
        "collect, accepted": lambda: bytes_service.collect(image=small, confidence=0.65, **common),
        "os.link": lambda: os.link(frame, folder / "links" / str(next(links))),
        "collect, accepted, image file": lambda: file_service.collect(frame, confidence=0.65, **common),
        "collect, rejected": lambda: bytes_service.collect(frame, confidence=0.95, **common),
        "SQLite WAL insert": lambda: database.execute(
            "INSERT INTO samples (record) VALUES (?)", (encoder.encode(sample),)
        ),
    }
    with redis_server(folder) as client:
        if client is not None:
            calls["Redis XADD"] = lambda: client.xadd("samples", {"record": encoder.encode(sample)})
        yield calls
    os.close(plain)
    database.close()


@contextmanager
def redis_server(folder: Path) -> Iterator[object]:
    """A client of a Redis of our own (AOF, synced every second), or None with a word why."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("Redis is left out: redis-server is not installed (Debian: apt-get install redis-server).")
        yield None
        return
    import redis

    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", socket, "--dir", folder, "--appendonly", "yes", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield client
        client.close()
    finally:
        process.terminate()
        process.wait(timeout=10)


def offer() -> Offer:
    return Offer(
        "detector",
        "0" * 64,
        "uncertainty",
        "confidence < 0.7",
        1.0,
        False,
        0.01,
        0.0,
        0.65,
        PREDICTION,
        METADATA,
    )


# --- the inference loop -----------------------------------------------------------------------------------------


def inference_loop(folder: Path) -> dict:
    """How much slower a YOLOv8n loop (320 px, CPU) is with collection on: frames in turn with it and without."""
    from retrain.detector import Detector, StoredModel
    from retrain.training.ultralytics_parts import DetectionModel, yaml_model_load
    from retrain.training.weights import write_model_folder

    classes, architecture = tuple("0123456789"), yaml_model_load("yolov8n.yaml")
    model = DetectionModel({**architecture, "channels": 3}, ch=3, nc=len(classes), verbose=False)
    (folder / "model").mkdir()
    write_model_folder(folder / "model", StoredModel(model.yaml, classes, 320, model.state_dict()))
    detector = Detector.load(folder / "model")
    rng = np.random.default_rng(0)
    # As many as are accepted, each another picture: repeated ones would be found and left out at once.
    frames = [rng.integers(0, 256, (320, 320, 3), dtype=np.uint8) for _ in range(FRAMES // 20)]
    paths = []
    for number, frame in enumerate(frames):
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(frame).save(paths[-1], quality=90)
    with DataCollectionService(folder / "store", flush_s=1.0) as service:
        times: dict[bool, list[int]] = {False: [], True: []}
        for number in range(FRAMES):
            # Blocks of ten, in turn, so that drift of the machine hits both alike.
            on = number // 10 % 2 == 1
            started = time.perf_counter_ns()
            found = detector.predict([frames[number // 20]], confidence=0.25)[0]
            if on:
                confidence = 0.5 if number % 10 == 0 else 0.9
                service.collect(paths[number // 20], found, confidence, {"camera_id": "cam_01"})
            times[on].append(time.perf_counter_ns() - started)
    off, on_ = times[False][10:], times[True][10:]
    slow = {f"p{p}": percentile(on_, p) / percentile(off, p) - 1 for p in (50, 99)}
    return {
        "frames": FRAMES,
        "ms_off_p50": percentile(off, 50) / 1e3,
        "ms_on_p50": percentile(on_, 50) / 1e3,
        "slowdown": slow,
        "targets": {
            f"slow-down at {name}": {
                "value": slow[name],
                "target": target,
                "sense": "at most",
                "met": slow[name] <= target,
            }
            for name, target in (("p50", 0.01), ("p99", 0.05))
        },
    }


# --- emptying the spool -----------------------------------------------------------------------------------------


def drain(folder: Path) -> dict:
    """Images a second from spool to index, with checks, near-duplicate search and packs: to a folder and to S3."""
    if not BCCD.is_dir():
        print("Draining is left out: it needs the images under ../shared, which this checkout does not have.")
        return {"left out": "no ../shared"}
    images = variants(3000)
    found = {"images": len(images), "mean_bytes": statistics.mean(map(len, images))}
    found["folder"] = drained(folder / "local", images, LocalBlobs(folder / "local-blobs"))
    with s3_server(folder) as blobs:
        found["S3"] = drained(folder / "s3", images, blobs)
    found["targets"] = {
        f"{place}, images/s": {
            "value": found[place]["images_per_s"],
            "target": target,
            "sense": "at least",
            "met": found[place]["images_per_s"] >= target,
        }
        for place, target in (("folder", 1000), ("S3", 300))
    }
    return found


def variants(count: int) -> list[bytes]:
    """Distinct JPEGs of BCCD's size: its own files, each with a comment that changes its bytes but not its picture."""
    originals = [path.read_bytes() for path in sorted(BCCD.glob("*.jpg"))]
    made = []
    for number in range(count):
        data, comment = originals[number % len(originals)], f"copy {number}".encode()
        made.append(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
    return made


def drained(folder: Path, images: list[bytes], blobs: LocalBlobs | S3Blobs) -> dict:
    writer = DataCollectionQueue(folder / "spool")
    for number, image in enumerate(images):
        one = offer()
        # Copies come from cameras of their own, so that each is a picture to store and to compare with others.
        one.metadata = {**METADATA, "camera_id": f"camera {number // 364}"}
        one.prediction = None
        writer.append(encode_offer(one), image)
    writer.close()
    state = open_state(f"sqlite:///{folder / 'index.sqlite'}")
    store = SampleStore(state, blobs, folder / "cache", "benchmark")
    intake = Intake(store, likeness=LikenessIndex(state, NearDuplicateRule()))
    drainer = Drainer(folder / "spool", intake)
    started, cpu = time.perf_counter(), time.process_time()
    report = drainer.drain()
    seconds = time.perf_counter() - started
    stored = report.outcomes["stored"]
    size = sum(len(blobs.get(key)) for key in blobs.keys("packs/"))
    index = (folder / "index.sqlite").stat().st_size
    state.close()
    return {
        "images_per_s": len(images) / seconds,
        "cpu_ms_per_image": 1e3 * (time.process_time() - cpu) / len(images),
        "outcomes": dict(report.outcomes),
        "stored_bytes_per_sample": size / stored,
        "index_bytes_per_sample": index / stored,
    }


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Blobs]:
    """A real S3 server on loopback: rclone over a folder."""
    import boto3
    from botocore.config import Config

    root = folder / "buckets"
    (root / "samples").mkdir(parents=True)
    port = free_port()
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("rclone")),
            "serve",
            "s3",
            str(root),
            "--addr",
            f"127.0.0.1:{port}",
            "--auth-key",
            "key,secret",
            "--dir-cache-time",
            "1s",
            "--no-cleanup",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"max_attempts": 10},
            ),
        )
        client.list_buckets()
        yield S3Blobs("samples", client=client)
    finally:
        process.terminate()
        process.wait(timeout=10)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- figures ----------------------------------------------------------------------------------------------------


def timed(call: Call, count: int) -> list[int]:
    """Nanoseconds of each call."""
    clock, times = time.perf_counter_ns, []
    for _ in range(count):
        started = clock()
        call()
        times.append(clock() - started)
    return times


def percentile(times: list[int], percent: int) -> float:
    """In microseconds."""
    return float(np.percentile(times, percent)) / 1e3


def met(value: float, target: float, sense: str) -> bool:
    return value <= target if sense == "at most" else value >= target


def show(result: dict) -> None:
    """Print what was found."""
    console = Console()
    if "hot" in result:
        table = Table("hand-over of one sample", "p50 µs", "p99 µs", title_justify="left")
        for name, one in result["hot"]["times"].items():
            table.add_row(name, f"{one['p50_us']:.2f}", f"{one['p99_us']:.1f}")
        console.print(table)
    if "loop" in result:
        loop = result["loop"]
        console.print(
            f"YOLOv8n loop, ms a frame at p50: off {loop['ms_off_p50']:.1f}, on {loop['ms_on_p50']:.1f}"
        )
    if "folder" in result.get("drain", {}):
        table = Table(
            "spool to", "images/s", "CPU ms/image", "bytes/sample in packs", "in the index", "outcomes"
        )
        for name in ("folder", "S3"):
            one = result["drain"][name]
            table.add_row(
                name,
                f"{one['images_per_s']:.0f}",
                f"{one['cpu_ms_per_image']:.2f}",
                f"{one['stored_bytes_per_sample']:.0f}",
                f"{one['index_bytes_per_sample']:.0f}",
                str(one["outcomes"]),
            )
        console.print(table)
    targets = Table("target", "measured", "asked", "")
    for part in ("hot", "loop", "drain"):
        for name, one in result.get(part, {}).get("targets", {}).items():
            asked = f"{one['sense']} {one['target']:g}"
            targets.add_row(name, f"{one['value']:.3g}", asked, "met" if one["met"] else "[red]missed[/red]")
    console.print(targets)


def markdown(result: dict) -> str:
    """The table that docs quote; a test compares them."""
    rows = ["| target | measured | asked |", "| --- | --- | --- |"]
    for part in ("hot", "loop", "drain"):
        for name, one in result.get(part, {}).get("targets", {}).items():
            missed = "" if one["met"] else " (**missed**)"
            rows.append(f"| {name} | {one['value']:.3g}{missed} | {one['sense']} {one['target']:g} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
