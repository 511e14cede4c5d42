"""Measures how often the gate errs, and what it can see: thousands of simulated comparisons of two models.

    python benchmarks/gate.py [--runs 1200] [--power-runs 200] [--resamples 500] [--output FILE]

Two models look at the same objects of the same cameras. Some cameras are hard for both, and some suit one model better
than the other, by chance: without a true difference over all cameras there may be, this makes few cameras differ. What
each model found is drawn directly, without images; scores, draws and decisions are those of the package.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.stats import binomtest

from retrain.evaluation.change import Metric
from retrain.evaluation.comparator import ModelComparator
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.evidence import Evidence
from retrain.evaluation.gate import decide
from retrain.evaluation.matching import IOU_THRESHOLDS, Matches
from retrain.evaluation.policy import GatePolicy
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.truth import Truth

CLASSES = 3
OBJECTS_PER_IMAGE, FALSE_ALARMS_PER_IMAGE = 3.0, 1.0
IMAGES = 100
"""Of all cameras together, on average."""
UNEQUAL = 0.5
"""Coefficient of variation of images per camera."""
MARGIN = 0.05
MORE_RUNS = 4
"""Times as many comparisons of equal models where cameras are equal: there the rate is nearest to the 5 % allowed."""
SUITS = 0.5
"""How differently cameras suit the two models: standard deviation in logits of finding an object."""
POWER_IMAGES, POWER_SUITS = 20, 0.25
"""Images per camera, and how differently cameras suit the models, where the question is what the gate can see."""
CALIBRATION_CAMERAS = 2500


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        unequal: coefficient of variation of images per camera.
        suits: standard deviation over cameras of what suits one model, in logits.
        shift: how much more easily the challenger finds an object, in logits.
        alike: the challenger is the champion, but for what it finds more or less easily.
    """

    cameras: int
    images_per_camera: float
    unequal: float = UNEQUAL
    suits: float = SUITS
    shift: float = 0.0
    alike: bool = False


def main() -> None:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=1200, help="of each row without or with the marginal difference"
    )
    parser.add_argument("--power-runs", type=int, default=200, help="of each cell of the power table")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gate.json"))
    arguments = parser.parse_args()

    began = time.process_time()
    runs, resamples = arguments.runs, arguments.resamples
    same, margins = [], []
    for name, world, metric in rows():
        more = MORE_RUNS * runs if world.unequal == 0 else runs
        same.append({"row": name, "world": asdict(world), **same_models(world, metric, more, resamples)})
        shifted = with_difference(world, metric, -MARGIN)
        found = promoted(shifted, metric, runs, resamples, not_much_worse(metric))
        margins.append({"row": name, "world": asdict(shifted), "promoted": found})
    power = [
        {
            "difference": difference,
            "cameras": cameras,
            "promoted": promoted(
                with_difference(World(cameras, POWER_IMAGES, suits=POWER_SUITS), "map50", difference),
                "map50",
                arguments.power_runs,
                resamples,
                BETTER,
            ),
        }
        for difference in (0.01, 0.02, 0.05, 0.1)
        for cameras in (5, 10, 20, 50)
    ]
    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "images": IMAGES,
        "resamples": resamples,
        "margin": MARGIN,
        "power_images": POWER_IMAGES,
        "same_models": same,
        "at_the_margin": margins,
        "power": power,
        "cpu_seconds": round(time.process_time() - began),
    }
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the guide:\n\n{markdown(result)}")


def rows() -> Iterator[tuple[str, World, Metric]]:
    """Names, worlds and metrics of the rows that are about errors."""
    yield f"{IMAGES} independent frames", World(IMAGES, 1, unequal=0.0, suits=0.0), "map50"
    for cameras in (5, 10, 20, 50):
        yield f"{cameras} equal cameras", World(cameras, IMAGES / cameras, unequal=0.0), "map50"
        yield f"{cameras} unequal cameras", World(cameras, IMAGES / cameras), "map50"
    yield "10 very unequal cameras", World(10, IMAGES / 10, unequal=1.0), "map50"
    yield "20 cameras that suit both alike", World(20, IMAGES / 20, suits=0.0), "map50"
    yield "10 unequal cameras, models alike", World(10, IMAGES / 10, alike=True), "map50"
    yield "10 unequal cameras, mAP50-95", World(10, IMAGES / 10), "map50_95"


BETTER = GatePolicy.of({"must_improve": [{"metric": "map50"}]})


