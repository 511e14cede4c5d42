"""Measures dataset versions side by side with plain `dvc add` of a folder of the same images, in one run.

    python benchmarks/dataset.py [--images 10000 100000] [--output FILE] [--work FOLDER]

Every step is a process of its own, started cold, Retrain's and plain DVC's alternating; the S3 server is a real one on
loopback (rclone over a folder), whose folder says how many bytes a push moved. Plain DVC gets the setting that favours
it (hard links). What plain DVC does not do at all (decode every image, check labels, look for leaks, read back what it
stored) is part of Retrain's times. The projection to 600 k images is a straight
line through the two measured sizes, without the first version.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from retrain.boxes import Annotations
from retrain.dataset.manager import DatasetManager
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.storage.pack_reader import PackReader

SIDE = 96
PER_FOLDER = 1000
PER_GROUP = 10
CLASSES = ("car", "truck", "bus", "person", "bicycle")
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
PROJECTED = 600_000
NOT_LINEAR = "first version"
"""All pictures are compared with all others then, which grows with their square; a line would promise too much."""
READS = 20_000
KEY, SECRET = "benchmark-key", "benchmark-secret"
DVC = (sys.executable, "-P", "-m", "dvc")
PLAIN_CONFIG = (
    '[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = "hardlink,copy"\n'
)


def main() -> None:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/dataset.json"))
    parser.add_argument(
        "--work", type=Path, help="folder for the images, which must not exist; default: temporary"
    )
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(*arguments.step)
        return
    with work_folder(arguments.work) as work:
        sizes = [measure(work / str(count), count) for count in arguments.images]
    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "sizes": sizes,
        "targets": targets(sizes[-1]),
        "projected": projected(sizes) if len(sizes) > 1 else {},
    }
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        json.dumps({**result, "table": markdown(result)}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"written to {arguments.output}")


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Every step once, with both, at one size."""
    folder.mkdir(parents=True)
    more = count // 100
    for name, first, images in (("first", 0, count), ("more", count, more)):
        draw_images(folder / name, first, images)
    sizes = {name: bytes_below(folder / name) for name in ("first", "more")}
    with s3_server(folder / "server") as endpoint:
        ours, plain = Ours(folder / "ours", endpoint), Plain(folder / "plain", endpoint)
        times: dict[str, dict[str, float]] = {"start-up": {"plain": plain.start_up()}}
        moved: dict[str, dict[str, int]] = {}
        for name, ours_step, plain_step in (
            (
                "first version",
                lambda: ours.step("create", folder / "first", "v1.0.0"),
                lambda: plain.add(folder / "first", "v1.0.0"),
            ),
            ("push", ours.push, plain.push),
            (
                "+1 %",
                lambda: ours.step("grow", folder / "more", "v1.1.0"),
                lambda: plain.add(folder / "more", "v1.1.0"),
            ),
            ("no-op status", lambda: ours.step("status"), plain.status),
            ("push +1 %", ours.push, plain.push),
            ("clone + pull of one version", ours.clone, plain.clone),
            (
                "checkout of another version",
                lambda: ours.step("checkout", "v1.0.0"),
                lambda: plain.checkout("v1.0.0"),
            ),
        ):
            print(f"{count} images: {name}", file=sys.stderr, flush=True)
            times[name], moved[name] = {}, {}
            for who, step in (("ours", ours_step), ("plain", plain_step)):
                before = bytes_below(folder / "server" / who)
                times[name][who] = step()
                moved[name][who] = bytes_below(folder / "server" / who) - before
        times["+1 % and its push"] = {
            who: times["+1 %"][who] + times["push +1 %"][who] for who in ("ours", "plain")
        }
        return {
            "images": count,
            "image_bytes": sizes,
            "seconds": times,
            "moved": {name: value for name, value in moved.items() if name.startswith("push")},
            "dvc_objects": {"ours": ours.objects(), "plain": plain.objects()},
            "manifest": ours.manifest(),
            "reading": ours.reading(folder / "first"),
        }


