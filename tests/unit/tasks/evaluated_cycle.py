"""A cycle that got as far as its gate, with the evaluations it stored."""

from types import SimpleNamespace

import numpy as np

from retrain.boxes import Detections
from retrain.cycle import open_cycle
from retrain.errors import NotFound
from retrain.storage.leases import LeaseManager
from tests.unit.evaluation.worlds import evaluation, random_world


def pair():
    """A challenger that finds a tenth more of the objects."""
    rng = np.random.default_rng(0)
    _, truth = random_world(0, images=60)
    found = []
    for keep in (0.7, 0.95):
        each = [rng.random(len(image.objects)) < keep for image in truth]
        found.append(
            [
                Detections.of(
                    image.objects.boxes[kept], image.objects.classes[kept], np.full(kept.sum(), 0.9)
                )
                for image, kept in zip(truth, each, strict=True)
            ]
        )
    return evaluation(found[0], truth), evaluation(found[1], truth)


def evaluated_cycle(resources, *, trained_on=(), verdict="better", version="v1.1.0", compared=None):
    """Half of its test images are new; `compared` is what its stage `evaluate` recorded."""
    champion, challenger = pair()
    images = champion.truth.images
    items = [SimpleNamespace(image=one, split="test", source="human") for one in images]
    items += [SimpleNamespace(image=one, split="train", source="human") for one in ("other", *trained_on)]
    versions = {"v1.0.0": SimpleNamespace(items=items[:30]), "v1.1.0": SimpleNamespace(items=items)}

    def get_version(name):
        if name not in versions:
            raise NotFound(f"Dataset version {name!r} not found.")
        return versions[name]

    resources.__dict__["datasets"] = SimpleNamespace(
        get_version=get_version, verify=lambda _: get_version("not stored")
    )
    with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(resources.state, "m", "manual", "c", lease)
        cycle.stage("plan", {}, lambda: {"champion": "0" * 64, "known_version": "v1.0.0"})
        cycle.stage("version", {}, lambda: {"name": version})
        if compared is not None:
            cycle.stage("evaluate", {}, lambda: compared)
        if verdict is not None:
            cycle.stage("gate", {}, lambda: {"verdict": verdict, "margin": 0.03})
        cycle.finish("kept_champion", {})
    for who, one in (("champion", champion), ("challenger", challenger)):
        file = resources.home / "cycles" / cycle.id / f"{who}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        one.save(file)
    return cycle.id
