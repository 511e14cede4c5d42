import json

import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.object_changes import KINDS, ObjectCounts, Seen, object_changes
from retrain.evaluation.truth import LabelledImage
from tests.unit.evaluation.worlds import evaluation, random_world

BOX, FAR = [10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 140.0, 140.0]
RIGHT, NOTHING = Detections.of([BOX], [0], [0.9]), Detections.of(np.zeros((0, 4)), [], [])
OTHER_CLASS = Detections.of([BOX], [1], [0.8])
IMAGES = [LabelledImage("a", "cam", Annotations.of([BOX], [0]))]


def between(before, after, images=IMAGES, **kwargs):
    return object_changes(
        evaluation(before, images, **kwargs), evaluation(after, images, **kwargs), {"all": ["a"]}
    )


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (RIGHT, NOTHING, "newly_missed"),
        (NOTHING, RIGHT, "newly_found"),
        (RIGHT, OTHER_CLASS, "class_lost"),
        (OTHER_CLASS, RIGHT, "class_corrected"),
        # Too weak to be served, or too far off, is not found.
        (RIGHT, Detections.of([BOX], [0], [0.2]), "newly_missed"),
        (RIGHT, Detections.of([FAR], [1], [0.9]), "newly_missed"),
    ],
)
def test_an_object_that_is_seen_differently_is_told_once_with_what_saw_it(before, after, kind):
    found = between([before], [after])

    (change,) = found.changes
    assert (change.kind, change.image_id, change.class_name) == (kind, "a", "class 0")
    assert list(change.box) == BOX
    expected = ObjectCounts(1, **{each: int(each == kind) for each in KINDS})
    assert found.overall == found.classes["class 0"] == found.slices["all"] == expected
    assert found.classes["class 1"].n_objects == 0
    if kind.startswith("class"):
        other = change.challenger if kind == "class_lost" else change.champion
        assert other == Seen("class 1", 0.8, tuple(BOX))


@pytest.mark.parametrize(("before", "after"), [(RIGHT, RIGHT), (NOTHING, OTHER_CLASS), (NOTHING, NOTHING)])
def test_what_neither_or_both_find_is_no_change(before, after):
    assert between([before], [after]).changes == ()


def test_the_surest_of_several_wrong_classes_is_told():
    wrong = Detections.of([BOX, BOX, BOX], [1, 2, 1], [0.5, 0.7, 0.4])

    assert between([RIGHT], [wrong]).changes[0].challenger.class_name == "class 2"


def test_a_detection_that_found_its_own_object_is_not_taken_for_a_wrong_class():
    images = [LabelledImage("a", "cam", Annotations.of([BOX, BOX], [0, 1]))]
    both = Detections.of([BOX, BOX], [0, 1], [0.9, 0.8])

    (change,) = between([both], [OTHER_CLASS], images).changes

    assert (change.kind, change.class_name, change.challenger) == ("newly_missed", "class 0", None)


def test_crowds_do_not_count():
    images = [LabelledImage("a", "cam", Annotations.of([BOX], [0]), [True])]

    found = between([RIGHT], [NOTHING], images)

    assert found.changes == ()
    assert found.overall.n_objects == 0


def test_counts_add_up_over_classes_and_to_the_change_of_recall():
    found, truth = random_world(0, images=80)
    champion = evaluation(found, truth)
    rng = np.random.default_rng(1)
    moved = [Detections.of(each.boxes, each.classes, rng.random(len(each.classes))) for each in found]
    challenger = evaluation(moved, truth)

    changes = object_changes(champion, challenger)
    total = changes.overall

    gained = total.newly_found + total.class_corrected - total.newly_missed - total.class_lost
    recall = challenger.summary.recall - champion.summary.recall
    assert gained == pytest.approx(recall * total.n_objects)
    assert len(changes.changes) == sum(getattr(total, kind) for kind in KINDS) > 20
    for kind in KINDS:
        assert sum(getattr(each, kind) for each in changes.classes.values()) == getattr(total, kind)
    missed = [each.champion.score for each in changes.changes if each.kind == "newly_missed"]
    assert missed == sorted(missed, reverse=True)
    assert json.loads(json.dumps(changes.to_json()))["overall"]["n_objects"] == total.n_objects


def test_other_images_are_refused():
    found, truth = random_world(0)
    one = evaluation(found, truth)
    with pytest.raises(BadInput, match="same frozen set"):
        object_changes(one, one.only(one.truth.images[:3]))
