"""Measures our trainer beside the Ultralytics trainer, on the same images of BCCD in the same order, in one run.

    python benchmarks/training.py [--seeds 0 1 2] [--epochs 6] [--image-size 320] [--output FILE]

Each training is a process of its own with one thread; the two that are compared run side by side, so that a busy
machine slows both. Processor time (of the process and its children) is that from the end of one epoch to the end of the
next: training, validation and what each writes to disk; the first epoch, which includes the start, is left out. Memory
is the peak of the process. On a GPU the two alternate, and theirs runs as it is.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.training_table import markdown, median
from retrain.boxes import xyxy_to_yolo
from retrain.dataset.formats.registry import read_dataset

ROOT = Path(__file__).parents[1]
BCCD = ROOT.parent / "shared" / "data" / "bccd"
RECIPE = {
    "batch_size": 8,
    "nominal_batch": 16,
    "learning_rate": 0.002,
    "optimizer": "adamw",
    "scheduler": "linear",
    "warmup_epochs": 1.0,
    "warmup_bias_lr": 0.1,
    "close_mosaic": 2,
    "augment": {},
    "threads": 1,
}
"""Small enough a batch that a model learns something from scratch in 6 epochs."""
DEFAULTS = {
    **RECIPE,
    "batch_size": 16,
    "nominal_batch": 64,
    # What their optimizer "auto" makes of 3 classes and less than 10,000 steps; ours has to be told.
    "learning_rate": round(0.002 * 5 / (4 + 3), 6),
    "momentum": 0.9,
    "warmup_epochs": 3.0,
    "warmup_bias_lr": 0.0,
}
"""Ultralytics' defaults, but for `close_mosaic`: its 10 would leave no epoch with mosaic."""
DEFAULT_EPOCHS = 6
FASTER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bfloat16": ({}, {"mixed_precision": True}),
    "channels_last": ({"channels_last": True}, {}),
    "compile": ({"compile": True}, {}),
}
"""What a training may be made faster by: settings of the request, and of the orchestrator."""
GPU = {"image_size": 640, "batch_size": 16, "nominal_batch": 16, "epochs": 6, "workers": 8}
GPU_TARGET = 1.3
DECIMALS = 4


def main() -> None:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument(
        "--only", choices=FASTER, help="measure this against plain, and put it into the output that there is"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training.json"))
    arguments = parser.parse_args()
    if not BCCD.exists():
        print(f"Not measured: {BCCD} is missing; the BCCD images are only on the developers' machines.")
        return
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as folder:
        if arguments.only:
            result = json.loads(arguments.output.read_bytes())
            recipe = recipe_of(Path(folder), result["settings"]["image_size"], result["settings"]["epochs"])
            seed = result["recipe"][0]["seed"]
            result["faster"][arguments.only] = faster(
                Steps(Path(folder)), {**recipe, "seed": seed}, arguments.only
            )
        else:
            result = measure(Path(folder), arguments.seeds, arguments.epochs, arguments.image_size)
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the docs:\n\n{markdown(result)}")


def measure(work: Path, seeds: Sequence[int], epochs: int, image_size: int) -> dict[str, Any]:
    """Everything once, the seeds one after another."""
    steps, recipe = Steps(work), recipe_of(work, image_size, epochs)
    pairs = []
    for seed in seeds:
        config = {**recipe, "seed": seed}
        ours, theirs = steps.side_by_side(training("ours", config), training("theirs", config))
        pairs.append({"seed": seed, "ours": ours, "theirs": theirs, "parity": parity(ours, theirs)})
    config = {**recipe, **DEFAULTS, "epochs": DEFAULT_EPOCHS, "seed": seeds[0]}
    ours, theirs = steps.side_by_side(
        training("ours", config), training("theirs", config, theirs={"optimizer": "auto"})
    )
    default = {"seed": seeds[0], "ours": ours, "theirs": theirs, "parity": parity(ours, theirs)}
    loading = {f"{workers} workers": load(steps, {**config, "workers": workers}) for workers in (0, 2)}
    return {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            **steps.run({"name": "versions"}),
        },
        "settings": {
            "image_size": image_size,
            "epochs": epochs,
            "recipe": RECIPE,
            "default_recipe": DEFAULTS,
        },
        "patched_in_theirs": steps.run({"name": "patched"}),
        "recipe": pairs,
        "default_recipe": default,
        "targets": targets(pairs),
        "faster": {name: faster(steps, {**recipe, "seed": seeds[0]}, name) for name in FASTER},
        "loading": loading,
        **gpu(steps, recipe),
    }


