import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.simulation.annotators import SimulatedAnnotator

SIZE = (160, 160)
PERFECT = {"miss_rate": 0.0, "jitter_px": 0.0, "confusion_rate": 0.0, "overlook_rate": 0.0}
TRUTH = Annotations.of(
    [[10.0 + 30 * i, 10.0 + 30 * j, 30.0 + 30 * i, 35.0 + 30 * j] for i in range(5) for j in range(4)],
    [(i + j) % 10 for i in range(5) for j in range(4)],
)
SAMPLES = [f"sample-{i}" for i in range(150)]


def proposal(classes=None, shift=0.0):
    labels = TRUTH.classes if classes is None else classes
    return Detections.of(TRUTH.boxes + shift, labels, np.linspace(0.9, 0.3, len(TRUTH)))


def test_a_perfect_person_gives_the_truth_whatever_was_proposed():
    person = SimulatedAnnotator("ann", **PERFECT)
    for shown in (None, Detections.empty(), proposal((TRUTH.classes + 1) % 10), proposal(shift=18.0)):
        answer = person.review("s", TRUTH, shown, SIZE)

        assert np.array_equal(answer.boxes, TRUTH.boxes)
        assert np.array_equal(answer.classes, TRUTH.classes)


def test_the_same_person_answers_the_same_and_another_does_not():
    first = SimulatedAnnotator("ann", seed=1).review("s", TRUTH, None, SIZE)
    again = SimulatedAnnotator("ann", seed=1).review("s", TRUTH, None, SIZE)

    assert np.array_equal(first.boxes, again.boxes)
    for other in (SimulatedAnnotator("bob", seed=1), SimulatedAnnotator("ann", seed=2)):
        assert not np.array_equal(first.boxes, other.review("s", TRUTH, None, SIZE).boxes)
    assert not np.array_equal(
        first.boxes, SimulatedAnnotator("ann", seed=1).review("t", TRUTH, None, SIZE).boxes
    )


def test_objects_are_missed_at_the_stated_rate():
    person = SimulatedAnnotator("ann", **{**PERFECT, "miss_rate": 0.1})
    drawn = sum(len(person.review(s, TRUTH, None, SIZE)) for s in SAMPLES)

    # 3000 objects: one standard deviation is 0.0055.
    assert 1 - drawn / (len(SAMPLES) * len(TRUTH)) == pytest.approx(0.1, abs=0.022)


def test_classes_are_confused_at_the_stated_rate():
    person = SimulatedAnnotator("ann", **{**PERFECT, "confusion_rate": 0.1})
    wrong = np.concatenate([person.review(s, TRUTH, None, SIZE).classes != TRUTH.classes for s in SAMPLES])

    assert wrong.mean() == pytest.approx(0.1, abs=0.022)


def test_boxes_are_off_by_the_stated_pixels_and_stay_inside():
    person = SimulatedAnnotator("ann", **{**PERFECT, "jitter_px": 1.5})
    answers = np.array([person.review(s, TRUTH, None, SIZE).boxes for s in SAMPLES])
    error = answers - TRUTH.boxes

    inner = error[:, (TRUTH.boxes.max(axis=1) < 150)]
    assert inner.std() == pytest.approx(1.5, abs=0.05)
    assert abs(inner.mean()) < 0.08
    assert answers.min() >= 0
    assert answers.max() <= 160
    assert (answers[..., 2:] > answers[..., :2]).all()


def test_a_box_at_the_border_is_still_a_box():
    sliver = Annotations.of([[158.5, 0, 160, 1.5]], [1])
    person = SimulatedAnnotator("ann", **{**PERFECT, "jitter_px": 5.0})
    for sample in SAMPLES:
        ((x1, y1, x2, y2),) = person.review(sample, sliver, None, SIZE).boxes

        assert 0 <= x1 < x2 <= 160
        assert 0 <= y1 < y2 <= 160


def test_a_good_proposal_is_kept_as_it_is_and_its_object_never_missed():
    person = SimulatedAnnotator("ann", miss_rate=0.9, jitter_px=3.0, overlook_rate=0.0)

    answer = person.review("s", TRUTH, proposal(shift=1.0), SIZE)

    assert np.array_equal(answer.boxes, TRUTH.boxes + 1.0)
    assert np.array_equal(answer.classes, TRUTH.classes)


def test_wrong_proposals_are_overlooked_at_the_stated_rate():
    person = SimulatedAnnotator("ann", **{**PERFECT, "overlook_rate": 0.2})
    shown = proposal((TRUTH.classes + 1) % 10)
    wrong = np.concatenate([person.review(s, TRUTH, shown, SIZE).classes != TRUTH.classes for s in SAMPLES])

    assert wrong.mean() == pytest.approx(0.2, abs=0.03)

    alone = Annotations.of([[10, 10, 30, 40]], [3])
    ghosts = Detections.of([[100, 100, 120, 130], [11, 11, 22, 24]], [4, 3], [0.5, 0.4])
    answers = [person.review(s, alone, ghosts, SIZE) for s in SAMPLES]
    counts = [len(person.review(f"{s}-{k}", alone, ghosts, SIZE)) for s in SAMPLES for k in range(4)]

    assert all(a.boxes[0].tolist() == [10, 10, 30, 40] for a in answers)
    assert np.mean(counts) - 1 == pytest.approx(0.2, abs=0.05)


def test_impossible_rates_are_refused():
    with pytest.raises(BadInput, match="miss_rate"):
        SimulatedAnnotator("ann", miss_rate=1.5)
    with pytest.raises(BadInput, match="jitter_px"):
        SimulatedAnnotator("ann", jitter_px=-1)
