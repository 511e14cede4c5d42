import json

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.confusion import confusion_matrix
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.ranked import ranked_by_class
from retrain.evaluation.sizes import may_be_sizes, own_sizes
from retrain.evaluation.tide import Tide
from retrain.evaluation.truth import LabelledImage, Truth
from tests.unit.evaluation.worlds import by_pycocotools, evaluation, random_world

# The detection is the left half of the object; told by corners alone it is a bit less.
X, Y, WIDTH, HALF, HEIGHT = 6.1, 0.1, 10.0, 5.0, 0.2
OBJECT, FOUND = [X, Y, X + WIDTH, Y + HEIGHT], [X, Y, X + HALF, Y + HEIGHT]


def half_found(stated=True, images=3):
    """An image for each copy of the object, in which its half was found."""
    labelled = [
        LabelledImage(
            f"{row}", f"{row}", Annotations.of([OBJECT], [0]), sizes=[[WIDTH, HEIGHT]] if stated else None
        )
        for row in range(images)
    ]
    truth = Truth.of(labelled, ["a"])
    boxes = np.array([FOUND] * images)
    rows, zeros, scores = np.arange(images), np.zeros(images, dtype=np.int64), np.full(images, 0.5)
    sizes = np.array([[HALF, HEIGHT]] * images) if stated else own_sizes(boxes)
    found = Predictions.of_columns(truth, rows, zeros, boxes, scores, sizes)
    return Evaluation(truth, found, EvaluationProtocol(), 0.25)


def digest_by_corners(truth):
    """As it was before sizes could be stated."""
    digest = blake3("\0".join((*truth.images, "", *truth.groups, "", *truth.classes)).encode())
    for column in (truth.image, truth.label, truth.boxes, truth.crowd, truth.area):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("stated", [True, False])
def test_an_overlap_that_meets_its_threshold_by_the_stated_sizes_is_a_hit(stated):
    one = half_found(stated)

    stats, per_class = by_pycocotools(one)
    assert one.summary.map50 == pytest.approx(stats[1], abs=1e-9) == pytest.approx(float(stated), abs=1e-9)
    assert one.matches.hits[:, 0].tolist() == [stated] * 3
    assert one.summary.map50_95 == pytest.approx(np.mean(per_class), abs=1e-9)


def test_confusion_curves_and_types_of_error_use_the_stated_sizes():
    one = half_found()

    assert confusion_matrix(one).counts.tolist() == [[3, 0], [0, 0]]
    assert ranked_by_class(one)[0].iou.min() >= 0.5
    assert Tide(one).errors.counts["localisation"] == 0


def test_objects_in_crowds_do_not_shift_the_sizes_of_others():
    crowd = LabelledImage("0", "0", Annotations.of([[0, 0, 90, 90]], [0]), [True])
    images = [crowd, LabelledImage("1", "1", Annotations.of([OBJECT], [0]))]

    one = evaluation([Detections.empty(), Detections.of([OBJECT], [0], [0.9])], images, 1)

    assert confusion_matrix(one).counts.tolist() == [[1, 0], [0, 0]]


def test_a_slice_keeps_the_stated_sizes():
    part = half_found().only(["1"])

    assert part.truth.sizes.tolist() == [[WIDTH, HEIGHT]]
    assert part.predictions.sizes.tolist() == [[HALF, HEIGHT]]
    assert part.summary.map50 == pytest.approx(1.0)


def test_areas_are_those_of_the_stated_sizes():
    assert half_found().truth.area.tolist() == [WIDTH * HEIGHT] * 3
    assert half_found(stated=False).truth.area.tolist() != [WIDTH * HEIGHT] * 3


def test_stated_sizes_are_stored_and_come_back_equal(tmp_path):
    one = half_found()

    one.save(tmp_path / "one.json")
    again = Evaluation.load(tmp_path / "one.json")

    for side, same in ((one.truth, again.truth), (one.predictions, again.predictions)):
        assert np.array_equal(side.sizes, same.sizes)
    assert again.summary.map50 == one.summary.map50
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_sizes_that_are_those_of_the_corners_are_not_stored_and_need_not_be(tmp_path):
    one = half_found(stated=False)

    one.save(tmp_path / "one.json")

    stored = json.loads((tmp_path / "one.json").read_text())
    assert stored["format"] == 2
    assert "sizes" not in stored["truth"].keys() | stored["predictions"].keys()
    again = Evaluation.load(tmp_path / "one.json")
    assert np.array_equal(again.truth.sizes, own_sizes(one.truth.boxes))
    assert np.array_equal(again.predictions.sizes, own_sizes(one.predictions.boxes))


def test_the_digest_is_what_it_was_unless_other_sizes_are_stated():
    _, images = random_world(4, crowds=0.2)
    plain = Truth.of(images, ["a", "b", "c"])
    said = [
        LabelledImage(
            each.image_id, each.group, each.objects, each.crowd, sizes=own_sizes(each.objects.boxes).tolist()
        )
        for each in images
    ]

    assert plain.digest == digest_by_corners(plain)
    assert Truth.of(said, ["a", "b", "c"]).digest == plain.digest
    other = half_found().truth
    assert other.digest != digest_by_corners(other)
    # Sizes of a slice are hashed where that slice has any.
    assert other.only(np.array([1])).digest != digest_by_corners(other.only(np.array([1])))


