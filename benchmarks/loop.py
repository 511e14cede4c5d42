"""Measures the closed loop: `retrain demo` over several seeds, and how fast the command line starts.

    python benchmarks/loop.py [--seeds 0 1 2] [--output benchmarks/results/loop.json]

Each seed is a whole demo in a home folder of its own: another world, another training. Times are wall seconds on
the machine that ran it, sampled resident memory is summed over the demo's whole process tree.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from retrain.monitoring.report import LoopReport

CLI = [sys.executable, "-c", "from flows.cli import main; main()"]
START_RUNS = 7


def main() -> None:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/loop.json"))
    arguments = parser.parse_args()

    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "start": {
            "retrain --help, s": median_seconds([*CLI, "--help"]),
            "import retrain.config, s": median_seconds([sys.executable, "-c", "import retrain.config"]),
            "python -c pass, s": median_seconds([sys.executable, "-c", "pass"]),
        },
        "seeds": [demo(seed) for seed in arguments.seeds],
    }
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the README:\n\n{markdown(result)}")


def median_seconds(command: list[str]) -> float:
    """Median wall time of a command, after one run that warms the file cache."""
    times = []
    for _ in range(START_RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return round(statistics.median(times[1:]), 3)


def demo(seed: int) -> dict:
    """One demo; its figures come from the report it wrote."""
    with tempfile.TemporaryDirectory(prefix="retrain-bench-") as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*CLI, "demo", "--seed", str(seed)], env={**os.environ, "RETRAIN_HOME": folder}, stdout=sys.stderr
        )
        peak = peak_memory(process)
        wall = time.perf_counter() - started
        report = LoopReport.from_json((Path(folder) / "demo" / "report" / "report.json").read_bytes())
    return {
        "seed": seed,
        "exit_code": process.returncode,
        "outcome": report.outcome,
        "wall_s": round(wall, 1),
        "peak_rss_mib": round(peak / 2**20),
        "steps_s": {f"{stage.process}: {stage.name}": round(stage.seconds, 2) for stage in report.stages},
        "since_crossing_s": {
            moment.title: None if moment.at is None else round(moment.at - report.reaction[0].at, 2)
            for moment in report.reaction
        },
        "labels": None if report.labels is None else vars(report.labels.total),
        "map50": {
            scores.title: {
                "before": scores.map50.before,
                "after": scores.map50.after,
                "difference": None if scores.map50.difference is None else vars(scores.map50.difference),
                "verdict": scores.map50.verdict,
                "images": scores.images,
                "recordings": scores.groups,
            }
            for scores in report.scores
        },
    }


def peak_memory(process: subprocess.Popen) -> int:
    """Highest sum of resident memory over the process and all it started, sampled twice a second."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in [root, *children(root)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    return peak


def children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def show(result: dict) -> None:
    """Print what README quotes."""
    console, seeds = Console(), result["seeds"]
    starts = Table("start-up", "median s", title="Command line", title_justify="left")
    for name, seconds in result["start"].items():
        starts.add_row(name, f"{seconds:.3f}")
    console.print(starts)
    names = [f"seed {one['seed']}" for one in seeds]
    loop = Table("figure", *names, title="The loop", title_justify="left")
    loop.add_row("outcome (exit code)", *(f"{one['outcome']} ({one['exit_code']})" for one in seeds))
    loop.add_row("wall, s", *(f"{one['wall_s']:.0f}" for one in seeds))
    loop.add_row("peak RSS of all processes, MiB", *(f"{one['peak_rss_mib']}" for one in seeds))
    for title in seeds[0]["since_crossing_s"]:
        loop.add_row(
            f"crossing → {title}, s", *(number(one["since_crossing_s"].get(title), 1) for one in seeds)
        )
    for title in seeds[0]["steps_s"]:
        loop.add_row(f"{title}, s", *(number(one["steps_s"].get(title), 1) for one in seeds))
    for key in ("collected", "auto", "human", "left_out"):
        loop.add_row(f"samples {key}", *(str(one["labels"][key]) for one in seeds))
    console.print(loop)
    scores = Table("mAP50 on held-out truth", *names, title="Quality", title_justify="left")
    for title in seeds[0]["map50"]:
        scores.add_row(title, *(before_after(one["map50"].get(title)) for one in seeds))
    console.print(scores)


def markdown(result: dict) -> str:
    """The table README quotes; a test compares them."""
    seeds, start = result["seeds"], result["start"]
    rows = [("", *(f"seed {one['seed']}" for one in seeds)), ("---",) * (len(seeds) + 1)]
    rows += [
        (f"mAP50, {title}: before → after [interval]", *(before_after(one["map50"][title]) for one in seeds))
        for title in seeds[0]["map50"]
    ]
    rows += [
        (f"threshold crossed → {title}", *(f"{one['since_crossing_s'][title]:.0f} s" for one in seeds))
        for title in ("flow run running", "new digest served")
    ]
    rows.append(
        (
            "labelled by people / by the model",
            *(f"{one['labels']['human']} / {one['labels']['auto']}" for one in seeds),
        )
    )
    rows.append(("whole demo, after set-up", *(f"{one['wall_s']:.0f} s" for one in seeds)))
    rows.append(("peak memory of all its processes", *(f"{one['peak_rss_mib']} MiB" for one in seeds)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    starts = ", ".join(f"`{name.removesuffix(', s')}` {seconds:.2f} s" for name, seconds in start.items())
    return f"{table}\n\nCommand line, median of {START_RUNS}: {starts}."


def number(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def before_after(scores: dict | None) -> str:
    if scores is None:
        return "not measured"
    difference = scores["difference"]
    interval = "" if difference is None else f" [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{number(scores['before'], 3)} → {number(scores['after'], 3)}{interval} {scores['verdict']}"


if __name__ == "__main__":
    main()
