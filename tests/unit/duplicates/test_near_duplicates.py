import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from retrain.duplicates.near_duplicates import NearDuplicateRule, NearDuplicates
from retrain.duplicates.perceptual_hash import ENTRY, PerceptualHash, perceptual_hash
from retrain.errors import BadInput, ConfigError
from retrain.simulation.traffic import FLEET, TrafficSimulator

MEASURED = Path(__file__).parents[3] / "benchmarks" / "results" / "near_duplicates.json"
HASHES_ONLY = NearDuplicateRule(max_difference=math.inf, mirrored=False)
RECORDING = 12
TRAFFIC = TrafficSimulator(seed=7, split="test", frames_per_recording=RECORDING)
CAMERAS = [camera.id for camera in FLEET]


def frame(camera, index=0):
    return Image.fromarray(TRAFFIC.frame(camera, index).image)


def jpeg(image, quality=95):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def hashed(image, quality=95):
    return perceptual_hash(jpeg(image, quality))


def bits(p, d=0):
    """A hash with these bits and a blank thumbnail."""
    return PerceptualHash(p, d, bytes(ENTRY.itemsize - 16))


def ones(count):
    return (1 << count) - 1


COPIES = {
    "re-encoded": lambda image: jpeg(image, 50),
    "enlarged": lambda image: jpeg(image.resize((320, 320), Image.Resampling.LANCZOS)),
    "darker": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.85)),
    "mirrored": lambda image: jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_a_frame_is_found(kind):
    index = NearDuplicates(scope="global")
    for camera in CAMERAS:
        index.add(camera, hashed(frame(camera)))

    matches = [index.find(perceptual_hash(COPIES[kind](frame(camera)))) for camera in CAMERAS]

    assert [match and match.id for match in matches] == CAMERAS
    assert all(match.mirrored == (kind == "mirrored") for match in matches)


@pytest.mark.parametrize("camera", CAMERAS)
def test_frames_of_a_fixed_camera_with_other_digits_are_not_duplicates(camera):
    index = NearDuplicates()

    for number in range(RECORDING):
        picture = hashed(frame(camera, number))
        assert index.find(picture, camera) is None
        index.add(str(number), picture, camera)


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_frame_in_which_one_digit_changed_is_not_a_duplicate(camera):
    before, other = frame(camera, 0), TRAFFIC.frame(camera, 1)
    x1, y1, x2, y2 = other.annotations.boxes[0].astype(int)
    after = np.asarray(before).copy()
    after[y1:y2, x1:x2] = other.image[y1:y2, x1:x2]
    picture = hashed(Image.fromarray(after))
    close_look, hashes_only = NearDuplicates(), NearDuplicates(HASHES_ONLY)
    for index in (close_look, hashes_only):
        index.add("before", hashed(before), camera)

    assert close_look.find(picture, camera) is None
    # The hashes alone would have lost this frame.
    assert hashes_only.find(picture, camera) is not None


def test_a_match_says_how_near_it_is():
    index = NearDuplicates(HASHES_ONLY)
    index.add("far", bits(ones(9)))
    index.add("near", bits(ones(2), ones(3)))

    match = index.find(bits(0))

    assert (match.id, match.distance, match.mirrored) == ("near", 5, False)


def test_the_newest_of_equally_near_pictures_is_named_also_after_others_were_forgotten():
    index = NearDuplicates(HASHES_ONLY, capacity=3)
    named = []

    for number in range(6):
        index.add(str(number), bits(ones(4)))
        named.append(index.find(bits(0)).id)

    index.remove("5")
    assert named == ["0", "1", "2", "3", "4", "5"]
    assert index.find(bits(0)).id == "4"


@pytest.mark.parametrize(("distance", "found"), [(12, True), (13, False)])
def test_a_hash_beyond_the_distance_is_not_looked_at(distance, found):
    index = NearDuplicates(dataclasses.replace(HASHES_ONLY, max_distance=12))
    index.add("stored", bits(0))

    assert (index.find(bits(ones(distance))) is not None) == found


