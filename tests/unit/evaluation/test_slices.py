import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.slices import CROWDING, all_slices, by_attribute, size_scores, slice_scores
from tests.unit.evaluation.recordings import recorded
from tests.unit.evaluation.worlds import evaluation, labelled, random_world, shuffled


def with_attribute(values, name="it"):
    found, images = random_world(0, images=len(values))
    images = [
        replace(image, attributes={} if value == "absent" else {name: value})
        for image, value in zip(images, values, strict=True)
    ]
    return evaluation(found, images)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000_000), crowds=st.sampled_from([0.0, 0.3]))
def test_a_slice_is_scored_as_if_only_it_had_been_evaluated(seed, crowds):
    found, images = random_world(seed, crowds=crowds)
    images = [
        replace(image, attributes={"time": "night" if row % 3 else "day"}) for row, image in enumerate(images)
    ]
    one = evaluation(found, images)

    day, night = slice_scores(one, by_attribute(one, "time"))

    for score, rest in ((day, 0), (night, 1)):
        names = [image.image_id for row, image in enumerate(images) if bool(row % 3) == bool(rest)]
        alone = one.only(names).summary
        for name in ("map50", "map50_95", "precision", "recall", "f1"):
            assert getattr(score, name) == pytest.approx(getattr(alone, name), nan_ok=True), name
        assert (score.n_images, score.n_groups, score.n_objects) == (
            alone.n_images,
            alone.n_groups,
            alone.n_objects,
        )
    assert (day.value, night.value) == ("day", "night")


def test_numbers_are_cut_into_parts_of_equally_many_images():
    slicing = by_attribute(with_attribute([float(value) for value in range(12)]), "it", bins=4)

    assert slicing.slice_of.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    halves = by_attribute(with_attribute([0, 1, 2, 3, 4]), "it", bins=2)
    assert (halves.values, halves.slice_of.tolist()) == (("[0 to 2)", "[2 to 4]"), [0, 0, 1, 1, 1])
    assert slicing.values == ("[0 to 2.75)", "[2.75 to 5.5)", "[5.5 to 8.25)", "[8.25 to 11]")


def test_equal_numbers_stay_together_and_few_ones_are_slices_of_their_own():
    assert by_attribute(with_attribute([1] * 9 + [2, 3, 4]), "it", bins=3).values == ("[1 to 4]",)
    few = by_attribute(with_attribute([10, 9, 10, 9]), "it", bins=3)
    assert (few.values, few.slice_of.tolist()) == (("9", "10"), [1, 0, 1, 0])
    times = [1_700_000_000 + 60 * minute for minute in range(8)]
    assert len(set(by_attribute(with_attribute(times), "it").values)) == 4


def test_the_rarer_of_very_many_values_are_one_slice():
    values = [f"lens {number:03}" for number in range(200)] + ["lens 150"] * 3 + ["lens 199"]

    slicing = by_attribute(with_attribute(values), "it")

    assert len(slicing.values) == 50
    assert (slicing.slice_of == slicing.values.index("lens 150")).sum() == 4
    assert (slicing.slice_of == slicing.values.index("lens 199")).sum() == 2
    assert (slicing.slice_of == slicing.values.index("other (151 values)")).sum() == 151


def test_what_is_not_known_of_an_image_puts_it_into_no_slice():
    slicing = by_attribute(with_attribute(["a", None, "absent", float("nan"), True]), "it")

    assert slicing.values == ("True", "a")
    assert slicing.slice_of.tolist() == [1, -1, -1, -1, 0]
    numbers = by_attribute(with_attribute([1.5, None, 2.5, float("nan"), 3.5, 4.5]), "it", bins=2)
    assert numbers.slice_of.tolist() == [0, -1, 0, -1, 1, 1]


def test_an_attribute_of_no_image_is_refused():
    with pytest.raises(BadInput, match="No image has the attribute 'camera'; there are it"):
        by_attribute(with_attribute(["a"]), "camera")
    with pytest.raises(BadInput, match="bins must be at least 1, got 0"):
        by_attribute(with_attribute(["a"]), "it", bins=0)


def test_crowding_is_how_many_objects_an_image_holds():
    one = recorded(0)

    scores = slice_scores(one, by_attribute(one, CROWDING, bins=3))

    assert sum(each.n_images for each in scores) == len(one.truth.images)
    density = [each.n_objects / each.n_images for each in scores]
    assert density == sorted(density)


def test_objects_by_size_have_recall_and_the_average_precision_of_coco():
    small, large = [0, 0, 20, 20], [100, 100, 250, 250]
    truth = Annotations.of([small, [50, 0, 70, 20], large], [0, 0, 0])
    one = evaluation([Detections.of([small, large], [0, 0], [0.9, 0.1])], labelled(truth), 1)

    scores = {each.value: each for each in size_scores(one)}

    assert (scores["small"].n_objects, scores["small"].recall) == (2, 0.5)
    assert (scores["large"].n_objects, scores["large"].recall) == (1, 0.0)
    assert scores["small"].map50_95 == one.summary.coco["map_small"]
    assert np.isnan(scores["medium"].recall)


def test_all_slices_are_valid_json_and_do_not_depend_on_order():
    found, images = random_world(5, crowds=0.3, grid=8, tied_scores=True)
    images = [
        replace(image, attributes={"camera": "abc"[row % 3], "light": row})
        for row, image in enumerate(images)
    ]

    one, again = (all_slices(evaluation(*each)) for each in ((found, images), shuffled(found, images, 3)))

    assert [each.to_json() for each in one] == [each.to_json() for each in again]
    assert {each.attribute for each in one} == {"camera", "light", "object size", CROWDING}
    json.dumps([each.to_json() for each in one], allow_nan=False)


def test_an_endless_number_is_unknown_and_one_too_large_for_a_float_is_a_name():
    endless = by_attribute(with_attribute([float("inf"), *range(1, 12)]), "it")
    large = by_attribute(with_attribute([10**400, *range(1, 12)]), "it")

    assert endless.slice_of[0] == -1
    assert "nan" not in " ".join(endless.values)
    assert len(large.values) == 12
