"""A cycle that got as far as its gate, with the evaluations it stored."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from retrain.boxes import Detections
from retrain.cycle import open_cycle
from retrain.errors import NotFound
from retrain.evaluation.comparator import compare
from retrain.storage.leases import LeaseManager
from tasks.gate_rules import FROZEN, NEW
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


def stored_versions(resources, *, trained_on=()):
    """v1.1.0, of whose test images half are new since v1.0.0; recordings are of the cameras north and south in turn."""
    truth = pair()[0].truth

    def item(image, split, camera=None):
        return SimpleNamespace(image=image, split=split, source="human", metadata={"camera": camera})

    items = [
        item(image, "test", "north" if int(group.partition("-")[2]) % 2 else "south")
        for image, group in zip(truth.images, truth.groups, strict=True)
    ]
    items += [item(one, "train") for one in ("other", *trained_on)]
    versions = {"v1.0.0": SimpleNamespace(items=items[:30]), "v1.1.0": SimpleNamespace(items=items)}

    def get_version(name):
        if name not in versions:
            raise NotFound(f"Dataset version {name!r} not found.")
        return versions[name]

    resources.__dict__["datasets"] = SimpleNamespace(
        get_version=get_version, verify=lambda _: get_version("not stored")
    )
    return versions


def store_pair(resources, cycle_id):
    for who, one in zip(("champion", "challenger"), pair(), strict=True):
        file = resources.home / "cycles" / cycle_id / f"{who}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        one.save(file)


def compared(resamples=200):
    """What the evaluate stage records of the pair."""
    champion, challenger = pair()
    images = champion.truth.images
    slices = {FROZEN: images[:30], NEW: images[30:]}
    return {
        name: compare(champion.only(ids), challenger.only(ids), resamples=resamples).to_json()
        for name, ids in slices.items()
    }


@contextmanager
def opened_cycle(resources, *, version="v1.1.0", evaluated=None):
    """A running cycle before its gate, continued where there is one; `evaluated` is what its stage recorded."""
    with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(resources.state, "m", "manual", "c", lease)
        cycle.stage("plan", {}, lambda: {"champion": "0" * 64, "known_version": "v1.0.0"})
        cycle.stage("version", {}, lambda: {"name": version})
        if evaluated is not None:
            cycle.stage("evaluate", {}, lambda: evaluated)
        store_pair(resources, cycle.id)
        yield cycle


def evaluated_cycle(resources, *, trained_on=(), verdict="better", version="v1.1.0", evaluated=None):
    """It ended after a gate as cycles had before there were policies."""
    stored_versions(resources, trained_on=trained_on)
    with opened_cycle(resources, version=version, evaluated=evaluated) as cycle:
        if verdict is not None:
            cycle.stage("gate", {}, lambda: {"verdict": verdict, "margin": 0.03})
        cycle.finish("kept_champion", {})
    return cycle.id
