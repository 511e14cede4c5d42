"""Measures the estimator of production precision and recall: does its 95 % interval cover the truth 95 times in 100?

    python benchmarks/estimator.py [--runs 2000] [--seed 0] [--output benchmarks/results/estimator.json]

Each scenario is one fixed window of frames with known truth, from which frames are kept `runs` times by the
scenario's probabilities. `naive` is the same estimator told that every kept frame had the same chance.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from scipy.special import betaincinv

from retrain.data_collection.estimator import Estimate, Estimates, estimate_counts
from retrain.errors import BadInput

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
    title: str
    window: Callable[[np.random.Generator], Window]
    draw: Draw


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


def by_probability(probability: Callable[[Window], np.ndarray], labelled: float = 1.0) -> Draw:
    """The audit arm beside a strategy that takes each frame with its own probability."""

    def draw(frames: Window, runs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chance = labelled * (1 - (1 - AUDIT) * (1 - probability(frames)))
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
    is_open = 1 - (1 - AUDIT) * (1 - 0.5 * uncertain(frames))
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
    Scenario("the same, half of the kept labelled", window, by_probability(uncertain, labelled=0.5)),
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/estimator.json"))
    arguments = parser.parse_args()

    started = time.perf_counter()
    scenarios = [measure(scenario, arguments.runs, arguments.seed) for scenario in SCENARIOS]
    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
        "wall_s": round(time.perf_counter() - started, 1),
        "scenarios": scenarios,
    }
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the README:\n\n{markdown(result)}")


def measure(scenario: Scenario, runs: int, seed: int) -> dict:
    """All runs of one scenario; runs in which the estimator refuses to judge are counted apart."""
    rng = np.random.default_rng(seed)
    frames = scenario.window(rng)
    weighted, naive, labelled = [], [], []
    for kept, chance in draws(scenario, frames, runs, rng):
        index = np.flatnonzero(kept)
        labelled.append(len(index))
        weighted.append(estimated(frames, index, chance[index]))
        naive.append(estimated(frames, index, np.full(len(index), len(index) / len(frames))))
    truth = frames.truth()
    return {
        "title": scenario.title,
        "frames": len(frames),
        "runs": runs,
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


def estimated(frames: Window, index: np.ndarray, chance: np.ndarray) -> Estimates | None:
    counts = frames.tp[index], frames.fp[index], frames.fn[index]
    try:
        return estimate_counts(*counts, chance, population=len(frames))
    except BadInput:
        return None


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


def show(result: dict) -> None:
    """One table per scenario."""
    console = Console()
    for one in result["scenarios"]:
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
    console.print(f"{result['wall_s']:.0f} s")


def markdown(result: dict) -> str:
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
        for one in result["scenarios"]
        for name, of in one["quantities"].items()
        if name in ("precision", "recall")
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def coverage(of: dict) -> str:
    low, high = 100 * of["coverage_low"], 100 * of["coverage_high"]
    return f"{100 * of['coverage']:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
