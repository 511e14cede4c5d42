"""Measures the estimator of production precision and recall: does its 95 % interval cover the truth 95 times in 100?

    python benchmarks/estimator.py [--runs 2000] [--service-runs 1000] [--seed 0]
                                   [--output benchmarks/results/estimator.json]

Each scenario is one fixed window of frames with known truth, from which frames are kept `runs` times by the
scenario's probabilities. In the last one the frames go through the collection service itself, near-duplicates left
out, and the estimate comes from the stored draws and labels. `naive` is the same estimator told that every kept frame
had the same chance.
"""

import argparse
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.special import betaincinv
from sqlalchemy import insert, select

from retrain.boxes import Annotations, Detections
from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.estimator import Estimate, Estimates, estimate_counts
from retrain.data_collection.production_quality import estimate_production
from retrain.errors import BadInput
from retrain.storage.schema import annotations, cycles, samples
from retrain.storage.state import StateStore, open_state

AUDIT = 0.01
WINDOW = 20_000
FRAMES_PER_HOUR = 1_000
CHUNK = 100
"""Runs drawn at once; 100 x 20,000 random numbers are 16 MB."""
QUANTITIES = ("precision", "recall", "f1", "objects_per_frame")


@dataclass(frozen=True)
class Window:
    """Frames with what the detector did in each, shape (n,); `confidence` is NaN where it found nothing."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.tp)

    def truth(self) -> dict[str, float]:
        tp, fp, fn = self.tp.sum(), self.fp.sum(), self.fn.sum()
        return {
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "objects_per_frame": (tp + fn) / len(self),
        }


Draw = Callable[[Window, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""(window, runs, rng) -> kept and inclusion probability, each of shape (runs, frames)."""


@dataclass(frozen=True)
class Scenario:
    """`labelled` is the share of the kept frames that a person labels, by chance."""

    title: str
    window: Callable[[np.random.Generator], Window]
    draw: Draw
    labelled: float = 1.0