def test_mirrored_copies_can_be_let_through():
    index = NearDuplicates(NearDuplicateRule(mirrored=False))
    index.add("frame", hashed(frame("dock-a")))

    turned = hashed(frame("dock-a").transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    assert index.find(turned) is None
    assert index.find(hashed(frame("dock-a"), 70)) is not None


def test_a_copy_behind_too_many_candidates_is_kept():
    index = NearDuplicates(NearDuplicateRule(max_candidates=1))
    original = hashed(frame("dock-a"))
    index.add("original", original)
    index.add("same hashes", dataclasses.replace(original, thumbnail=hashed(frame("dock-b")).thumbnail))

    assert index.find(original) is None


def test_cameras_are_kept_apart_unless_the_scope_is_global():
    picture = hashed(frame("dock-a"))
    apart, together = NearDuplicates(), NearDuplicates(scope="global")
    for index in (apart, together):
        index.add("frame", picture, "dock-a")

    assert apart.find(picture, "dock-b") is None
    assert apart.find(picture, "dock-a").id == "frame"
    assert together.find(picture, "dock-b").id == "frame"


def test_the_oldest_is_forgotten_for_the_newest_over_all_cameras():
    index = NearDuplicates(HASHES_ONLY, capacity=2)
    for name, camera in (("a", "1"), ("b", "2"), ("c", "2")):
        index.add(name, bits(0), camera)

    assert ["a" in index, "b" in index, "c" in index] == [False, True, True]
    assert index.find(bits(0), "1") is None
    assert len(index) == 2


def test_adding_an_id_again_replaces_it_and_makes_it_the_newest():
    index = NearDuplicates(HASHES_ONLY, capacity=2)
    for name, p in (("a", 0), ("b", 0), ("a", ones(60)), ("c", 0)):
        index.add(name, bits(p))

    assert "b" not in index
    assert index.find(bits(ones(60))).id == "a"
    assert index.find(bits(0)).id == "c"


def test_a_removed_picture_is_not_found_and_the_others_are():
    index = NearDuplicates(HASHES_ONLY)
    stored = {"a": ones(64), "b": ones(32), "c": 0}
    for name, p in stored.items():
        index.add(name, bits(p))

    removed = (index.remove("a"), index.remove("a"))

    assert removed == (True, False)
    assert index.find(bits(stored["a"])) is None
    assert [index.find(bits(stored[name])).id for name in "bc"] == ["b", "c"]


operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove"]),
        st.integers(0, 8),
        st.integers(0, 2**64 - 1),
        st.sampled_from("xy"),
    )
)


@given(operations=operations, asked=st.integers(0, 2**64 - 1))
def test_the_index_answers_like_a_search_through_a_list(operations, asked):
    index, listed = NearDuplicates(HASHES_ONLY, capacity=5), {}
    for action, number, p, camera in operations:
        listed.pop(number, None)
        if action == "add":
            index.add(str(number), bits(p), camera)
            listed = dict([*listed.items(), (number, (p, camera))][-5:])
        else:
            index.remove(str(number))

    match = index.find(bits(asked), "x")

    distances = {str(n): (p ^ asked).bit_count() for n, (p, camera) in listed.items() if camera == "x"}
    near = [distance for distance in distances.values() if distance <= HASHES_ONLY.max_distance]
    assert len(index) == len(listed)
    assert (match and match.distance) == min(near, default=None)
    assert match is None or distances[match.id] == match.distance


def test_many_at_once_are_found_like_one_by_one():
    index = NearDuplicates(HASHES_ONLY)
    for number, camera in enumerate(CAMERAS):
        index.add(camera, hashed(frame(camera)), "ab"[number % 2])
    asked = [hashed(frame(camera, number), 60) for number in (0, 1) for camera in CAMERAS]
    cameras = ["ab"[number % 2] for number in range(len(CAMERAS))] * 2

    together = index.find_many(asked, cameras)

    assert together == [index.find(picture, camera) for picture, camera in zip(asked, cameras, strict=True)]
    assert any(together)


