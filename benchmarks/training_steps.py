"""The steps of `benchmarks/training.py`, each a process: `python -m benchmarks.training_steps ORDER RESULT`.

What a step needs is imported in it: the memory of one trainer must not hold the libraries of the other.
"""

import hashlib
import importlib.util
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

LOADED_EPOCHS = 10
"""After one that warms the loader up."""
SAMPLE_S = 0.5
SEEDED = 20_000


def main(order_file: Path, result_file: Path) -> None:
    """Do as ordered."""
    order = json.loads(order_file.read_bytes())
    result_file.write_text(json.dumps(STEPS[order["name"]](order, order_file.parent)))


class Epochs:
    """Collects what each epoch scored and cost; what is done in here costs it nothing."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self._cpu_s, self._time = cpu_seconds(), time.perf_counter()

    def add(self, figures: Callable[[], Mapping[str, Any]]) -> None:
        costs = {"cpu_s": cpu_seconds() - self._cpu_s, "seconds": time.perf_counter() - self._time}
        self.epochs.append({**figures(), **costs})
        self._cpu_s, self._time = cpu_seconds(), time.perf_counter()


def ours(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A training with our trainer, with the check of its release at the end."""
    from retrain.detector import StoredModel
    from retrain.training.orchestrator import TrainingOrchestrator

    kept = Epochs()
    with gpu_use(order["told"]) as use:
        result = TrainingOrchestrator(folder / "jobs", **order["told"]).train(
            order["config"],
            lambda report: kept.add(
                lambda: {"map50": report.map50, "map50_95": report.map50_95, "losses": dict(report.losses)}
            ),
        )
    return {
        "epochs": kept.epochs,
        "images": result.resolved["images"],
        "best_epoch": result.best.epoch,
        "weights": digest(StoredModel.read(result.model_folder).weights),
        "open_windows": open_windows(order["config"], result.resolved["batches"]),
        "peak_mib": peak_mib(),
        **use,
    }


def theirs(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A training with the Ultralytics trainer."""
    from benchmarks.ultralytics_trainer import train_with_ultralytics

    config, kept = order["config"], Epochs()
    config |= {
        "train_data": [Path(place) for place in config["train_data"]],
        "val_data": Path(config["val_data"]),
    }
    images = []

    def record(trainer: Any) -> None:
        images.append(len(trainer.train_loader.dataset))
        kept.add(
            lambda: {
                # As their `metrics` say, which are rounded to 5 decimals.
                "map50": float(trainer.validator.metrics.box.map50),
                "map50_95": float(trainer.validator.metrics.box.map),
                "losses": {name: float(value) for name, value in trainer.tloss.items()},
                "weights": digest(trainer.ema.ema.state_dict()),
            }
        )

    with gpu_use(order["told"]) as use:
        train_with_ultralytics(config, folder, record, our_draws=not order.get("as_it_is"), **order["told"])
    if "lightning" in sys.modules:
        sys.exit("Their process holds Lightning, so that its memory is not theirs alone.")
    return {"epochs": kept.epochs, "images": images[0], "peak_mib": peak_mib(), **use}


def loading(order: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Training images per second of processor time, of all processes, by one of the two loaders."""
    from retrain.training.data import DetectionData
    from retrain.training.job import TrainingJob
    from retrain.training.reproducible import reproducible
    from retrain.training.request import TrainingRequest

    # isort: split
    from ultralytics.data.build import build_dataloader, build_yolo_dataset

    request = TrainingRequest.of(order["config"])
    with reproducible(request.seed, threads=1):
        data = DetectionData(TrainingJob.of(request, folder, 1, mixed_precision=False), "cpu")
        batches: Any = data.train
        if order["loader"] == "theirs":
            data.arguments.cache = "ram"
            dataset = build_yolo_dataset(
                data.arguments, str(request.train_data[0] / "images"), request.batch_size, data.description
            )
            batches = build_dataloader(dataset, request.batch_size, request.workers, device="cpu")
        spent = []
        for _ in range(LOADED_EPOCHS + 1):
            before = cpu_seconds()
            images = sum(len(batch["img"]) for batch in batches)
            if images != data.images:
                sys.exit(f"{order['loader']} loaded {images} of {data.images} images.")
            spent.append(cpu_seconds() - before)
    return {"images_per_cpu_s": data.images * LOADED_EPOCHS / sum(spent[1:])}


def devices(_order: Mapping[str, Any], _folder: Path) -> dict[str, Any]:
    """GPUs, or why there are none."""
    import torch

    if not torch.cuda.is_available():
        return {"names": [], "reason": "torch sees no CUDA device on this machine"}
    return {"names": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]}


def versions(_order: Mapping[str, Any], _folder: Path) -> dict[str, str]:
    import lightning
    import torch

    from retrain.training.ultralytics_parts import ULTRALYTICS_VERSION

    return {
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
    }


def patched(_order: Mapping[str, Any], _folder: Path) -> list[str]:
    """What is changed in theirs, and what it costs them."""
    from benchmarks.ultralytics_trainer import PATCHED
    from retrain.training.reproducible import seed_augmentation

    before = time.process_time()
    for position in range(SEEDED):
        seed_augmentation(0, 0, position)
    microseconds = 1e6 * (time.process_time() - before) / SEEDED
    return [*PATCHED, f"which costs each {microseconds:.0f} µs per image"]


def open_windows(config: Mapping[str, Any], batches: int) -> int:
    """Epochs after which gradients wait for an optimizer step in the next one."""
    from retrain.training.request import TrainingRequest

    request = TrainingRequest.of(config)
    schedule = request.schedule(batches, max(round(config["nominal_batch"] / request.batch_size), 1))
    last, waiting = -1, 0
    for step in range(batches * request.epochs):
        if step - last >= schedule.at(step).accumulate:
            last = step
        waiting += (step + 1) % batches == 0 and last != step
    return waiting


@contextmanager
def gpu_use(told: Mapping[str, Any]) -> Any:
    """Fills a mapping with the mean utilisation of the GPU over the block, in percent, where one is used."""
    use: dict[str, Any] = {}
    if not (told.get("num_gpus") or told.get("device")):
        yield use
        return
    if importlib.util.find_spec("pynvml") is None:
        use |= {"gpu_utilisation_percent": None, "gpu_utilisation_reason": "nvidia-ml-py is not installed"}
        yield use
        return
    import torch

    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(torch.cuda.utilization())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield use
    finally:
        done.set()
        sampler.join()
    use["gpu_utilisation_percent"] = sum(samples) / len(samples)


def digest(weights: Mapping[str, Any]) -> str:
    """Of all tensors, by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def cpu_seconds() -> float:
    """Of this process and its children, those that have ended too."""
    process = psutil.Process()
    own = process.cpu_times()
    running = [child.cpu_times() for child in process.children(recursive=True)]
    return own.children_user + own.children_system + sum(one.user + one.system for one in [own, *running])


def peak_mib() -> float:
    """Greatest resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


STEPS = {
    "ours": ours,
    "theirs": theirs,
    "loading": loading,
    "devices": devices,
    "versions": versions,
    "patched": patched,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
