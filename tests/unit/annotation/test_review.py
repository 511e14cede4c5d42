from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest

from retrain.annotation.pipeline import AutoLabeler
from retrain.annotation.review import DECLINED, NO_REVIEWER, AnnotationStore, annotate_batch
from retrain.boxes import Annotations, Detections
from retrain.errors import LeaseLost
from retrain.storage.state import open_state

TRUE = Annotations.of([[0, 0, 4, 4]], [3])


@dataclass(frozen=True)
class Sample:
    id: str
    camera: str = "cam"
    recording: str = "cam/1"
    metadata: dict = field(default_factory=dict)


@dataclass
class Person:
    """Answers `TRUE`, or nothing for the samples it declines; remembers what it was shown."""

    declines: frozenset = frozenset()
    shown: list = field(default_factory=list)
    name: str = "ann"

    def review(self, sample, image, proposal):
        self.shown.append((sample.id, len(proposal)))
        return None if sample.id in self.declines else TRUE


@pytest.fixture
def store(tmp_path):
    state = open_state(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield AnnotationStore(state)
    state.close()


def batch(**scores):
    """Samples by name; the image carries the score of the one box that `labeler` finds in it (0: none)."""
    return [
        (Sample(name), np.full((4, 4, 3), round(score * 100), np.uint8)) for name, score in scores.items()
    ]


@pytest.fixture
def labeler():
    def predict(images):
        return [Detections.of([[0, 0, 2, 2]], [1], [image.max() / 100]) for image in images]

    return AutoLabeler(predict)


def annotate(store, labeler, items, **options):
    ticks = count(10)
    defaults = {"annotator": "release-1", "clock": lambda: float(next(ticks))}
    return annotate_batch("c1", items, labeler, store, **(defaults | options))


def test_the_model_labels_what_it_is_sure_of_and_a_person_the_rest(store, labeler):
    person = Person()

    report = annotate(store, labeler, batch(sure=0.9, unsure=0.5, blind=0.0), reviewer=person)

    kept = store.load("c1")
    assert (report.auto, report.human, report.left_out) == (("sure",), ("unsure", "blind"), {})
    assert (kept["sure"].source, kept["sure"].annotator) == ("auto", "release-1")
    assert kept["sure"].annotations.classes.tolist() == [1]
    assert (kept["unsure"].source, kept["unsure"].annotator) == ("human", "ann")
    assert kept["unsure"].annotations.to_json() == TRUE.to_json()
    assert person.shown == [("unsure", 1), ("blind", 0)]


def test_without_a_reviewer_unsure_frames_are_left_out_and_reported(store, labeler):
    report = annotate(store, labeler, batch(sure=0.9, unsure=0.5, blind=0.0))

    assert report.left_out == {"unsure": NO_REVIEWER, "blind": NO_REVIEWER}
    assert list(store.load("c1")) == ["sure"]


def test_a_declined_frame_is_left_out(store, labeler):
    report = annotate(store, labeler, batch(a=0.5, b=0.5), reviewer=Person(declines=frozenset("a")))

    assert (report.human, report.left_out) == (("b",), {"a": DECLINED})


def test_with_auto_labels_off_everything_goes_to_the_person(store, labeler):
    report = annotate(store, labeler, batch(sure=0.9), reviewer=Person(), auto_accept=False)

    assert (report.auto, report.human) == ((), ("sure",))


def test_a_batch_done_again_asks_nobody_again(store, labeler):
    items = batch(sure=0.9, unsure=0.5)
    first = annotate(store, labeler, items[1:], reviewer=Person())
    kept = store.load("c1")["unsure"]
    person = Person()

    again = annotate(store, labeler, items, reviewer=person)

    assert first.human == again.human == ("unsure",)
    assert again.auto == ("sure",)
    assert person.shown == []
    assert store.load("c1")["unsure"].made_at == kept.made_at


def test_the_first_annotation_of_a_sample_in_a_cycle_stays(store):
    save = {"source": "human", "annotator": "ann", "now": 1.0}

    assert store.save("c1", "a", TRUE, **save)
    assert not store.save("c1", "a", Annotations.empty(), **save)
    assert store.save("c2", "a", Annotations.empty(), **save)

    assert len(store.load("c1")["a"].annotations) == 1
    assert len(store.load("c2")["a"].annotations) == 0


def test_a_cycle_that_lost_its_lease_stores_nothing(store, labeler):
    def lost(connection):
        raise LeaseLost("token 1 is no longer the newest")

    with pytest.raises(LeaseLost):
        annotate(store, labeler, batch(sure=0.9), guard=lost)
    assert store.load("c1") == {}