class Ours:
    """Retrain's steps."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.remote_is_set = False

    def step(self, *arguments: object) -> float:
        return timed([sys.executable, __file__, "--step", str(self.folder), *map(str, arguments)])

    def push(self) -> float:
        if not self.remote_is_set:
            DatasetManager(self.folder).repository.add_remote("store", "s3://ours/datasets", self.endpoint)
            self.remote_is_set = True
        return self.step("push")

    def clone(self) -> float:
        target = self.folder.with_name("ours-clone")
        return timed([sys.executable, __file__, "--step", str(target), "clone", str(self.folder), "v1.0.0"])

    def objects(self) -> int:
        """Files that DVC tracks for the newest version, and its two lists of them."""
        manager = DatasetManager(self.folder)
        return 2 + sum(len(manager.repository.listing(name, "v1.1.0")) for name in ("packs", "manifest"))

    def manifest(self) -> dict[str, float]:
        """Loading the newest version in a process of its own."""
        return json.loads(said([sys.executable, __file__, "--step", str(self.folder), "manifest", "v1.1.0"]))

    def reading(self, loose: Path) -> dict[str, float]:
        """Decoding images in random order from packs and from loose files, alternating; images per second."""
        return json.loads(said([sys.executable, __file__, "--step", str(self.folder), "reading", str(loose)]))


class Plain:
    """DVC as its documentation says: a folder of images, `dvc add`, a Git tag per version."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "--initial-branch=main")
        self.dvc("init", "-q")
        (folder / ".dvc" / "config").write_text(PLAIN_CONFIG)
        self.dvc("remote", "add", "-d", "store", "s3://plain/datasets")
        self.dvc("remote", "modify", "store", "endpointurl", endpoint)

    def start_up(self) -> float:
        """Of DVC alone: its shortest command."""
        return min(timed([*DVC, "root"], self.folder) for _ in range(3))

    def add(self, images: Path, version: str) -> float:
        copied = time.perf_counter()
        shutil.copytree(images, self.folder / "data", dirs_exist_ok=True)
        copied = time.perf_counter() - copied
        return copied + self.dvc("add", "-q", "data") + self.commit(version)

    def commit(self, version: str) -> float:
        return self.git("add", "-A") + self.git("commit", "-q", "-m", version) + self.git("tag", version)

    def status(self) -> float:
        return self.dvc("status", "-q")

    def push(self) -> float:
        return self.dvc("push", "-q")

    def clone(self) -> float:
        target = self.folder.with_name("plain-clone")
        seconds = timed(
            [
                "git",
                "clone",
                "-q",
                "--branch",
                "v1.0.0",
                "-c",
                "advice.detachedHead=false",
                self.folder,
                target,
            ]
        )
        return seconds + timed([*DVC, "pull", "-q"], target)

    def checkout(self, version: str) -> float:
        return self.git("checkout", "-q", version) + self.dvc("checkout", "-q")

    def objects(self) -> int:
        """Files that DVC tracks for the newest version, and its list of them."""
        cache = self.folder / ".dvc" / "cache" / "files" / "md5"
        return max(len(json.loads(path.read_bytes())) for path in cache.rglob("*.dir")) + 1

    def git(self, *arguments: str) -> float:
        who = ("-c", "user.name=b", "-c", "user.email=b@localhost", "-c", "core.hooksPath=/dev/null")
        return timed(["git", *who, *arguments], self.folder)

    def dvc(self, *arguments: str) -> float:
        return timed([*DVC, *arguments], self.folder)


