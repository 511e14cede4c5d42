"""Measures scoring 5,000 images of 80 classes beside the tools that people score with, in one run.

    python benchmarks/evaluation.py [--images 5000] [--classes 80] [--rounds 3] [--output FILE]

Every tool scores the same made-up objects and detections in a process of its own with one thread, all in turns; its
input is ready in the form that it takes before the clock starts (dictionaries, tensors, arrays), so reading files and
running a model are in nobody's time. "Everything" is ours: the twelve COCO numbers and those per class, precision,
recall, F1, our own matching (compared with hotcoco's), confusion matrix, all curves, calibration, TIDE, costliest
errors, slices and the search for the worst. Memory is what the process grew by while it scored. The page is that of two
models on the test images of BCCD, with pictures; what they found is made up.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.evaluation_page import BCCD, drawn
from benchmarks.evaluation_tools import EVERYTHING, INTERVAL, RESAMPLES, TOOLS, World, made_up


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/evaluation.json"))
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--page", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.page:
        print(json.dumps(drawn()))
        return
    world = made_up(arguments.images, arguments.classes)
    if arguments.tool:
        print(json.dumps(measured(arguments.tool, world)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in TOOLS}
    for _ in range(arguments.rounds):
        for name in TOOLS:
            command = [sys.executable, __file__, "--tool", name]
            command += ["--images", str(arguments.images), "--classes", str(arguments.classes)]
            runs[name].append(json.loads(alone(command)))
    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "world": {
            "images": world.images,
            "classes": world.classes,
            "objects": len(world.true_image),
            "crowds": int(world.crowd.sum()),
            "detections": len(world.image),
        },
        "rounds": arguments.rounds,
        "tools": {name: summarised(each) for name, each in runs.items()},
    }
    result["page"] = json.loads(alone([sys.executable, __file__, "--page"])) if BCCD.exists() else None
    result["targets"] = targets(result["tools"], result["page"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)


def alone(command: list[str]) -> bytes:
    """What it prints, with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    return subprocess.run(
        command, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True
    ).stdout.splitlines()[-1]


def measured(tool: str, world: World) -> dict[str, Any]:
    """CPU and wall seconds, growth of memory and the scores of one tool."""
    prepare = TOOLS[tool]
    score = prepare(world)
    process = psutil.Process()
    before = process.memory_info().rss
    wall, cpu = time.perf_counter(), time.process_time()
    # Its own output is not ours.
    with Path(os.devnull).open("w") as nowhere:
        out, sys.stdout = sys.stdout, nowhere
        try:
            scores = score()
        finally:
            sys.stdout = out
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "memory_mb": (_peak() - before) / 2**20,
        "scores": scores,
    }


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def summarised(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians; the scores of all rounds are the same."""
    scores = runs[0]["scores"]
    assert all(run["scores"] == scores for run in runs)
    return {
        name: statistics.median(run[name] for run in runs) for name in ("cpu_s", "wall_s", "memory_mb")
    } | {"scores": scores}


def targets(tools: dict[str, Any], page: dict[str, Any] | None) -> dict[str, Any]:
    """What issue and README promise, and whether it holds."""
    ours, peer = tools[EVERYTHING], tools["faster-coco-eval"]
    reference = tools["pycocotools"]["scores"]
    drawn_in_time = (
        {} if page is None else {"page of two models on BCCD in at most 60 s": page["cpu_s"] <= 60}
    )
    return {
        **drawn_in_time,
        "everything in at most the time of faster-coco-eval for AP alone": ours["cpu_s"] <= peer["cpu_s"],
        f"interval of a difference with {RESAMPLES} resamples in at most 20 s": tools[INTERVAL]["wall_s"]
        <= 20,
        "all twelve numbers equal to those of pycocotools within 1e-6": bool(
            np.allclose(ours["scores"], reference, rtol=0, atol=1e-6)
        ),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table as docs quote it."""
    reference = result["tools"]["pycocotools"]["cpu_s"]
    lines = [
        "| tool | CPU s | of pycocotools' time | memory | mAP50-95 / mAP50 / mAP75 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, tool in result["tools"].items():
        scores = " / ".join(f"{value:.5f}" for value in tool["scores"][:3])
        if name == INTERVAL:
            difference, low, high = tool["scores"]
            scores = f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append(
            f"| {name} | {tool['cpu_s']:.2f} | {tool['cpu_s'] / reference:.3f} | {tool['memory_mb']:.0f} MB "
            f"| {scores} |"
        )
    page = result["page"]
    lines += [
        "",
        "The page was not measured: the BCCD images are only on the developers' machines."
        if page is None
        else f"The page of two models on the {page['images']} test images of BCCD: {page['cpu_s']:.1f} s of processor "
        f"time, {page['megabytes']:.1f} MB.",
    ]
    return "\n".join(lines)


def show(result: dict[str, Any]) -> None:
    """Print the table and the targets."""
    console = Console(width=130)
    quoted = markdown(result).splitlines()
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in quoted if line.startswith("|")
    ]
    world = result["world"]
    table = Table(
        *header,
        title=f"{world['images']} images, {world['objects']} objects, {world['detections']} detections",
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(quoted[-1])
    for target, met in result["targets"].items():
        console.print(f"{'met   ' if met else 'MISSED'} {target}")


if __name__ == "__main__":
    main()
