import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from retrain.boxes import Annotations, Detections, iou_matrix
from retrain.dataset.quality.label_error_scores import class_thresholds, image_scores, similarity, softmin
from retrain.dataset.quality.label_errors import rank_label_errors
from retrain.dataset.version import DatasetItem, LabelledObject
from retrain.errors import BadInput

SIZE = 640
DIAGONAL = math.hypot(SIZE, SIZE)
CLASSES = 4
KINDS = ("swap", "badly-placed", "overlooked")
HALF = np.full(CLASSES, 0.5)


def image(number, labels):
    """`labels`: (id, class, box)."""
    return DatasetItem(
        image=f"{number:064x}",
        pack="ab" * 32,
        format="png",
        width=SIZE,
        height=SIZE,
        objects=tuple(LabelledObject(id_, int(c), tuple(map(float, box))) for id_, c, box in labels),
        split="train",
        group="g",
        source="human",
    )


def scattered_boxes(rng, count):
    """Boxes of 40 to 120 px, each touching earlier ones by an IoU of 0.3 at most."""
    boxes = np.zeros((0, 4))
    while len(boxes) < count:
        corner, sides = rng.uniform(0, SIZE - 120, 2), rng.uniform(40, 120, 2)
        box = np.concatenate([corner, corner + sides])[None]
        if iou_matrix(box, boxes).max(initial=0) <= 0.3:
            boxes = np.concatenate([boxes, box])
    return boxes


