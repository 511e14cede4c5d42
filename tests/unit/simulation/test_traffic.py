from itertools import pairwise

import numpy as np
import pytest

from retrain.errors import BadInput, NotFound
from retrain.simulation.drift import Drift
from retrain.simulation.traffic import FLEET, Camera, TrafficSimulator


def test_a_frame_depends_on_seed_camera_and_index_only():
    asked_in_order = [TrafficSimulator(seed=5).frame("dock-b", i).image for i in range(3)]
    asked_backwards = TrafficSimulator(seed=5)

    for index in (2, 1, 0):
        assert np.array_equal(asked_backwards.frame("dock-b", index).image, asked_in_order[index])
    for other in (
        TrafficSimulator(seed=6).frame("dock-b", 0),
        TrafficSimulator(seed=5).frame("dock-a", 0),
        TrafficSimulator(seed=5, split="test").frame("dock-b", 0),
    ):
        assert not np.array_equal(other.image, asked_in_order[0])


def test_frames_of_one_recording_share_their_page_and_the_next_recording_does_not():
    simulator = TrafficSimulator(seed=1, frames_per_recording=4)
    frames = [simulator.frame("dock-b", i) for i in range(8)]

    assert [f.recording for f in frames] == ["dock-b-0000"] * 4 + ["dock-b-0001"] * 4
    changed = [
        float(np.median(np.abs(a.image.astype(int) - b.image.astype(int)))) for a, b in pairwise(frames)
    ]
    assert max(changed[:3] + changed[4:]) < changed[3]
    assert len({f.image.tobytes() for f in frames}) == 8


def test_capture_times_follow_the_clock_that_was_given():
    simulator = TrafficSimulator(started_at=100.0, interval_s=2.5)

    assert [simulator.frame("dock-a", i).captured_at for i in (0, 1, 4)] == [100.0, 102.5, 110.0]


def test_drift_starts_where_told_on_the_cameras_that_have_one_and_leaves_boxes_alone():
    clean, drifting = TrafficSimulator(seed=2), TrafficSimulator(seed=2, drift_from=3)
    for camera in FLEET:
        for index in (2, 3):
            before, after = clean.frame(camera.id, index), drifting.frame(camera.id, index)
            expected = camera.drift.kind != "none" and index >= 3

            assert after.drifted is expected
            assert np.array_equal(before.image, after.image) is not expected
            assert np.array_equal(before.annotations.boxes, after.annotations.boxes)
            assert np.array_equal(before.annotations.classes, after.annotations.classes)
            assert not before.drifted


def test_the_default_fleet_has_every_kind_of_drift():
    kinds = [camera.drift.kind for camera in FLEET]

    assert kinds.count("blinding") == 1
    assert kinds.count("moderate") == 3
    assert kinds.count("none") == 2


def test_what_cannot_be_asked_is_refused_in_words():
    simulator = TrafficSimulator()
    with pytest.raises(NotFound, match="dock-a"):
        simulator.frame("nowhere", 0)
    with pytest.raises(BadInput, match="0 or more"):
        simulator.frame("dock-a", -1)
    with pytest.raises(BadInput, match="differ"):
        TrafficSimulator([Camera("a"), Camera("a", drift=Drift("moderate"))])
    with pytest.raises(BadInput, match="frames_per_recording"):
        TrafficSimulator(frames_per_recording=0)