def not_much_worse(metric: Metric) -> GatePolicy:
    return GatePolicy.of({"max_loss": {"overall": {metric: MARGIN}}})


def same_models(world: World, metric: Metric, runs: int, resamples: int) -> dict:
    """How often a difference is seen where there is none: of the mean, as it was done before, and of any class."""
    seen = {"rejected": 0, "expanded": 0, "any_class": 0, "any_class_alone": 0}
    for run in range(runs):
        pair = simulate(world, np.random.default_rng([run, world.cameras]))
        comparator = ModelComparator(*pair, seed=run, resamples=resamples)
        change, before = comparator.metric(metric), comparator.expanded(metric)
        classes = comparator.classes(metric).values()
        seen["rejected"] += change.low > 0 or change.high < 0
        seen["expanded"] += before.low > 0 or before.high < 0
        seen["any_class"] += any(one.family_low > 0 or one.family_high < 0 for one in classes)
        seen["any_class_alone"] += any(one.low > 0 or one.high < 0 for one in classes)
    return {name: share(count, runs) for name, count in seen.items()}


def promoted(world: World, metric: Metric, runs: int, resamples: int, policy: GatePolicy) -> dict:
    """How often the policy says better."""
    passed = 0
    for run in range(runs):
        pair = simulate(world, np.random.default_rng([run, world.cameras, 1]))
        change = ModelComparator(*pair, seed=run, resamples=resamples).metric(metric)
        passed += decide(Evidence(metrics={metric: change}), policy).passed
    return share(passed, runs)


def simulate(world: World, rng: np.random.Generator) -> tuple[Evaluation, Evaluation]:
    """What champion and challenger found of one draw of cameras."""
    truth, ease = draw_truth(world, rng)
    one, other = rng.spawn(2)
    if world.alike:
        other = deepcopy(one)
    champion = found_by(truth, ease, world, 0.0, one)
    return champion, found_by(truth, ease, world, world.shift, other)