def recipe_of(work: Path, image_size: int, epochs: int) -> dict[str, Any]:
    """What all trainings share; writes the images."""
    return {**write_data(work / "data"), "image_size": image_size, **RECIPE, "epochs": epochs}


def faster(steps: "Steps", config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Ours with one of `FASTER` and without."""
    more, told = FASTER[name]
    one, other = steps.side_by_side(training("ours", {**config, **more}, ours=told), training("ours", config))
    return {"with": one, "without": other, "cpu_ratio": ratio("cpu_s", one, other)}


def load(steps: "Steps", config: Mapping[str, Any]) -> dict[str, float]:
    """Images per second of processor time with each loader."""
    both_loaders = ("ours", "theirs")
    orders = [{"name": "loading", "loader": who, "config": config} for who in both_loaders]
    found = steps.side_by_side(*orders)
    return {who: one["images_per_cpu_s"] for who, one in zip(both_loaders, found, strict=True)}


def write_data(root: Path) -> dict[str, Any]:
    """The official training and validation images, as both read them; where they are, for a configuration."""
    dataset = read_dataset(BCCD)
    for image in dataset.images:
        if image.split not in {"train", "val"}:
            continue
        for part in ("images", "labels"):
            (root / image.split / part).mkdir(parents=True, exist_ok=True)
        file = BCCD / image.path
        (root / image.split / "images" / file.name).write_bytes(file.read_bytes())
        with Image.open(file) as opened:
            boxes = xyxy_to_yolo(image.annotations.boxes, *opened.size)
        rows = [
            f"{label} {' '.join(f'{value:.8f}' for value in box)}\n"
            for label, box in zip(image.annotations.classes, boxes, strict=True)
        ]
        (root / image.split / "labels" / f"{file.stem}.txt").write_text("".join(rows))
    return {
        "train_data": [str(root / "train")],
        "val_data": str(root / "val"),
        "classes": list(dataset.classes),
    }


def training(
    who: str,
    config: Mapping[str, Any],
    *,
    ours: Mapping[str, Any] | None = None,
    theirs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One training as a step; what only ours (the orchestrator's) or theirs (overrides) is told."""
    return {"name": who, "config": dict(config), "told": dict((ours if who == "ours" else theirs) or {})}


class Steps:
    """Runs steps, each in a process and a folder of its own."""

    def __init__(self, work: Path) -> None:
        self._work, self._count = work, 0

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        return self._result(*self._start(order))

    def side_by_side(self, *orders: Mapping[str, Any]) -> list[dict[str, Any]]:
        started = [self._start(order) for order in orders]
        return [self._result(process, folder) for process, folder in started]

    def _start(self, order: Mapping[str, Any]) -> tuple[subprocess.Popen, Path]:
        self._count += 1
        folder = self._work / f"step-{self._count}"
        folder.mkdir()
        said = {key: order["config"].get(key) for key in ("seed", "epochs")} if "config" in order else ""
        print(f"step {self._count}: {order['name']} {said}", file=sys.stderr, flush=True)
        (folder / "order.json").write_text(json.dumps(order))
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.training_steps",
                folder / "order.json",
                folder / "result.json",
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "OMP_NUM_THREADS": "1",
                # Nothing is compiled already.
                "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
            },
            stdout=sys.stderr,
        )
        return process, folder

    def _result(self, process: subprocess.Popen, folder: Path) -> dict[str, Any]:
        if process.wait():
            sys.exit(f"{(folder / 'order.json').read_text()} failed")
        return json.loads((folder / "result.json").read_bytes())


