import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.frame import Frame, Seen, mirrored_back
from retrain.data_collection.strategies.miss_aware import (
    disagree,
    flip_disagreement,
    no_detections,
    shadow_disagreement,
)
from retrain.errors import ConfigError

WIDTH = 640
CAR, TRUCK = 0, 1
lows, sizes = st.integers(0, 500), st.integers(1, 140)
boxes = st.tuples(lows, lows, sizes, sizes).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
objects = st.lists(st.tuples(boxes, st.integers(0, 2), st.floats(0, 1)), max_size=6)


def seen(*found):
    return Seen(*map(list, zip(*found, strict=True))) if found else Seen([], [], [])


def frame(own, **other):
    return Frame(min(own.scores, default=None), *own, width=WIDTH, **other)


@given(confidence=st.none() | st.floats(0, 1), rate=st.floats(0, 1))
def test_no_detections_wants_its_share_of_frames_in_which_nothing_was_seen(confidence, rate):
    wish = no_detections(no_detections_rate=rate)(Frame(confidence))

    assert wish.probability == (rate if confidence is None else 0.0)


def test_a_frame_with_only_boxes_below_the_display_floor_is_one_in_which_nothing_was_seen():
    faint = Frame(None, [[0, 0, 9, 9]], [CAR], [0.1])

    assert no_detections()(faint) == (1.0, "the model saw nothing")
    assert no_detections()(Frame(0.4)) == (0.0, "the model saw something")


@pytest.mark.parametrize("rate", [-0.1, float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(ConfigError, match=rf"no_detections_rate must be in \[0, 1\], got {rate}"):
        no_detections(no_detections_rate=rate)


@given(found=objects)
def test_a_mirrored_prediction_that_agrees_is_not_wanted(found):
    own = seen(*found)
    in_mirror = mirrored_back(own.boxes, WIDTH)
    flipped = Seen(mirrored_back(in_mirror, WIDTH), own.classes, own.scores)

    wish = flip_disagreement()(frame(own, flipped=flipped))

    assert wish == (0.0, "the mirrored prediction agrees")


@given(found=objects, order=st.randoms(use_true_random=False))
def test_the_same_boxes_in_another_order_agree(found, order):
    shuffled = list(found)
    order.shuffle(shuffled)

    assert not disagree(seen(*found), seen(*shuffled))


@given(found=objects)
def test_a_prediction_disagrees_with_nothing_at_all_exactly_when_it_shows_a_box(found):
    shows = any(score >= 0.25 for _, _, score in found)

    assert disagree(seen(*found), seen()) == shows
    assert disagree(seen(), seen(*found)) == shows


HERE, NEARBY, ELSEWHERE = [100, 100, 200, 200], [110, 100, 210, 200], [400, 100, 500, 200]


@pytest.mark.parametrize(
    ("own", "other", "probability"),
    [
        pytest.param([(HERE, CAR, 0.9)], [(NEARBY, CAR, 0.5)], 0.0, id="moved a little"),
        pytest.param([(HERE, CAR, 0.9)], [(ELSEWHERE, CAR, 0.9)], 1.0, id="somewhere else"),
        pytest.param([(HERE, CAR, 0.9)], [(HERE, TRUCK, 0.9)], 1.0, id="another class"),
        pytest.param([(HERE, CAR, 0.9)], [], 1.0, id="only ours"),
        pytest.param([], [(HERE, CAR, 0.9)], 1.0, id="a miss of ours"),
        pytest.param([], [], 0.0, id="both see nothing"),
        pytest.param([(HERE, CAR, 0.26)], [(HERE, CAR, 0.24)], 0.0, id="wavers about the floor"),
        pytest.param([(HERE, CAR, 0.24)], [], 0.0, id="shown to nobody"),
        pytest.param([(HERE, CAR, 0.9), (NEARBY, CAR, 0.8)], [(HERE, CAR, 0.9)], 1.0, id="one for two"),
        pytest.param([([5, 5, 5, 90], CAR, 0.9)], [], 0.0, id="a box without area"),
    ],
)
@pytest.mark.parametrize("who", ["flipped", "shadow"])
def test_a_shown_box_that_the_other_prediction_has_not_is_wanted(who, own, other, probability):
    strategy = {"flipped": flip_disagreement, "shadow": shadow_disagreement}[who]()

    wish = strategy(frame(seen(*own), **{who: seen(*other)}))

    assert wish.probability == probability


def test_each_looks_at_its_own_other_prediction_and_says_when_there_is_none():
    own, nothing = seen((HERE, CAR, 0.9)), seen()

    assert flip_disagreement()(frame(own, shadow=nothing)) == (0.0, "no mirrored prediction given")
    assert shadow_disagreement()(frame(own, flipped=nothing)) == (0.0, "no shadow prediction given")
    assert flip_disagreement()(frame(own, flipped=nothing)) == (1.0, "the mirrored prediction disagrees")
    assert shadow_disagreement()(frame(own, shadow=nothing)) == (1.0, "the shadow model disagrees")


def test_how_much_must_overlap_and_what_is_shown_are_settings():
    moved = frame(seen((HERE, CAR, 0.4)), flipped=seen((NEARBY, CAR, 0.4)))

    assert flip_disagreement(match_iou=0.9)(moved).probability == 1.0
    assert flip_disagreement(match_iou=0.9, score_floor=0.5)(moved).probability == 0.0


@pytest.mark.parametrize("strategy", [flip_disagreement, shadow_disagreement])
def test_settings_that_cannot_be_are_refused(strategy):
    with pytest.raises(ConfigError, match=r"match_iou must be in \(0, 1\], got 0"):
        strategy(match_iou=0)
    with pytest.raises(ConfigError, match=r"score_floor must be in \[0, 1\], got 25\. Did you mean 0\.25\?"):
        strategy(score_floor=25)