def draw_truth(world: World, rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """Objects, and how easily any model finds each, in logits."""
    each = np.full(world.cameras, world.images_per_camera)
    if world.unequal:
        each = each * rng.gamma(1 / world.unequal**2, world.unequal**2, world.cameras)
    group = np.repeat(np.arange(world.cameras), np.maximum(1, np.rint(each).astype(int)))
    images = len(group)
    image = np.repeat(np.arange(images), rng.poisson(OBJECTS_PER_IMAGE, images))
    n = len(image)
    ease = 1.2 + 0.7 * rng.normal(size=world.cameras)[group[image]] + 0.5 * rng.normal(size=images)[image]
    truth = Truth(
        images=tuple(f"{row:06}" for row in range(images)),
        groups=tuple(f"{row:06}" for row in group),
        classes=tuple(f"class {row}" for row in range(CLASSES)),
        attributes=({},) * images,
        image=image,
        label=rng.integers(0, CLASSES, n),
        boxes=np.zeros((n, 4)),
        crowd=np.zeros(n, dtype=bool),
        area=np.zeros(n),
        sizes=np.zeros((n, 2)),
    )
    return truth, ease + 0.8 * rng.normal(size=n)


def found_by(
    truth: Truth, ease: np.ndarray, world: World, shift: float, rng: np.random.Generator
) -> Evaluation:
    """One model's detections, with the matches they would have had; boxes are not simulated."""
    units, cameras = truth.group_of, world.cameras
    logit = ease + shift + world.suits * rng.normal(size=cameras)[units[truth.image]]
    found = np.flatnonzero(rng.random(len(truth)) < 1 / (1 + np.exp(-logit)))
    sure = (0.7 * (logit - shift) + rng.normal(size=len(truth)) - 0.3)[found]
    overlap = (0.5 + 0.5 * rng.beta(3, 2, len(truth)))[found]
    alarms = rng.poisson(FALSE_ALARMS_PER_IMAGE * np.exp(world.suits * rng.normal(size=cameras)[units] - 0.1))
    wrong = np.repeat(np.arange(len(units)), alarms)
    image = np.concatenate([truth.image[found], wrong])
    label = np.concatenate([truth.label[found], rng.integers(0, CLASSES, len(wrong))])
    scores = 1 / (1 + np.exp(-np.concatenate([sure, 1.2 * rng.normal(size=len(wrong)) - 1.0])))
    object_of = np.full((len(image), len(IOU_THRESHOLDS)), -1)
    object_of[: len(found)] = np.where(overlap[:, None] >= IOU_THRESHOLDS, found[:, None], -1)
    order = np.lexsort((-scores, image))
    object_of = object_of[order]
    result = Evaluation(
        truth,
        Predictions(
            image[order], label[order], np.zeros((len(image), 4)), scores[order], np.zeros((len(image), 2))
        ),
        EvaluationProtocol(),
        0.25,
    )
    hits = object_of >= 0
    result.__dict__["matches"] = Matches(
        np.ones(len(image), dtype=bool), object_of, hits, np.zeros_like(hits)
    )
    return result


def with_difference(world: World, metric: Metric, difference: float) -> World:
    """The world in which the challenger's score over all cameras there may be differs so much."""
    return replace(world, shift=shift_for(world.suits, metric, difference))


@cache
def shift_for(suits: float, metric: Metric, difference: float) -> float:
    """Found on one large draw of cameras, with equal luck at every shift."""
    world = World(CALIBRATION_CAMERAS, 8, suits=suits)
    truth, ease = draw_truth(world, np.random.default_rng(0))
    thresholds = IOU_THRESHOLDS[:1] if metric == "map50" else IOU_THRESHOLDS

    def score(shift: float) -> float:
        found = found_by(truth, ease, world, shift, np.random.default_rng(1))
        once = np.ones((1, len(truth.images)), dtype=np.int64)
        return float(found.average_precision().mean(once, thresholds)[0])

    at_zero = score(0.0)
    return float(brentq(lambda shift: score(shift) - at_zero - difference, -3, 3, xtol=1e-3))


def share(count: int, runs: int) -> dict:
    """With its 95 % interval (Wilson 1927)."""
    low, high = (float(end) for end in binomtest(int(count), runs).proportion_ci(method="wilson"))
    return {"share": count / runs, "low": low, "high": high, "runs": runs}


def markdown(result: dict) -> str:
    """The tables the guide quotes; a test compares them."""
    errors = [
        (
            "cameras",
            "same models told apart",
            "by percentiles, as before",
            "by any of 3 classes",
            "the same, each class alone",
            "promoted at the margin",
        ),
        ("---",) * 6,
        *(
            (
                same["row"],
                *(percent(same[name]) for name in ("rejected", "expanded", "any_class", "any_class_alone")),
                percent(margin["promoted"]),
            )
            for same, margin in zip(result["same_models"], result["at_the_margin"], strict=True)
        ),
    ]
    cameras = sorted({cell["cameras"] for cell in result["power"]})
    differences = sorted({cell["difference"] for cell in result["power"]})
    found = {(cell["difference"], cell["cameras"]): cell["promoted"] for cell in result["power"]}
    power = [
        ("true difference of mAP50", *(f"{count} cameras" for count in cameras)),
        ("---",) * (1 + len(cameras)),
        *((f"{one:+.2f}", *(percent(found[one, count]) for count in cameras)) for one in differences),
    ]
    errors_table, power_table = (
        "\n".join(f"| {' | '.join(row)} |" for row in table) for table in (errors, power)
    )
    runs = result["at_the_margin"][0]["promoted"]["runs"]
    return (
        f"{errors_table}\n\n{runs:,} comparisons in each cell, {MORE_RUNS} times as many of the same models on equal "
        f"cameras or independent frames, of about {result['images']} images each; {result['resamples']} resamples; "
        f"share [95 % interval]. The margin is {result['margin']}.\n\n"
        f"{power_table}\n\nShare of {result['power'][0]['promoted']['runs']} comparisons in which the challenger was "
        f"shown to be better, on unequal cameras with {result['power_images']} images each on average."
    )


def percent(value: dict) -> str:
    return f"{value['share']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


def show(result: dict) -> None:
    """The rates, as tables."""
    table = Table("cameras", "rejected", "expanded", "any class", "any class alone", "promoted at the margin")
    for same, margin in zip(result["same_models"], result["at_the_margin"], strict=True):
        rates = [same[name] for name in ("rejected", "expanded", "any_class", "any_class_alone")]
        table.add_row(same["row"], *map(percent, [*rates, margin["promoted"]]))
    Console().print(table)
    table = Table("difference", "cameras", "shown to be better")
    for cell in result["power"]:
        table.add_row(f"{cell['difference']:+.2f}", str(cell["cameras"]), percent(cell["promoted"]))
    Console().print(table)
    print(f"{result['cpu_seconds']} s of processor time")


if __name__ == "__main__":
    main()