def run_step(folder: str, name: str, *arguments: str) -> None:
    """One of Retrain's steps, in this process."""
    manager = DatasetManager(folder)
    if name in {"create", "grow"}:
        images, version = arguments
        parent = manager.versions()[-1] if name == "grow" else None
        draft = manager.create_version(version, splits=SPLITS, parent=parent, classes=CLASSES)
        files = sorted(Path(images).rglob("*.jpg"))
        labels = [labels_of(int(file.stem)) for file in files]
        groups = [f"recording-{int(file.stem) // PER_GROUP}" for file in files]
        manager.add_images(draft, files, labels, groups)
        manager.commit(draft)
    elif name == "status":
        if manager.repository.status():
            sys.exit("the folder should be as committed")
    elif name == "push":
        manager.repository.push()
    elif name == "clone":
        source, version = arguments
        copy = DvcRepository.clone(source, Path(folder))
        copy.pull([version])
        manager.verify(version)
    elif name == "checkout":
        manager.checkout(*arguments)
    elif name == "manifest":
        print(json.dumps(load_manifest(manager, *arguments)))
    else:
        print(json.dumps(read_images(manager, Path(arguments[0]))))


def load_manifest(manager: DatasetManager, version: str) -> dict[str, float]:
    before = psutil.Process().memory_info().rss
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        loaded = DatasetManager(manager.repository.folder).get_version(version)
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": min(seconds),
        "images": len(loaded.items),
        "objects": sum(len(item.objects) for item in loaded.items),
        "peak_mb": (peak - before) / 1e6,
    }


def read_images(manager: DatasetManager, loose: Path) -> dict[str, float]:
    version = manager.get_version("v1.0.0")
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(version.items))[:READS]
    items = [version.items[index] for index in chosen]
    packed = [(manager.pack_file(version, item.pack), item.file_name) for item in items]
    files = [
        loose / f"{int(item.metadata['file'][:-4]) // PER_FOLDER:04d}" / item.metadata["file"]
        for item in items
    ]
    reader = PackReader()

    def from_packs() -> None:
        for pack, member in packed:
            cv2.imdecode(np.frombuffer(reader.read(pack, member), np.uint8), cv2.IMREAD_COLOR)

    def from_files() -> None:
        for file in files:
            cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)

    rounds = [(rate(from_packs, len(items)), rate(from_files, len(items))) for _ in range(5)]
    packs, loose_files = (float(np.median(one)) for one in zip(*rounds, strict=True))
    ratios = [
        one / other for one, other in rounds[1:]
    ]  # the first round reads the zip directories and warms up
    return {"packs_per_s": packs, "files_per_s": loose_files, "ratio": float(np.median(ratios))}


def rate(work: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def labels_of(number: int) -> Annotations:
    """A few boxes that follow from the image's number."""
    rng = np.random.default_rng(number)
    count = int(rng.integers(1, 6))
    corners = rng.uniform(0, SIDE / 2, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, SIDE / 2, (count, 2))], axis=1)
    return Annotations.of(boxes, rng.integers(0, len(CLASSES), count))


def draw_images(folder: Path, first: int, count: int) -> None:
    """Small JPEGs of coloured noise, coarse and fine, no two alike."""
    for number in range(first, first + count):
        place = folder / f"{number // PER_FOLDER:04d}"
        if number % PER_FOLDER == 0 or number == first:
            place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        coarse = cv2.resize(
            rng.integers(0, 200, (8, 8, 3), dtype=np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
        )
        fine = rng.integers(0, 56, (SIDE, SIDE, 3), dtype=np.uint8)
        cv2.imwrite(str(place / f"{number:07d}.jpg"), coarse + fine)


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """A real S3 server on loopback: rclone over a folder with a bucket for each."""
    for bucket in ("ours", "plain"):
        (folder / bucket).mkdir(parents=True)
    port = free_port()
    rclone = str(Path(sys.executable).with_name("rclone"))
    options = [
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        f"{KEY},{SECRET}",
        "--dir-cache-time",
        "1s",
        "--no-cleanup",
        "--config",
        "",
    ]
    plain = dict.fromkeys(
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"), "when_required"
    )
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, **plain}
    server = subprocess.Popen([rclone, "serve", "s3", str(folder), *options], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=10)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    import socket

    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the S3 server did not start")


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir()
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="dataset-benchmark-") as folder:
        yield Path(folder)


def timed(command: list[Any], folder: Path | None = None) -> float:
    """Seconds that a command takes; one that fails ends the benchmark with what it said."""
    began = time.perf_counter()
    said(command, folder)
    return time.perf_counter() - began


