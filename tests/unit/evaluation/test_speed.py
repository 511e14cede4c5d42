from itertools import count

import numpy as np
import pytest

from retrain.boxes import Detections
from retrain.errors import BadInput, ConfigError
from retrain.evaluation.machine import peak_memory_mb
from retrain.evaluation.speed import PARTS, SpeedPlan, measure_speed

PLAN = SpeedPlan(images=2, warm_up=2, rounds=4, batch_sizes=(1, 3), batch_rounds=2)
SECONDS = {"load": 1.0, "prepare": 2.0, "forward": 4.0, "finish": 8.0}


class World:
    """A clock that only work moves, and a diary of that work."""

    def __init__(self):
        self.now, self.diary = 0.0, []

    def clock(self):
        return self.now

    def work(self, who, what, times=1.0):
        self.now += SECONDS[what] * times
        self.diary.append((who, what))

    def loads(self, number):
        def load(index):
            self.work(f"image {index}", "load")
            return np.full((4, 4, 3), index, np.uint8)

        return [lambda index=index: load(index) for index in range(number)]


class Model:
    device, imgsz = "cpu", 32

    def __init__(self, world, name, slowness=1.0):
        self.world, self.name, self.slowness = world, name, slowness

    def prepare(self, images):
        self.world.work(self.name, "prepare", len(images) * self.slowness)
        return images

    def forward(self, batch):
        self.world.work(self.name, "forward", len(batch) * self.slowness)
        return batch

    def finish(self, raw, images, confidence, iou, max_detections):
        assert (confidence, iou, max_detections) == (0.25, 0.7, 300)
        self.world.work(self.name, "finish", len(images) * self.slowness)
        return [Detections.empty() for _ in images]


def measured(plan=PLAN, names=("one", "two"), slowness=(1.0, 3.0)):
    world = World()
    models = {name: Model(world, name, slow) for name, slow in zip(names, slowness, strict=True)}
    runtimes = dict.fromkeys(names, "torch")
    return world, measure_speed(models, world.loads(2), plan, runtimes=runtimes, clock=world.clock)


def test_each_part_is_timed_apart_and_together_they_are_the_whole():
    _, reports = measured()

    one, two = reports["one"], reports["two"]
    assert [one.parts[part].p50 for part in PARTS] == [1000, 2000, 4000, 8000]
    assert [two.parts[part].p99 for part in PARTS] == [1000, 6000, 12000, 24000]
    assert one.latency.mean == 15000
    assert sum(part.mean for part in one.parts.values()) == one.latency.mean
    assert one.latency.n == PLAN.rounds
    assert one.fps == pytest.approx(1 / 15)
    assert one.interleaved_with == ("two",)


def test_throughput_leaves_decoding_out():
    _, reports = measured()

    assert reports["one"].throughput == {1: pytest.approx(1 / 14), 3: pytest.approx(1 / 14)}
    assert reports["two"].throughput[3] == pytest.approx(1 / 42)


def test_models_take_turns_at_the_same_image_and_at_being_first():
    world, _ = measured()

    # Behind the images for batches and what warms up: the timed rounds begin with a load.
    start = [step for step in world.diary if step[1] in {"load", "forward"}][3 + 2 * PLAN.warm_up :]
    rounds = start[: 4 * PLAN.rounds]
    assert [who for who, what in rounds if what == "forward"] == [
        "one", "two", "two", "one", "one", "two", "two", "one",
    ]  # fmt: skip
    assert [who for who, what in rounds if what == "load"] == [
        f"image {round_number % 2}" for round_number in range(PLAN.rounds) for _ in range(2)
    ]


def test_every_model_is_warmed_up_before_any_is_timed():
    world, _ = measured()

    forwards = [who for who, what in world.diary if what == "forward"]
    assert forwards[: 2 * PLAN.warm_up] == ["one"] * PLAN.warm_up + ["two"] * PLAN.warm_up
    # Rounds, then per batch size one to warm up and the timed ones, then one for memory.
    each = PLAN.warm_up + PLAN.rounds + len(PLAN.batch_sizes) * (1 + PLAN.batch_rounds)
    assert forwards.count("one") in {each, each + 1}


def test_percentiles_are_of_all_rounds():
    steps = count(1)
    world = World()
    model = Model(world, "one")
    model.forward = lambda batch: (setattr(world, "now", world.now + next(steps)), batch)[1]
    plan = SpeedPlan(images=1, warm_up=0, rounds=100, batch_sizes=(1,), batch_rounds=1)

    report = measure_speed({"one": model}, world.loads(1), plan, runtimes={"one": "x"}, clock=world.clock)[
        "one"
    ]

    assert report.parts["forward"].p50 == pytest.approx(50_500)
    assert report.parts["forward"].p90 == pytest.approx(90_100)
    assert report.parts["forward"].p99 == pytest.approx(99_010)


def test_the_machine_and_the_plan_are_part_of_the_json():
    document = measured()[1]["two"].to_json()

    assert document["machine"]["processor"]
    assert document["machine"]["cores"] >= 1
    assert document["plan"]["rounds"] == PLAN.rounds
    assert list(document["throughput"]) == ["1", "3"]
    assert document["parts"]["decode"]["p50"] == 1000


def test_every_round_of_every_model_is_kept_in_order_so_that_pairs_can_be_compared():
    world = World()
    models = {"one": Model(world, "one"), "two": Model(world, "two")}
    for model, first in zip(models.values(), (1, 100), strict=True):
        taken = count(first)
        model.forward = lambda batch, taken=taken: (setattr(world, "now", world.now + next(taken)), batch)[1]
    plan = SpeedPlan(images=1, warm_up=0, rounds=3, batch_sizes=(1,), batch_rounds=1)

    reports = measure_speed(
        models, world.loads(1), plan, runtimes=dict.fromkeys(models, "x"), clock=world.clock
    )

    assert reports["one"].each_ms == pytest.approx((12_000, 13_000, 14_000))
    assert reports["two"].each_ms == pytest.approx((111_000, 112_000, 113_000))
    assert "each_ms" not in reports["one"].to_json()


def test_no_image_and_no_round_are_refused():
    with pytest.raises(BadInput, match="there is none"):
        measure_speed({}, [], PLAN, runtimes={})
    for wrong in ({"rounds": 0}, {"batch_sizes": (4, 0)}, {"warm_up": -1}):
        with pytest.raises(ConfigError, match="counts of at least 1"):
            SpeedPlan(**wrong)


def test_peak_memory_is_that_of_what_runs_where_the_system_tells():
    small = peak_memory_mb(lambda: None, "cpu")
    large = peak_memory_mb(lambda: np.ones(30_000_000).sum(), "cpu")
    after = peak_memory_mb(lambda: None, "cpu")

    if small is None:
        assert (large, after) == (None, None)
    else:
        assert large > small + 200
        assert after < large - 200
