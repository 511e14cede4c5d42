import dataclasses
import json

import numpy as np
import pytest

from retrain.errors import BadInput
from retrain.monitoring.report import EpochPoint, Interval, LabelCounts, LoopReport, Moment, Picture


def test_json_reads_back_to_the_same_report(report):
    text = report.to_json()

    again = LoopReport.from_json(text)

    assert again.to_json() == text
    assert again.frame_pairs[0].picture == report.frame_pairs[0].picture
    assert np.array_equal(again.frame_pairs[0].before.boxes, report.frame_pairs[0].before.boxes)
    assert again.scores == report.scores
    assert again.stages == report.stages
    assert again.ledger == report.ledger


def test_a_field_that_is_missing_unknown_or_of_the_wrong_kind_is_named(report):
    data = json.loads(report.to_json())
    del data["model"]
    data["modle"] = "digits"
    data["stages"][0]["started_at"] = "noon"

    with pytest.raises(BadInput, match=r"model: Field required.*stages\.0\.started_at.*modle: ") as raised:
        LoopReport.from_json(json.dumps(data))

    assert "\n" not in str(raised.value)


def test_an_unknown_key_deep_inside_is_refused(report):
    data = json.loads(report.to_json())
    data["labels"]["total"]["guessed"] = 3

    with pytest.raises(BadInput, match=r"labels\.total\.guessed"):
        LoopReport.from_json(json.dumps(data))


def test_nan_is_refused_where_a_number_is_required(report):
    difference = Interval(float("nan"), -0.1, 0.1, 0.95)
    scores = report.scores[0]
    broken = dataclasses.replace(scores, map50=dataclasses.replace(scores.map50, difference=difference))

    with pytest.raises(BadInput, match=r"scores\.0\.map50\.difference\.value"):
        dataclasses.replace(report, scores=(broken,)).to_json()


def test_a_value_of_the_wrong_type_is_refused_when_saving(report):
    curve = dataclasses.replace(report.training[0], epochs=(EpochPoint("one", 0.5, {}),))

    with pytest.raises(BadInput, match=r"wrong type.*'one'") as raised:
        dataclasses.replace(report, training=(curve,)).to_json()

    assert "\n" not in str(raised.value)


def test_label_counts_that_do_not_add_up_are_refused():
    with pytest.raises(BadInput, match="collected=10, auto=8, human=3"):
        LabelCounts(collected=10, auto=8, human=3, left_out=0)
    with pytest.raises(BadInput, match="must not be negative"):
        LabelCounts(collected=10, auto=-1, human=3, left_out=0)


def test_samples_in_no_other_group_are_waiting():
    counts = LabelCounts(collected=10, auto=4, human=3, left_out=1)

    assert counts.labelled == 7
    assert counts.waiting == 2


def test_the_reaction_is_unknown_unless_both_ends_were_measured(report):
    crossed, served = Moment("crossed", 10.0, None), Moment("served", 52.5, None)

    assert dataclasses.replace(report, reaction=(crossed, served)).reaction_s == 42.5
    assert dataclasses.replace(report, reaction=(crossed,)).reaction_s is None
    assert dataclasses.replace(report, reaction=(crossed, Moment("served", None, None))).reaction_s is None


def test_a_picture_is_the_same_image_as_png():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)

    picture = Picture.of(image)

    assert (picture.width, picture.height) == (6, 4)
    assert picture.png.startswith(b"\x89PNG")


def test_a_picture_of_floats_is_refused():
    with pytest.raises(BadInput, match="uint8 RGB"):
        Picture.of(np.zeros((4, 4, 3)))