def said(command: list[Any], folder: Path | None = None) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def targets(one: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked of the largest size."""
    seconds, moved = one["seconds"], one["moved"]
    first, more = moved["push"]["ours"], moved["push +1 %"]["ours"]
    wanted = {
        "+1 %: plain DVC's time / ours": (seconds["+1 %"]["plain"] / seconds["+1 %"]["ours"], "at least", 10),
        "no-op status beyond DVC's start-up, s": (
            seconds["no-op status"]["ours"] - seconds["start-up"]["plain"],
            "at most",
            1,
        ),
        "push of +1 %: share of all bytes moved": (more / (first + more), "at most", 0.02),
        "manifest load, s": (one["manifest"]["seconds"], "at most", 2),
        "reading from packs / from loose files": (one["reading"]["ratio"], "at least", 0.9),
    }
    return {
        name: {
            "value": value,
            "sense": sense,
            "target": target,
            "met": value <= target if sense == "at most" else value >= target,
        }
        for name, (value, sense, target) in wanted.items()
    }


def projected(sizes: list[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds at 600 k images, on the line through the smallest and the largest size."""
    small, large = sizes[0], sizes[-1]
    share = (PROJECTED - small["images"]) / (large["images"] - small["images"])
    return {
        name: {
            who: small["seconds"][name][who] + share * (value - small["seconds"][name][who])
            for who, value in both.items()
        }
        for name, both in large["seconds"].items()
        if name not in {"start-up", NOT_LINEAR}
    }


def show(result: Mapping[str, Any]) -> None:
    """Print what was found."""
    console = Console()
    for one in result["sizes"]:
        table = Table(f"{one['images']} images", "Retrain, s", "plain DVC, s", "ratio", title_justify="left")
        for name, both in one["seconds"].items():
            if "ours" in both:
                table.add_row(
                    name, f"{both['ours']:.1f}", f"{both['plain']:.1f}", f"{both['plain'] / both['ours']:.1f}"
                )
        console.print(table)
        objects, manifest = one["dvc_objects"], one["manifest"]
        console.print(
            f"DVC objects per version: {objects['ours']} and {objects['plain']}; bytes of a push of +1 %: "
            f"{one['moved']['push +1 %']['ours']} and {one['moved']['push +1 %']['plain']}; manifest: "
            f"{manifest['seconds']:.2f} s, {manifest['peak_mb']:.0f} MB for {manifest['images']} images with "
            f"{manifest['objects']} objects; reading: {one['reading']['packs_per_s']:.0f} images/s from packs, "
            f"{one['reading']['files_per_s']:.0f} from files; "
            f"DVC's start-up {one['seconds']['start-up']['plain']:.1f} s"
        )
    table = Table("target", "measured", "asked", "")
    for name, one in result["targets"].items():
        table.add_row(
            name,
            f"{one['value']:.3g}",
            f"{one['sense']} {one['target']:g}",
            "met" if one["met"] else "[red]missed[/red]",
        )
    console.print(table)


def markdown(result: Mapping[str, Any]) -> str:
    """The table that docs quote; a test compares them."""
    rows = [
        "| step | "
        + " | ".join(f"{one['images']:,} images" for one in result["sizes"])
        + " | 600,000, projected |"
    ]
    rows.append("| --- |" + " --- |" * (len(result["sizes"]) + 1))
    for name, both in result["sizes"][-1]["seconds"].items():
        if "ours" not in both:
            continue
        cells = [
            f"{one['seconds'][name]['ours']:.1f} s / {one['seconds'][name]['plain']:.1f} s"
            for one in result["sizes"]
        ]
        far = result["projected"].get(name)
        cells.append(f"{far['ours']:.0f} s / {far['plain']:.0f} s" if far else "grows with the square")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    rows += ["", "| target at the largest size | measured | asked |", "| --- | --- | --- |"]
    for name, one in result["targets"].items():
        missed = "" if one["met"] else " (**missed**)"
        rows.append(f"| {name} | {one['value']:.3g}{missed} | {one['sense']} {one['target']:g} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