def window(rng: np.random.Generator, frames: int = WINDOW, difficulty: float = 1.0) -> Window:
    """Traffic that changes slowly, a third of the frames empty, and a few hard frames with most of the errors."""
    busy = np.repeat(rng.gamma(2.0, 0.5, frames // 500), 500)
    objects = rng.poisson(3.0 * busy) * (rng.random(frames) > 1 / 3)
    hardness = rng.beta(0.5, 6.0, frames)
    tp = rng.binomial(objects, 1 - difficulty * hardness)
    fp = rng.poisson(0.6 * difficulty * hardness)
    confidence = np.clip(1 - 1.2 * hardness - 0.15 * rng.random(frames), 0.25, 1.0)
    return Window(tp, fp, objects - tp, np.where(tp + fp > 0, confidence, np.nan))


def broken(rng: np.random.Generator) -> Window:
    """The same with 0.5 % broken frames, in which nothing is found and 15 boxes or so are wrong."""
    frames = window(rng)
    is_broken = rng.random(len(frames)) < 0.005
    tp = np.where(is_broken, 0, frames.tp)
    fp = np.where(is_broken, rng.poisson(15.0, len(frames)), frames.fp)
    return Window(tp, fp, frames.tp + frames.fn - tp, frames.confidence)


def by_probability(probability: Callable[[Window], np.ndarray]) -> Draw:
    """The audit arm and a strategy that takes each frame with its own probability, on one coin as in the collector."""

    def draw(frames: Window, runs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chance = np.maximum(AUDIT, probability(frames))
        kept = rng.random((runs, len(frames))) < chance
        return kept, np.broadcast_to(chance, kept.shape)

    return draw


def nothing(frames: Window) -> np.ndarray:
    return np.zeros(len(frames))


def uncertain(frames: Window) -> np.ndarray:
    """Every frame with a confidence below 0.7, none without boxes."""
    return (frames.confidence < 0.7).astype(float)


def crowded(frames: Window) -> np.ndarray:
    """Every frame with ten detections or more."""
    return (frames.tp + frames.fp >= 10).astype(float)


def graded(frames: Window) -> np.ndarray:
    """The chance rises with doubt, from 0 at confidence 0.9 to 1 at 0.25."""
    return np.nan_to_num(np.clip((0.9 - frames.confidence) / 0.65, 0, 1) ** 2)


def with_quota(frames: Window, runs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the uncertain frames until 30 are kept in an hour, audit frames included; then audit alone."""
    is_open = np.maximum(AUDIT, 0.5 * uncertain(frames))
    kept, chance = [], []
    for hour in np.split(is_open, len(frames) // FRAMES_PER_HOUR):
        drawn = rng.random((runs, len(hour)))
        would_keep = drawn < hour
        has_room = would_keep.cumsum(axis=1) - would_keep < 30
        chance.append(np.where(has_room, hour, AUDIT))
        kept.append(drawn < chance[-1])
    return np.concatenate(kept, axis=1), np.concatenate(chance, axis=1)


SCENARIOS = (
    Scenario("audit 1 % alone", window, by_probability(nothing)),
    Scenario("audit + all uncertain frames", window, by_probability(uncertain)),
    Scenario("the same, half of the kept labelled", window, by_probability(uncertain), 0.5),
    Scenario("audit + chance rising with doubt", window, by_probability(graded)),
    Scenario("audit + uncertain within an hourly quota", window, with_quota),
    Scenario("recall 0.99, audit alone", lambda rng: window(rng, difficulty=0.13), by_probability(nothing)),
    Scenario("recall 0.99, audit + uncertain", lambda rng: window(rng, difficulty=0.13), by_probability(uncertain)),
    Scenario("3,000 frames, audit alone", lambda rng: window(rng, 3_000), by_probability(nothing)),
    Scenario("3,000 frames, audit + uncertain", lambda rng: window(rng, 3_000), by_probability(uncertain)),
    Scenario("0.5 % broken frames, audit alone", broken, by_probability(nothing)),
    Scenario("0.5 % broken frames, audit + crowded", broken, by_probability(crowded)),
)  # fmt: skip


def main() -> None:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--service-runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/estimator.json"))
    arguments = parser.parse_args()

    started = time.perf_counter()
    scenarios = [measure(scenario, arguments.runs, arguments.seed) for scenario in SCENARIOS]
    scenarios.append(measure_service(arguments.service_runs, arguments.seed))
    results = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
        "wall_s": round(time.perf_counter() - started, 1),
        "scenarios": scenarios,
    }
    show(results)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the README:\n\n{markdown(results)}")


def measure(scenario: Scenario, runs: int, seed: int) -> dict:
    """All runs of one scenario."""
    rng = np.random.default_rng(seed)
    frames = scenario.window(rng)
    weighted, naive, labelled = [], [], []
    for kept, chance in draws(scenario, frames, runs, rng):
        index = np.flatnonzero(kept & (rng.random(len(frames)) < scenario.labelled))
        labelled.append(len(index))
        weighted.append(
            estimated(frames, index, scenario.labelled * chance[index], scenario.labelled * AUDIT)
        )
        naive.append(unweighted(frames, index))
    return result(scenario.title, frames, labelled, weighted, naive)


def result(
    title: str,
    frames: Window,
    labelled: list[int],
    weighted: list[Estimates | None],
    naive: list[Estimates | None],
) -> dict:
    """Runs in which the estimator refuses to judge are counted apart."""
    truth = frames.truth()
    return {
        "title": title,
        "frames": len(frames),
        "runs": len(labelled),
        "labelled": round(float(np.mean(labelled)), 1),
        "refused": sum(one is None for one in weighted),
        "quantities": {
            name: {
                "truth": round(float(truth[name]), 4),
                "weighted": summary([getattr(one, name) for one in weighted if one], truth[name]),
                "naive": summary([getattr(one, name) for one in naive if one], truth[name]),
            }
            for name in QUANTITIES
        },
    }


def draws(
    scenario: Scenario, frames: Window, runs: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(0, runs, CHUNK):
        yield from zip(*scenario.draw(frames, min(CHUNK, runs - first), rng), strict=True)


def estimated(frames: Window, index: np.ndarray, chance: np.ndarray, rate: float) -> Estimates | None:
    counts = frames.tp[index], frames.fp[index], frames.fn[index]
    try:
        return estimate_counts(*counts, chance, rate, population=len(frames))
    except BadInput:
        return None


def unweighted(frames: Window, index: np.ndarray) -> Estimates | None:
    share = len(index) / len(frames)
    return estimated(frames, index, np.full(len(index), share), share)


# --- through the collection service ------------------------------------------------------------------------------

SERVICE_AUDIT = 0.1
SCENES, STILL, FROZEN, NEW = 8, 400, 60, 140
"""Fixed cameras' scenes, frames that show one of them with fresh noise, with equal bytes, and frames like no other."""
SIDE, CELL = 64, 16


def service_window(rng: np.random.Generator) -> tuple[Window, list[bytes]]:
    """Frames with their images: most repeat a scene and are easy, those like no other are hard."""
    kinds = rng.permutation(np.repeat([0, 1, 2], [STILL, FROZEN, NEW]))
    scenes = [picture(rng) for _ in range(SCENES)]
    images = [
        encoded(scenes[rng.integers(SCENES)], rng) if kind == 0
        else encoded(scenes[0]) if kind == 1
        else encoded(picture(rng))
        for kind in kinds
    ]  # fmt: skip
    is_wrong = rng.random(len(kinds)) < np.array([0.06, 0.0, 0.3])[kinds]
    # Equal bytes have an equal answer.
    objects = np.where(kinds == 1, 2, rng.integers(1, 4, len(kinds)))
    fn, fp = is_wrong * rng.integers(0, 2, len(kinds)), is_wrong * rng.integers(0, 3, len(kinds))
    is_unsure = rng.random(len(kinds)) < np.where(is_wrong, 0.8, np.array([0.2, 0.0, 0.7])[kinds])
    return Window(objects - fn, fp, fn, np.where(is_unsure, 0.5, 0.9)), images


def picture(rng: np.random.Generator) -> np.ndarray:
    patches = rng.integers(20, 236, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)


def encoded(pixels: np.ndarray, noise: np.random.Generator | None = None) -> bytes:
    if noise is not None:
        pixels = pixels + noise.integers(-1, 2, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def cells(first: int, number: int) -> list[list[float]]:
    corners = [(at % 4 * CELL, at // 4 * CELL) for at in range(first, first + number)]
    return [[x + 1.0, y + 1.0, x + CELL - 1.0, y + CELL - 1.0] for x, y in corners]


def measure_service(runs: int, seed: int) -> dict:
    """Each run offers the window to a new service that takes 90 % of the unsure frames, and labels what it stored."""
    frames, images = service_window(np.random.default_rng(seed))
    weighted, naive, labelled = [], [], []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            index, found = collected(frames, images, Path(folder), seed + run)
        labelled.append(len(index))
        weighted.append(found)
        naive.append(unweighted(frames, index))
    title = "through the service: audit 10 % + 90 % of the uncertain frames, near-duplicates left out"
    return result(title, frames, labelled, weighted, naive)


def collected(
    frames: Window, images: list[bytes], folder: Path, seed: int
) -> tuple[np.ndarray, Estimates | None]:
    """Frames that were stored, and the estimate."""
    state = open_state(f"sqlite:///{folder / 'state.sqlite'}")
    options = {"settings": {"weights": {"uncertainty": 0.9}}, "audit_rate": SERVICE_AUDIT, "state": state}
    with DataCollectionService(folder, "combined", background=False, seed=seed, **options) as service:
        for number, image in enumerate(images):
            seen = cells(0, frames.tp[number]) + cells(8, frames.fp[number])
            score = float(frames.confidence[number])
            service.collect(
                image=image,
                prediction=Detections.of(seen, [0] * len(seen), [score] * len(seen)),
                confidence=score,
                metadata={"captured_at": float(number), "number": number},
            )
        service.flush()
    stored = label(state, frames)
    try:
        found = estimate_production(
            state, "detector", 0.0, len(frames), audit_rate=SERVICE_AUDIT, offered=len(frames)
        ).estimates
    except BadInput:
        found = None
    state.close()
    return stored, found


def label(state: StateStore, frames: Window) -> np.ndarray:
    """A person labels every sample; the numbers of those frames."""
    cycle = {"id": "c", "model": "detector", "trigger_id": "t", "config_hash": "", "status": "running"}
    by_a_person = {"cycle_id": "c", "source": "human", "annotator": "somebody", "made_at": 0.0}
    with state.write() as connection:
        rows = connection.execute(select(samples.c.id, samples.c.metadata)).all()
        numbers = [row.metadata["number"] for row in rows]
        connection.execute(insert(cycles).values(**cycle, attempts=1, created_at=0.0))
        truths = [cells(0, frames.tp[number] + frames.fn[number]) for number in numbers]
        objects = [Annotations.of(boxes, [0] * len(boxes)).to_json() for boxes in truths]
        labels = [
            {**by_a_person, "sample_id": row.id, "objects": of} for row, of in zip(rows, objects, strict=True)
        ]
        connection.execute(insert(annotations), labels)
    return np.array(numbers)


# --- results -----------------------------------------------------------------------------------------------------


def summary(estimates: list[Estimate], truth: float) -> dict:
    """Coverage with its own Clopper-Pearson interval, bias with its standard error, both from the runs."""
    values, lows, highs = np.array([(one.value, one.low, one.high) for one in estimates]).T
    below, above = int((highs < truth).sum()), int((lows > truth).sum())
    covered, n = len(values) - below - above, len(values)
    return {
        "coverage": round(covered / n, 4),
        "coverage_low": round(float(betaincinv(covered, n - covered + 1, 0.025)) if covered else 0.0, 4),
        "coverage_high": round(float(betaincinv(covered + 1, n - covered, 0.975)) if covered < n else 1.0, 4),
        "interval_too_low": round(below / n, 4),
        "interval_too_high": round(above / n, 4),
        "bias": round(float(values.mean() - truth), 5),
        "bias_error": round(float(values.std(ddof=1) / np.sqrt(n)), 5),
        "spread": round(float(values.std(ddof=1)), 5),
        "width": round(float((highs - lows).mean()), 4),
    }


def show(results: dict) -> None:
    """One table per scenario."""
    console = Console()
    for one in results["scenarios"]:
        title = f"{one['title']}: {one['labelled']:.0f} of {one['frames']} frames, {one['runs']} runs"
        table = Table(
            "", "truth", "coverage", "too low / high", "bias", "width", "naive coverage", "naive bias",
            title=f"{title}, {one['refused']} refused", title_justify="left",
        )  # fmt: skip
        for name, of in one["quantities"].items():
            ours, naive = of["weighted"], of["naive"]
            table.add_row(
                name,
                f"{of['truth']:.4f}",
                coverage(ours),
                f"{ours['interval_too_low']:.3f} / {ours['interval_too_high']:.3f}",
                f"{ours['bias']:+.4f} ± {ours['bias_error']:.4f}",
                f"{ours['width']:.4f}",
                coverage(naive),
                f"{naive['bias']:+.4f}",
            )
        console.print(table)
    console.print(f"{results['wall_s']:.0f} s")


def markdown(results: dict) -> str:
    """The table README quotes."""
    header = (
        "labelled frames of a window", "figure", "truth", "coverage of the 95 % interval", "bias", "width",
        "coverage without weights", "bias without weights",
    )  # fmt: skip
    rows = [header, ("---",) * len(header)]
    rows += [
        (
            f"{one['title']}: {one['labelled']:.0f} of {one['frames']:,}",
            name,
            f"{of['truth']:.3f}",
            coverage(of["weighted"]),
            f"{of['weighted']['bias']:+.4f}",
            f"{of['weighted']['width']:.3f}",
            f"{100 * of['naive']['coverage']:.1f} %",
            f"{of['naive']['bias']:+.4f}",
        )
        for one in results["scenarios"]
        for name, of in one["quantities"].items()
        if name in ("precision", "recall")
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def coverage(of: dict) -> str:
    low, high = 100 * of["coverage_low"], 100 * of["coverage_high"]
    return f"{100 * of['coverage']:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