def test_an_empty_index_finds_nothing():
    assert NearDuplicates().find(bits(0)) is None
    assert NearDuplicates().find_many([], []) == []


def random_rows(count):
    rng = np.random.default_rng(0)
    return [(str(number), "cam", rng.bytes(16) + bytes(ENTRY.itemsize - 16)) for number in range(count)]


def test_every_entry_of_a_large_index_is_reached():
    rows = random_rows(40_000)
    index = NearDuplicates.from_rows(rows, rule=HASHES_ONLY)

    places = [0, 16_383, 16_384, 20_000, 39_999]
    matches = index.find_many([PerceptualHash.from_bytes(rows[place][2]) for place in places], ["cam"] * 5)

    assert [match.id for match in matches] == [str(place) for place in places]


def test_an_index_from_rows_equals_one_that_was_added_to():
    pictures = [(str(number), camera, hashed(frame(camera))) for number, camera in enumerate(CAMERAS)]
    added = NearDuplicates(capacity=4)
    for name, camera, picture in pictures:
        added.add(name, picture, camera)

    rebuilt = NearDuplicates.from_rows(
        [(name, camera, picture.to_bytes()) for name, camera, picture in pictures], capacity=4
    )

    assert len(rebuilt) == len(added) == 4
    for index in (rebuilt, added):
        index.add("new", bits(0))
    for name, camera, picture in pictures:
        assert (name in rebuilt) == (name in added)
        assert rebuilt.find(picture, camera) == added.find(picture, camera)


def test_rows_with_one_id_twice_are_bad_input():
    rows = random_rows(2)

    with pytest.raises(BadInput, match="2 rows with 1 ids"):
        NearDuplicates.from_rows([rows[0], rows[0]])


def test_a_row_with_a_hash_of_another_length_is_bad_input():
    with pytest.raises(BadInput, match="1040 bytes, got 3"):
        NearDuplicates.from_rows([("a", "cam", b"abc")])


def test_a_million_pictures_take_1048_megabytes_and_at_most_a_quarter_more_after_growing():
    rows = random_rows(3000)
    rebuilt, grown = NearDuplicates.from_rows(rows), NearDuplicates()
    for name, camera, data in rows:
        grown.add(name, PerceptualHash.from_bytes(data), camera)

    megabytes = [index.nbytes / 3000 for index in (rebuilt, grown)]

    assert megabytes[0] == 1048
    assert megabytes[1] <= 1048 * 1.25


def test_removing_pictures_gives_their_memory_back():
    index = NearDuplicates.from_rows(random_rows(3000))
    before = index.nbytes

    for number in range(2900):
        index.remove(str(number))

    assert index.nbytes <= before / 10
    assert len(index) == 100


@pytest.mark.parametrize(
    "change",
    [
        {"max_distance": -1},
        {"max_distance": 129},
        {"max_difference": -0.5},
        {"max_difference": math.nan},
        {"max_candidates": 0},
    ],
)
def test_a_rule_out_of_range_is_refused_by_name_and_value(change):
    [(name, value)] = change.items()

    with pytest.raises(ConfigError, match=f"{name} must be .*got {value}"):
        NearDuplicateRule(**change)


@pytest.mark.parametrize("change", [{"scope": "site"}, {"capacity": 0}])
def test_an_index_with_an_unknown_scope_or_no_room_is_refused(change):
    with pytest.raises(ConfigError, match="must be"):
        NearDuplicates(**change)


def test_the_default_rule_is_the_one_that_the_benchmark_fitted():
    fitted = json.loads(MEASURED.read_text(encoding="utf-8"))["fitted"]

    rule = NearDuplicateRule()

    assert (rule.max_distance, rule.max_difference) == (fitted["max_distance"], fitted["max_difference"])