def parity(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """How far the two are apart in any epoch."""
    epochs = list(zip(ours["epochs"], theirs["epochs"], strict=True))
    scores = {key: max(abs(one[key] - two[key]) for one, two in epochs) for key in ("map50", "map50_95")}
    losses = [
        abs(one["losses"][name] - value) / value
        for one, two in epochs
        for name, value in two["losses"].items()
    ]
    return {
        "epochs": len(epochs),
        "epochs_ending_within_an_accumulation": ours["open_windows"],
        "greatest_difference": scores,
        "greatest_relative_difference_of_a_loss": max(losses),
        "equal_to_4_decimals": all(
            round(one[key], DECIMALS) == round(two[key], DECIMALS) for one, two in epochs for key in scores
        ),
        "weights_bit_equal": ours["weights"] == theirs["epochs"][ours["best_epoch"] - 1]["weights"],
    }


def ratio(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return median(key, one) / median(key, other)


def targets(pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was asked."""
    apart = max(max(pair["parity"]["greatest_difference"].values()) for pair in pairs)
    cpu = [ratio("cpu_s", pair["ours"], pair["theirs"]) for pair in pairs]
    memory = [pair["ours"]["peak_mib"] / pair["theirs"]["peak_mib"] for pair in pairs]
    wanted = {
        "mAP50 and mAP50-95, greatest difference in any epoch": (apart, 0.5 * 10**-DECIMALS, [apart]),
        "processor time per epoch, ours / theirs": (statistics.median(cpu), 1.0, cpu),
        "peak memory, ours / theirs": (statistics.median(memory), 1.1, memory),
    }
    return {
        name: {"value": value, "at_most": limit, "met": value <= limit, "seeds": each}
        for name, (value, limit, each) in wanted.items()
    }


def gpu(steps: Steps, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """At 640 px with bfloat16 on one GPU, the two alternating, and two GPUs where there are two."""
    devices = steps.run({"name": "devices"})
    if not devices["names"]:
        return {"gpu": None, "gpu_reason": devices["reason"]}
    config = {**recipe, **GPU, "seed": 0}
    theirs_told = {"device": "0", "amp": "bf16", "workers": GPU["workers"]}
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for _ in range(2):
        for who, found in runs.items():
            order = training(who, config, ours={"num_gpus": 1, "mixed_precision": True}, theirs=theirs_told)
            found.append(steps.run({**order, "as_it_is": True}))
    speed = {who: statistics.median(images_per_s(run) for run in found) for who, found in runs.items()}
    return {
        "gpu": {
            "devices": devices["names"],
            "settings": GPU,
            "runs": runs,
            "images_per_s": speed,
            "ratio": speed["ours"] / speed["theirs"],
            "at_least": GPU_TARGET,
            "met": speed["ours"] / speed["theirs"] >= GPU_TARGET,
            **two_gpus(steps, config, len(devices["names"])),
        }
    }


def images_per_s(run: Mapping[str, Any]) -> float:
    """Training images per second of an epoch, its validation and what it writes included."""
    return run["images"] / median("seconds", run)


def two_gpus(steps: Steps, config: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Whether two processes train together over NCCL; their scores beside one's are for the reader to judge."""
    if devices < 2:
        return {"two_gpus": None, "two_gpus_reason": f"torch sees {devices} GPU"}
    return {"two_gpus": steps.run(training("ours", config, ours={"num_gpus": 2, "mixed_precision": True}))}


def show(result: Mapping[str, Any]) -> None:
    """Print what was found."""
    console = Console()
    console.print("Changed in theirs: " + "; ".join(result["patched_in_theirs"]) + ".")
    for pair in [*result["recipe"], result["default_recipe"]]:
        name = "default recipe" if pair is result["default_recipe"] else "recipe"
        table = Table(
            "epoch", "mAP50 ours", "theirs", "mAP50-95 ours", "theirs", "CPU s ours", "theirs",
            title=f"{name}, seed {pair['seed']}", title_justify="left",
        )  # fmt: skip
        for number, (one, two) in enumerate(
            zip(pair["ours"]["epochs"], pair["theirs"]["epochs"], strict=True), 1
        ):
            cells = [f"{run[key]:.6f}" for key in ("map50", "map50_95") for run in (one, two)]
            table.add_row(str(number), *cells, f"{one['cpu_s']:.2f}", f"{two['cpu_s']:.2f}")
        console.print(table)
        console.print(pair["parity"])
    console.print(f"loading: {result['loading']}")
    console.print(markdown(result))


if __name__ == "__main__":
    main()