def test_changed_sizes_in_a_stored_evaluation_are_noticed(tmp_path):
    half_found().save(tmp_path / "one.json")
    stored = json.loads((tmp_path / "one.json").read_text())
    del stored["truth"]["sizes"]
    (tmp_path / "one.json").write_text(json.dumps(stored))

    with pytest.raises(BadInput, match="its images or objects were changed"):
        Evaluation.load(tmp_path / "one.json")


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_equal_boxes_with_other_sizes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    boxes = np.array([OBJECT] * 4)
    own = own_sizes(boxes)[0, 0]
    widths = np.array([WIDTH, own, np.nextafter(own, 0), np.nextafter(own, 20)])
    sizes = np.column_stack([widths, np.full(4, HEIGHT)])

    def shuffled(order):
        objects = Annotations.of(boxes, [0] * 4)
        truth = Truth.of([LabelledImage("a", "g", objects, sizes=sizes[order].tolist())], ["a"])
        zeros = np.zeros(4, dtype=np.int64)
        return truth, Predictions.of_columns(truth, zeros, zeros, boxes, np.full(4, 0.5), sizes[order])

    (truth, found), (again, found_again) = shuffled(np.arange(4)), shuffled(rng.permutation(4))

    assert truth.digest == again.digest
    assert truth.sizes.tolist() == again.sizes.tolist() == sorted(sizes.tolist())
    assert found.to_json() == found_again.to_json()
    found.check(truth)


number = st.floats(-1e7, 1e7)


@given(x=number, y=number, width=st.floats(0, 1e5), height=st.floats(0, 1e5))
def test_every_size_that_a_corner_is_made_of_is_possible(x, y, width, height):
    boxes, sizes = np.array([[x, y, x + width, y + height]]), np.array([[width, height]])

    assert may_be_sizes(boxes, sizes).all()
    step = 8 * np.spacing(np.abs([x, y, width, height]).max())
    assert not may_be_sizes(boxes, sizes + np.array([step, 0])).any()
    assert not may_be_sizes(boxes, sizes - np.array([0, step])).any()


IMPOSSIBLE = [
    [WIDTH + 1e-9, HEIGHT],
    [WIDTH, HEIGHT - 1e-9],
    [-WIDTH, HEIGHT],
    [float("nan"), HEIGHT],
    [float("inf"), HEIGHT],
]


@pytest.mark.parametrize("size", IMPOSSIBLE)
def test_sizes_that_cannot_be_those_of_the_boxes_are_refused(size, tmp_path):
    objects = Annotations.of([OBJECT], [0])
    with pytest.raises(BadInput, match=r"Image 'a' has an object of the size .* not that of its box"):
        Truth.of([LabelledImage("a", "g", objects, sizes=[size])], ["a"])
    truth, row = Truth.of([LabelledImage("a", "g", objects)], ["a"]), np.zeros(1, dtype=np.int64)
    with pytest.raises(BadInput, match=r"A detection has the size .* not that of its box"):
        Predictions.of_columns(truth, row, row, np.array([OBJECT]), np.ones(1), np.array([size]))
    half_found().save(tmp_path / "one.json")
    stored = json.loads((tmp_path / "one.json").read_text())
    stored["predictions"]["sizes"][1] = size
    (tmp_path / "one.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=r"is not a stored evaluation .*a detection has the size"):
        Evaluation.load(tmp_path / "one.json")


@pytest.mark.parametrize("box", [[0, 0, np.inf, 1], [-np.inf, 0, np.inf, 1], [0, 0, np.nan, 1]])
def test_a_box_without_end_has_no_size(box):
    assert not may_be_sizes(np.array([box], dtype=float), np.array([[5.0, 1.0]])).any()


def test_a_negative_size_too_small_to_turn_the_box_is_refused():
    zero = np.zeros((1, 4))

    assert may_be_sizes(zero + 5, np.array([[0.0, 0.0]])).all()
    assert not may_be_sizes(zero + 5, np.array([[-1e-20, 0.0]])).any()


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([[WIDTH, HEIGHT]] * 2, "1 objects, but 2 values of sizes"),
        ([[WIDTH]], r"needs values of sizes in the shape \(1, 2\)"),
        ([[WIDTH, HEIGHT, 1.0]], r"needs values of sizes in the shape \(1, 2\)"),
        ([WIDTH], r"needs values of sizes in the shape \(1, 2\)"),
    ],
)
def test_sizes_of_another_shape_are_refused(sizes, said):
    with pytest.raises(BadInput, match=f"Image 'a' .*{said}"):
        Truth.of([LabelledImage("a", "g", Annotations.of([OBJECT], [0]), sizes=sizes)], ["a"])


def test_stored_sizes_that_were_cut_are_refused(tmp_path):
    half_found().save(tmp_path / "one.json")
    stored = json.loads((tmp_path / "one.json").read_text())
    del stored["predictions"]["sizes"][0]
    (tmp_path / "one.json").write_text(json.dumps(stored))

    with pytest.raises(BadInput, match="unequal length"):
        Evaluation.load(tmp_path / "one.json")


def test_only_some_images_need_to_state_sizes():
    plain = Annotations.of([[0, 0, 3, 4], FOUND], [0, 0])
    images = [
        LabelledImage("a", "g", plain),
        LabelledImage("b", "g", Annotations.empty(), sizes=[]),
        LabelledImage("c", "g", Annotations.of([OBJECT], [0]), sizes=[(10, HEIGHT)]),
    ]

    sizes = Truth.of(images, ["a"]).sizes

    assert sizes.tolist() == [*own_sizes(plain.boxes).tolist(), [WIDTH, HEIGHT]]


def test_sizes_in_whole_numbers_are_stored_like_any_other(tmp_path):
    objects = Annotations.of([[X, X, X + WIDTH, X + WIDTH]], [0])
    truth = Truth.of([LabelledImage("a", "g", objects, sizes=[(10, 10)])], ["a"])

    assert Truth.from_json(json.loads(json.dumps(truth.to_json()))).digest == truth.digest
