import logging
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.frame import Frame
from retrain.data_collection.strategies.track_gap import MAX_TRACKS, MEMORY, TrackGap
from retrain.errors import ConfigError

WIDTH, HEIGHT = 640, 480
MIDDLE = (300, 200, 360, 260)


@pytest.fixture
def eager_threads():
    """Threads change after every few instructions, so a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def frame(at, *boxes, camera="a", score=0.9, label=0, size=(WIDTH, HEIGHT)):
    return Frame(
        score if boxes else None,
        boxes,
        [label] * len(boxes),
        [score] * len(boxes),
        camera=camera,
        captured_at=at,
        width=size[0],
        height=size[1],
    )


def gaps(strategy, frames):
    """Indices of the frames that are wanted."""
    return [index for index, one in enumerate(frames) if strategy(one).probability == 1.0]


def film(*boxes, **how):
    """One frame per box, 0.1 s apart; None is a frame in which nothing is seen."""
    return [frame(0.1 * n, *([] if box is None else [box]), **how) for n, box in enumerate(boxes)]


def moving(box, dx, dy, steps):
    return [(box[0] + n * dx, box[1] + n * dy, box[2] + n * dx, box[3] + n * dy) for n in range(steps)]


def test_an_object_that_flickers_is_wanted_where_it_is_missing():
    assert gaps(TrackGap(), film(*[MIDDLE] * 3, None, *[MIDDLE] * 3)) == [3]


def test_each_flicker_of_one_object_counts():
    assert gaps(TrackGap(), film(*[MIDDLE] * 3, None, MIDDLE, None, MIDDLE)) == [3, 5]


def test_an_object_that_vanishes_inside_the_picture_is_wanted_once():
    assert gaps(TrackGap(), film(*[MIDDLE] * 4, *[None] * 20)) == [4]


def test_one_missing_object_is_found_among_others_that_stay():
    others = [(20, 20, 80, 80), (500, 300, 600, 400)]
    frames = [frame(0.1 * n, *others, *([] if n == 5 else [MIDDLE])) for n in range(8)]

    assert gaps(TrackGap(), frames) == [5]


def test_an_object_seen_too_seldom_is_no_track():
    assert gaps(TrackGap(track_frames=3), film(MIDDLE, MIDDLE, None, MIDDLE, MIDDLE, None)) == []
    assert gaps(TrackGap(track_frames=2), film(MIDDLE, MIDDLE, None)) == [2]


@pytest.mark.parametrize(
    ("start", "dx", "dy"),
    [
        ((300, 200, 360, 260), 25, 0),
        ((300, 200, 360, 260), -25, 0),
        ((300, 200, 360, 260), 0, 25),
        ((300, 200, 360, 260), 0, -25),
        ((300, 200, 360, 260), 20, 20),
    ],
)
def test_an_object_that_leaves_through_the_border_is_no_gap(start, dx, dy):
    inside = [
        box
        for box in moving(start, dx, dy, 40)
        if box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT
    ]

    assert gaps(TrackGap(), film(*inside, *[None] * 5)) == []


@pytest.mark.parametrize("away", [0, 12])
def test_an_object_that_stands_at_the_border_may_go_without_being_wanted(away):
    assert gaps(TrackGap(), film(*[(away, 200, 60, 260)] * 5, None)) == []
    assert gaps(TrackGap(), film(*[(300, 200, 360, HEIGHT - away * 0.8)] * 5, None)) == []


def test_how_near_the_border_counts_is_a_setting():
    near = film(*[(40, 200, 100, 260)] * 5, None)

    assert gaps(TrackGap(), near) == [5]
    assert gaps(TrackGap(track_border=0.1), near) == []


def test_a_moving_object_is_one_object():
    path = moving((100, 200, 160, 260), 20, 5, 12)

    assert gaps(TrackGap(), film(*path)) == []
    assert gaps(TrackGap(), film(*path[:8], None, *path[9:])) == [8]


def test_an_object_that_comes_back_farther_on_keeps_its_speed():
    # Seen at 0, 10, 20 and 50, so it moves 10 a frame and not 30: its next place, 60, is not yet at the border.
    path = [(WIDTH - 150 + x, 200, WIDTH - 90 + x, 260) for x in (0, 10, 20, 50)]

    assert gaps(TrackGap(), film(*path[:3], None, None, path[3], None)) == [3, 6]


def test_one_sighting_can_be_a_track():
    assert gaps(TrackGap(track_frames=1), film(*[MIDDLE] * 4, None)) == [4]


def test_an_object_missing_at_random_is_wanted_as_often_as_it_vanishes():
    n, is_seen = 3000, np.random.default_rng(5).random(3000) < 0.8

    rate = len(gaps(TrackGap(track_frames=1), film(*[MIDDLE if seen else None for seen in is_seen]))) / n

    # Seen and then not: 0.8 * 0.2, within five standard deviations of a binomial.
    assert abs(rate - 0.16) <= 5 * (0.16 * 0.84 / n) ** 0.5


def test_an_object_that_is_waited_for_does_not_take_the_place_of_one_that_is_there():
    near = (302, 200, 362, 260)
    both, one = [MIDDLE, near], [MIDDLE]
    frames = [
        frame(0.1 * n, *scene) for n, scene in enumerate([both, both, both, one, one, one, [near], [near]])
    ]

    # One of two vanishes; the other one then moves to where the lost one was.
    assert gaps(TrackGap(), frames) == [3]


def test_an_object_away_for_longer_than_it_is_waited_for_starts_anew():
    assert gaps(TrackGap(), film(*[MIDDLE] * 3, *[None] * MEMORY, MIDDLE, None)) == [3, 4 + MEMORY]
    assert gaps(TrackGap(), film(*[MIDDLE] * 3, *[None] * (MEMORY + 1), MIDDLE, None)) == [3]


def test_a_faint_box_continues_a_track_but_starts_none():
    sure = [frame(0.1 * n, MIDDLE) for n in range(4)]
    faint = [frame(0.4 + 0.1 * n, MIDDLE, score=0.1) for n in range(4)]

    assert gaps(TrackGap(), [*sure, *faint]) == []
    assert gaps(TrackGap(), [*faint, frame(0.9)]) == []


def test_an_object_that_turns_into_another_class_is_missing_from_its_own():
    assert gaps(TrackGap(), [*film(*[MIDDLE] * 3), frame(0.3, MIDDLE, label=1)]) == [3]


def test_cameras_do_not_mix():
    frames = [
        frame(0.1 * n, *([MIDDLE] if camera == "a" else []), camera=camera)
        for n in range(6)
        for camera in "ab"
    ]

    assert gaps(TrackGap(), frames) == []


def test_after_a_long_pause_nothing_is_missed():
    seen = film(*[MIDDLE] * 4)

    assert gaps(TrackGap(track_pause_s=5), [*seen, frame(0.3 + 5.1)]) == []
    assert gaps(TrackGap(track_pause_s=5), [*seen, frame(0.3 + 4.9)]) == [4]


def test_a_frame_that_comes_too_late_is_not_judged_and_changes_nothing():
    strategy = TrackGap()
    gaps(strategy, film(*[MIDDLE] * 4))

    late = strategy(frame(0.15))

    assert late == (0.0, "older than the camera's last frame")
    assert strategy(frame(0.4)).probability == 1.0


def test_a_clock_that_is_set_back_starts_the_camera_anew():
    strategy = TrackGap()
    gaps(strategy, [frame(1e9 + n, MIDDLE) for n in range(4)])

    assert gaps(strategy, film(*[MIDDLE] * 3, None)) == [3]


@pytest.mark.parametrize("size", [(0, 0), (WIDTH, 0), (0, HEIGHT)])
def test_without_the_size_of_the_image_nothing_is_judged(size):
    strategy = TrackGap()

    wishes = {strategy(one) for one in film(*[MIDDLE] * 3, None, size=size)}

    assert wishes == {(0.0, "no image size given")}


def test_the_reason_says_what_was_looked_for():
    strategy = TrackGap(track_frames=2)

    wishes = [strategy(one) for one in film(MIDDLE, MIDDLE, None)]

    assert wishes[2] == (1.0, "an object seen for 2 or more frames is missing")
    assert wishes[1] == (0.0, "no object is missing")


def test_the_camera_not_heard_of_for_longest_is_forgotten_when_there_are_too_many(caplog):
    strategy = TrackGap(max_cameras=2)
    gaps(strategy, film(*[MIDDLE] * 3, camera="quiet"))
    gaps(strategy, film(*[MIDDLE] * 3, camera="lively"))
    strategy(frame(0.3, MIDDLE, camera="quiet"))

    with caplog.at_level(logging.WARNING):
        gaps(strategy, film(*[MIDDLE] * 3, camera="third"))

    assert strategy(frame(0.4, camera="quiet")).probability == 1.0
    assert strategy(frame(0.4, camera="third")).probability == 1.0
    assert strategy(frame(0.4, camera="lively")).probability == 0.0
    # The last line brought a camera back and so had another one forgotten.
    assert caplog.text.count("More than 2 cameras") == 1


@pytest.mark.parametrize(("others", "wanted"), [(MAX_TRACKS - 1, [3]), (MAX_TRACKS, [])])
def test_no_more_objects_of_a_camera_are_followed_than_the_bound(others, wanted):
    corners = [(x, y) for x in range(20, 600, 20) for y in (20, 60, 400, 440)][:others]
    crowd = [(x, y, x + 8, y + 8) for x, y in corners]
    frames = [frame(0.1 * n, *crowd, *([MIDDLE] if n < 3 else [])) for n in range(4)]

    assert len(crowd) == others
    assert gaps(TrackGap(), frames) == wanted


def test_a_crowd_beyond_the_bound_leaves_the_tracks_that_were_there_before():
    crowd = [(x, y, x + 8, y + 8) for x in range(50, 600, 20) for y in range(50, 430, 20)]
    strategy = TrackGap()
    gaps(strategy, film(*[MIDDLE] * 4))

    wanted = gaps(strategy, [frame(0.4 + 0.1 * n, *crowd, *([MIDDLE] * (n != 3))) for n in range(5)])

    assert len(crowd) > 4 * MAX_TRACKS
    assert wanted == [3]


def test_threads_with_a_camera_each_find_exactly_their_own_gaps(eager_threads):
    strategy = TrackGap()
    expected = {camera: [20 + camera, 60 + camera] for camera in range(8)}

    def watch(camera):
        boxes = [None if n in expected[camera] else MIDDLE for n in range(100)]
        return camera, gaps(strategy, film(*boxes, camera=str(camera)))

    with ThreadPoolExecutor(8) as pool:
        found = dict(pool.map(watch, range(8)))

    assert found == expected


def test_threads_on_one_camera_want_a_vanished_object_once(eager_threads):
    strategy, cameras = TrackGap(), [str(number) for number in range(100)]
    for camera in cameras:
        gaps(strategy, film(*[MIDDLE] * 3, camera=camera))
    meet = threading.Barrier(4)

    def watch(_):
        wanted = []
        for camera in cameras:
            meet.wait(20)
            wanted += [camera] * (strategy(frame(0.3, camera=camera)).probability == 1.0)
        return wanted

    with ThreadPoolExecutor(4) as pool:
        wanted = [camera for found in pool.map(watch, range(4)) for camera in found]

    assert sorted(wanted) == sorted(cameras)


boxes = st.sampled_from([MIDDLE, (20, 20, 80, 80), (305, 200, 365, 260), (0, 0, 30, 30)])


@given(scenes=st.lists(st.lists(boxes, max_size=3), max_size=15))
def test_a_gap_needs_three_frames_before_it_and_a_box_that_is_gone(scenes):
    wanted = gaps(TrackGap(track_frames=3), [frame(0.1 * n, *scene) for n, scene in enumerate(scenes)])

    assert all(index >= 3 for index in wanted)
    assert all(Counter(scenes[index - 1]) - Counter(scenes[index]) for index in wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"track_frames": 0}, "track_frames must be a whole number of at least 1, got 0"),
        ({"max_cameras": 0}, "max_cameras must be a whole number of at least 1, got 0"),
        ({"track_iou": 0}, r"track_iou must be in \(0, 1\], got 0"),
        ({"track_border": 5}, r"track_border must be in \[0, 1\], got 5\. Did you mean 0\.05\?"),
        ({"score_floor": -1}, r"score_floor must be in \[0, 1\], got -1"),
        ({"track_pause_s": 0}, "track_pause_s must be more than 0 seconds, got 0"),
        ({"track_pause_s": float("nan")}, "track_pause_s must be more than 0 seconds, got nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrackGap(**settings)
