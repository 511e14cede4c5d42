import json
from dataclasses import replace

import numpy as np
import pytest

from retrain.errors import BadInput
from retrain.evaluation.slices import CROWDING
from retrain.evaluation.worst_slices import worst_slices
from tests.unit.evaluation.recordings import recorded


def is_camera_2(attributes):
    return attributes["camera"] == "camera 2"


def test_where_no_slice_is_worse_one_is_reported_in_at_most_5_percent_of_searches():
    reports = [worst_slices(recorded(seed), permutations=99, seed=10**6 + seed) for seed in range(200)]

    assert sum(bool(each.worse) for each in reports) <= 10
    assert min(each.looks for each in reports) > 50


def test_frames_taken_for_independent_would_report_luck():
    """What exchanging recordings protects from: with every image a recording of its own, the level is not kept."""

    def alone(one):
        return replace(one, truth=replace(one.truth, groups=one.truth.images))

    reports = [worst_slices(alone(recorded(seed)), ["camera"], permutations=99) for seed in range(30)]

    assert sum(bool(each.worse) for each in reports) > 10


def test_a_bad_camera_is_found_and_named_first():
    found = [
        worst_slices(recorded(seed, recordings=8, bad=is_camera_2, lost=0.4, spread=0.3), permutations=199)
        for seed in range(5)
    ]

    assert [search.slices[0].where["camera"] for search in found] == ["camera 2"] * 5
    first = worst_slices(
        recorded(0, recordings=8, bad=is_camera_2, lost=0.4, spread=0.3), ["camera"], permutations=199
    )
    assert [each.where for each in first.worse] == [{"camera": "camera 2"}]
    assert first.worse[0].f1 < first.worse[0].f1_elsewhere - 0.2
    assert (first.worse[0].n_images, first.worse[0].n_groups) == (48, 8)


def test_what_is_bad_only_together_is_found_as_a_pair():
    def at_night(attributes):
        return is_camera_2(attributes) and attributes["weather"] == "fog"

    one = recorded(4, recordings=12, bad=at_night, lost=0.6, spread=0.2)

    search = worst_slices(one, ["camera", "weather"])

    assert search.slices[0].where == {"camera": "camera 2", "weather": "fog"}
    assert search.slices[0].is_worse


def test_p_values_grow_with_the_number_of_looks():
    one = recorded(0, bad=is_camera_2, lost=0.3, spread=0.5)

    def p_value(names):
        slices = worst_slices(one, names).slices
        return next(each.p_value for each in slices if each.where == {"camera": "camera 2"})

    assert p_value(["camera"]) < p_value(["camera", "weather", "hour", CROWDING])


def test_the_same_images_by_another_name_are_no_second_look():
    one = recorded(0)
    attributes = tuple({**each, "lens": each["camera"][-1]} for each in one.truth.attributes)
    named_twice = replace(one, truth=replace(one.truth, attributes=attributes))

    once, twice = (worst_slices(named_twice, names) for names in (["camera"], ["camera", "lens"]))

    assert (once.slices, once.looks) == (twice.slices, twice.looks)
    assert twice.looks == 4


def test_cameras_of_one_recording_each_cannot_be_judged_and_are_named():
    search = worst_slices(recorded(0, cameras=6, recordings=1, bad=is_camera_2), ["camera"])

    assert (search.slices, search.looks) == ((), 0)
    assert "one recording only" in search.left_out["camera"]


def test_the_same_seed_gives_the_same_answer_and_json_is_valid():
    one = recorded(1, bad=is_camera_2)

    first, again = (worst_slices(one, permutations=99, seed=3) for _ in range(2))

    assert first == again
    assert first != worst_slices(one, permutations=99, seed=4)
    document = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert document["slices"][0]["where"] == first.slices[0].where


def test_recordings_of_unequal_length_keep_the_level():
    def shortened(one, seed):
        rng = np.random.default_rng(seed)
        length = rng.integers(1, 7, 100)
        return one.only([name for name in one.truth.images if int(name[4:]) < length[int(name[:3])]])

    reports = [
        worst_slices(shortened(recorded(seed), seed), permutations=99, seed=10**6 + seed)
        for seed in range(60)
    ]

    # At a level of 5 %, more than 7 of 60 come by chance in 1 % of cases.
    assert sum(bool(each.worse) for each in reports) <= 7


def test_too_few_permutations_for_the_level_are_refused():
    with pytest.raises(BadInput, match=r"permutations at least 1 / alpha - 1, got 0.05 and 10"):
        worst_slices(recorded(0), permutations=10)
    with pytest.raises(BadInput, match="No image has the attribute 'lens'"):
        worst_slices(recorded(0), ["lens"])