def shaken(rng, boxes, share):
    """Every edge moved by a normal share of the side."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.clip(boxes + rng.normal(0, share, boxes.shape) * sides, 0, SIZE)


def modelled(rng, boxes, classes):
    """What a decent model says: 8 % missed, 6 % of another class, edges 5 % off, and some false alarms."""
    seen = rng.random(len(boxes)) > 0.08
    boxes, classes = shaken(rng, boxes[seen], 0.05), classes[seen].copy()
    confused = rng.random(len(boxes)) < 0.06
    classes[confused] = (classes[confused] + rng.integers(1, CLASSES, confused.sum())) % CLASSES
    scores = np.where(confused, rng.beta(3, 3, len(boxes)), rng.beta(8, 2, len(boxes)))
    alarms = scattered_boxes(rng, rng.poisson(0.7))
    return Detections.of(
        np.concatenate([np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4), alarms]),
        np.concatenate([classes, rng.integers(0, CLASSES, len(alarms))]),
        np.concatenate([scores, rng.beta(2, 5, len(alarms))]),
    )


class Planted:
    """Images labelled with known mistakes: 4 % of the objects for each kind, and a model that knows better."""

    def __init__(self, seed, images=150):
        rng = np.random.default_rng(seed)
        self.items, self.predictions = [], {}
        self.wrong = {kind: set() for kind in KINDS}
        self.hidden = {}
        for number in range(images):
            boxes, classes = scattered_boxes(rng, 8), rng.integers(0, CLASSES, 8)
            labels = self._labels(rng, number, boxes, classes)
            self.items.append(image(number, labels))
            self.predictions[self.items[-1].image] = modelled(rng, boxes, classes)

    def _labels(self, rng, number, boxes, classes):
        labels, drawn = [], shaken(rng, boxes, 0.02)
        for place in range(len(boxes)):
            name, index = f"{number}-{place}", classes[place]
            fate = rng.random()
            if fate < 0.04:
                self.hidden.setdefault(f"{number:064x}", []).append(boxes[place])
                continue
            if fate < 0.08:
                self.wrong["swap"].add(name)
                index = (index + rng.integers(1, CLASSES)) % CLASSES
            elif fate < 0.12:
                self.wrong["badly-placed"].add(name)
                move = (boxes[place, 2:] - boxes[place, :2]) * rng.choice([-0.35, 0.35], 2)
                drawn[place] = np.clip(drawn[place] + np.tile(move, 2), 0, SIZE)
            labels.append((name, index, drawn[place]))
        return labels

    def is_hidden(self, suspect):
        boxes = np.array(self.hidden.get(suspect.image, np.zeros((0, 4))))
        return iou_matrix(np.array([suspect.box]), boxes).max(initial=0) >= 0.5

    def truth(self, ranking, kind):
        """(is it a planted error, suspicion) of all that could be named."""
        if kind == "overlooked":
            suspects = ranking.of_kind(kind)
            found = [self.is_hidden(s) for s in suspects]
            never = sum(map(len, self.hidden.values())) - sum(found)
            return [*found, *[True] * never], [*(1 - s.score for s in suspects), *[0.0] * never]
        suspicion = {s.object: 1 - s.score for s in ranking.of_kind(kind)}
        names = [o.id for item in self.items for o in item.objects]
        return [name in self.wrong[kind] for name in names], [suspicion.get(name, 0.0) for name in names]

    def rank(self):
        return rank_label_errors(self.items, self.predictions, CLASSES)


@pytest.fixture(scope="module")
def planted():
    return Planted(seed=5)


@pytest.fixture(scope="module")
def ranking(planted):
    return planted.rank()


@pytest.mark.parametrize("kind", KINDS)
def test_planted_errors_are_ranked_far_above_chance(planted, ranking, kind):
    wrong, suspicion = planted.truth(ranking, kind)
    chance = np.mean(wrong)
    shuffled = np.random.default_rng(0).permutation(suspicion)
    # Over eight other seeds the least was 0.69; some planted errors meet a model that missed the object.
    least = 0.65

    precision = average_precision_score(wrong, suspicion)

    assert sum(wrong) >= 20
    assert precision >= least > 5 * chance
    assert average_precision_score(wrong, shuffled) < 2 * chance


@pytest.mark.parametrize("kind", KINDS)
def test_three_quarters_of_the_worst_twenty_are_planted(planted, ranking, kind):
    worst = ranking.worst(20, kind)

    hits = [planted.is_hidden(s) if kind == "overlooked" else s.object in planted.wrong[kind] for s in worst]
    assert sum(hits) >= 15


def test_images_with_planted_errors_come_before_clean_ones(planted, ranking):
    wrong = {name.split("-")[0] for kind in ("swap", "badly-placed") for name in planted.wrong[kind]}
    is_bad = [str(int(s.image, 16)) in wrong or s.image in planted.hidden for s in ranking.images]
    suspicion = [1 - s.score for s in ranking.images]

    precision = average_precision_score(is_bad, suspicion)

    assert 0.4 < np.mean(is_bad) < 0.8
    assert precision > 0.9


def test_a_swap_names_the_class_that_the_model_sees_and_the_joint_counts_them(planted, ranking):
    joint = ranking.confident_joint

    assert joint.shape == (CLASSES, CLASSES)
    assert np.trace(joint) > 0.8 * joint.sum()
    # The model misses some, is unsure of some, and errs itself in others.
    assert 0.3 * len(planted.wrong["swap"]) <= ranking.expected_swaps <= 2 * len(planted.wrong["swap"])


def test_labels_that_the_model_repeats_exactly_have_no_suspects():
    boxes, classes = scattered_boxes(np.random.default_rng(0), 6), [0, 1, 2, 3, 0, 1]
    item = image(1, [(str(i), c, b) for i, (b, c) in enumerate(zip(boxes, classes, strict=True))])

    ranking = rank_label_errors([item], {item.image: Detections.of(boxes, classes, [0.9] * 6)}, CLASSES)

    assert ranking.suspects == ()
    assert ranking.images[0].score == 1
    assert ranking.expected_swaps == 0


def test_the_joint_has_given_classes_as_rows_and_believed_ones_as_columns():
    labels = [("a", 0, BOX), ("b", 2, FAR)]
    predicted = Detections.of([BOX, FAR], [1, 2], [0.9, 0.8])

    ranking = rank_label_errors([image(1, labels)], {f"{1:064x}": predicted}, CLASSES)

    assert ranking.confident_joint[0].tolist() == [0, 1, 0, 0]
    assert ranking.confident_joint[2].tolist() == [0, 0, 1, 0]
    assert ranking.expected_swaps == 1


BOX = (100.0, 100.0, 200.0, 200.0)
FAR = (400.0, 400.0, 500.0, 500.0)


def one(labels, predicted):
    """Scores of one image with thresholds of 0.5; `labels`: (class, box), `predicted`: (class, box, score)."""
    annotations = Annotations.of([b for _, b in labels], [c for c, _ in labels])
    detections = Detections.of(
        [b for _, b, _ in predicted], [c for c, _, _ in predicted], [s for *_, s in predicted]
    )
    return image_scores(annotations, detections, HALF, DIAGONAL)


def moved(pixels):
    return (BOX[0] + pixels, BOX[1], BOX[2] + pixels, BOX[3])


def test_each_kind_of_error_is_scored_as_that_kind_alone():
    wrong_class = one([(0, BOX)], [(1, BOX, 0.9)])
    misplaced = one([(0, moved(40))], [(0, BOX, 0.9)])
    missed = one([(0, FAR)], [(0, FAR, 0.9), (1, BOX, 0.9)])

    assert (wrong_class.swap[0], wrong_class.badly_placed[0], wrong_class.overlooked[0]) == pytest.approx(
        (0.1, 1, 1)
    )
    assert misplaced.swap[0] == 1
    assert misplaced.badly_placed[0] == pytest.approx(0.9 * 60 / 140 + 0.1 * (1 - 40 / DIAGONAL))
    assert (missed.swap[0], missed.badly_placed[0], missed.overlooked[0]) == pytest.approx((1, 1, 1))
    assert missed.overlooked[1] < 0.2


@pytest.mark.parametrize("labels", [[], [(0, FAR)]])
def test_an_object_without_a_label_is_scored_by_how_sure_the_model_is(labels):
    distance = 300 * math.sqrt(2) / DIAGONAL
    near = 0.1 * (1 - distance) if labels else 0.0

    scores = one(labels, [(0, BOX, 0.9)])

    assert scores.overlooked[0] == pytest.approx(1 - 0.9 * (1 - near))


def test_an_unsure_prediction_raises_no_swap_and_no_overlooked_object():
    scores = one([(0, BOX)], [(1, BOX, 0.24), (2, FAR, 0.24)])

    assert scores.swap.tolist() == [1.0]
    assert scores.overlooked.tolist() == [1.0, 1.0]


def test_a_label_is_spared_when_the_model_sees_its_class_there_too():
    scores = one([(0, BOX)], [(1, BOX, 0.8), (0, BOX, 0.7)])

    assert scores.swap[0] == pytest.approx(1 - (0.8 - 0.7))


def test_a_missed_neighbour_does_not_make_a_good_label_look_misplaced():
    neighbour = moved(50)

    scores = one([(0, BOX), (0, neighbour)], [(0, neighbour, 0.9)])

    assert scores.badly_placed.tolist() == [1.0, 1.0]


confidences = st.floats(0.25, 1.0)
shifts = st.floats(0, 60)


@given(confidences, confidences)
def test_the_surer_the_other_class_the_lower_the_swap_score(a, b):
    low, high = sorted((a, b))

    assert one([(0, BOX)], [(1, BOX, high)]).swap[0] <= one([(0, BOX)], [(1, BOX, low)]).swap[0]


@given(shifts, shifts)
def test_the_further_a_box_is_off_the_lower_its_score(a, b):
    near, far = sorted((a, b))
    near_score, far_score = (one([(0, moved(s))], [(0, BOX, 0.9)]).badly_placed[0] for s in (near, far))

    assert far_score <= near_score
    assert near_score == 1 or near > 0


@given(confidences, confidences, shifts, shifts)
def test_the_surer_and_lonelier_a_prediction_the_lower_its_overlooked_score(a, b, c, d):
    (low, high), (near, far) = sorted((a, b)), sorted((c, d))

    def score(confidence, shift):
        return one([(0, moved(shift))], [(0, BOX, confidence)]).overlooked[0]

    assert score(high, far) <= score(low, far)
    assert score(high, far) <= score(high, near)


boxes_strategy = st.lists(
    st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(0, 140), st.floats(0, 140)), max_size=6
).map(lambda rows: [(x, y, x + w, y + h) for x, y, w, h in rows])


@given(boxes_strategy, boxes_strategy, st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_scores_are_in_0_to_1_and_do_not_depend_on_the_order_of_labels(boxes, proposed, random):
    labels = [(random.randrange(CLASSES), box) for box in boxes]
    predicted = [(random.randrange(CLASSES), box, random.random()) for box in proposed]
    order = random.sample(range(len(labels)), len(labels))

    scores = one(labels, predicted)
    mixed = one([labels[i] for i in order], predicted)

    for values in (scores.swap, scores.badly_placed, scores.overlooked):
        assert np.all((values >= 0) & (values <= 1 + 1e-12))
    assert mixed.swap == pytest.approx(scores.swap[order])
    assert mixed.badly_placed == pytest.approx(scores.badly_placed[order])
    assert mixed.overlooked == pytest.approx(scores.overlooked)
    assert np.all((scores.swap_by >= 0) == (scores.swap < 1))
    assert np.all((scores.placed_by >= 0) == (scores.badly_placed < 1))


@given(boxes_strategy, boxes_strategy)
def test_similarity_is_symmetric_in_0_to_1_and_1_for_the_same_box(a, b):
    first, second = (Annotations.of(boxes, [0] * len(boxes)).boxes for boxes in (a, b))

    alike = similarity(iou_matrix(first, second), first, second, DIAGONAL)

    turned = similarity(iou_matrix(second, first), second, first, DIAGONAL)
    assert turned == pytest.approx(alike.T)
    assert np.all((alike >= 0) & (alike <= 1))
    own = np.diag(similarity(iou_matrix(first, first), first, first, DIAGONAL))
    has_area = np.prod(first[:, 2:] - first[:, :2], axis=1) > 1e-6
    assert own[has_area] == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_softmin_lies_between_the_least_and_the_mean(values):
    pooled = softmin(np.array(values))

    assert min(values) - 1e-9 <= pooled <= np.mean(values) + 1e-9


def test_a_threshold_is_the_mean_confidence_where_the_label_agrees():
    agree = (
        Annotations.of([BOX, FAR], [0, 0]),
        Detections.of([BOX, BOX, FAR, FAR], [0, 0, 0, 1], [0.6, 0.3, 0.8, 0.99]),
    )

    assert class_thresholds([agree], 2) == pytest.approx([0.7, 0.7])
    assert class_thresholds([(Annotations.empty(), Detections.empty())], 2).tolist() == [0.5, 0.5]


def test_a_modest_model_finds_as_much_as_a_loud_one(planted):
    quiet = {
        name: Detections(found.boxes, found.classes, 0.6 * found.scores)
        for name, found in planted.predictions.items()
    }

    ranking = rank_label_errors(planted.items, quiet, CLASSES)

    for kind in KINDS:
        assert average_precision_score(*planted.truth(ranking, kind)) > 0.65


def test_ranking_does_not_depend_on_the_order_of_images(planted, ranking):
    turned = dict(reversed(planted.predictions.items()))

    again = rank_label_errors(reversed(planted.items), turned, CLASSES)

    assert again.suspects == ranking.suspects
    assert again.images == ranking.images


def test_the_ranking_is_sorted_by_score_and_worst_takes_its_head(ranking):
    scores = [s.score for s in ranking.suspects]

    assert scores == sorted(scores)
    assert ranking.worst(7) == ranking.suspects[:7]
    assert {s.kind for s in ranking.worst(7, "overlooked")} == {"overlooked"}
    assert ranking.worst(0) == ()
    with pytest.raises(BadInput, match="got -1"):
        ranking.worst(-1)


def test_the_ranking_is_plain_json(ranking):
    data = json.loads(json.dumps(ranking.to_json()))

    assert len(data["suspects"]) == len(ranking.suspects)
    assert data["suspects"][0]["score"] == ranking.suspects[0].score


def test_an_image_without_predictions_is_not_judged_and_said_so():
    items = [image(number, [(str(number), 0, BOX)]) for number in (1, 3, 2)]

    ranking = rank_label_errors(items, {items[0].image: Detections.empty()}, CLASSES)

    assert ranking.without_predictions == (items[2].image, items[1].image)
    assert [s.image for s in ranking.images] == [items[0].image]
    assert rank_label_errors([], {}, CLASSES).suspects == ()


def test_predictions_that_cannot_belong_to_the_images_are_refused():
    items = [image(1, [("a", 0, BOX)])]
    seen = {items[0].image: Detections.of([BOX], [CLASSES], [0.5])}

    with pytest.raises(BadInput, match="for none of the 1 images"):
        rank_label_errors(items, {}, CLASSES)
    with pytest.raises(BadInput, match="1 unknown images, other among them"):
        rank_label_errors(items, {items[0].image: Detections.empty(), "other": Detections.empty()}, CLASSES)
    with pytest.raises(BadInput, match="must be 0 to 3, got 0 to 4"):
        rank_label_errors(items, seen, CLASSES)
