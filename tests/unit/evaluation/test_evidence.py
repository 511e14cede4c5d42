from dataclasses import replace

import numpy as np
import pytest

from retrain.evaluation.evidence import TrainingImages, gather
from retrain.evaluation.gate import decide
from retrain.evaluation.policy import GatePolicy
from retrain.evaluation.protocol import EvaluationProtocol
from tests.unit.evaluation.worlds import evaluation, random_world

SLICED = GatePolicy.of(
    {
        "must_improve": [{"metric": "map50", "slice": "drifted"}],
        "max_loss": {"per_slice": {"test": {"map50": 0.03}}},
    }
)


def pair(images=60):
    found, truth = random_world(3, images=images)
    return evaluation(found, truth), evaluation(list(found), truth)


NOT_WORSE = GatePolicy.of({"max_loss": {"overall": {"map50": 0.03}}, "resamples": 200})


def test_two_evaluations_are_judged_whole_and_by_slice():
    champion, challenger = pair()
    slices = {"test": champion.truth.images[:30], "drifted": champion.truth.images[30:], "empty": ()}

    whole = gather(champion, challenger, NOT_WORSE, {}, training=None)
    sliced = gather(champion, challenger, SLICED, slices, training=TrainingImages(["other"]))

    assert decide(whole, NOT_WORSE).passed
    assert set(sliced.slices) == {"test", "drifted"}
    # The same model again is not better, and nothing but slices was asked for.
    assert decide(sliced, SLICED).verdict == "inconclusive"
    assert sliced.metrics == {}


@pytest.mark.parametrize(
    ("change", "training", "said"),
    [
        ({"protocol": EvaluationProtocol(nms_iou=0.5)}, None, "nms_iou differ"),
        ({"images": 30}, None, "evaluate both on the same frozen set"),
        ({}, TrainingImages(["0003", "x"]), "1 of 60 test images were trained on, first '0003'"),
        (
            {},
            TrainingImages(["x", "y"], {"x": "a", "0007": "a", "0008": "b"}),
            "1 of 60 test images are near-duplicates of training images, first '0007'",
        ),
    ],
)
def test_what_cannot_be_compared_is_invalid_with_the_reason(change, training, said):
    champion, challenger = pair()
    if "images" in change:
        challenger = challenger.only(challenger.truth.images[: change["images"]])
    challenger = replace(challenger, protocol=change.get("protocol", challenger.protocol))

    evidence = gather(champion, challenger, NOT_WORSE, {}, training=training)
    decision = decide(evidence, NOT_WORSE)

    assert decision.verdict == "invalid"
    assert said in decision.reasons[0]


def test_near_duplicates_among_test_images_alone_are_no_overlap():
    assert TrainingImages(["x"], {"0001": "a", "0002": "a"}).overlap(["0001", "0002"]) is None


def test_a_policy_of_classes_alone_passes_nothing_when_every_class_is_too_rare():
    champion, _ = pair()
    nothing = replace(champion, predictions=champion.predictions.only(np.zeros(0, dtype=np.int64)))
    policy = GatePolicy.of({"max_loss": {"per_class": {"margin": 0.05, "min_objects": 10_000}}})

    decision = decide(gather(champion, nothing, policy, {}, training=None), policy)

    assert decision.verdict == "invalid"
    assert "none has 10000 objects" in decision.reasons[-1]
