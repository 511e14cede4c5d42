import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.frame import Frame
from retrain.data_collection.strategies.box_rules import band, per_class
from retrain.errors import ConfigError

scores = st.lists(st.floats(0, 1), max_size=6)


def frame(scores, classes=None):
    return Frame(
        min(scores, default=None), [[0, 0, 9, 9]] * len(scores), classes or [0] * len(scores), scores
    )


@given(values=scores, needed=st.integers(1, 3))
def test_band_counts_the_boxes_in_it(values, needed):
    rule = band(band_low=0.3, band_high=0.5, band_boxes=needed)

    wish = rule(frame(values))

    assert wish.probability == float(len([value for value in values if 0.3 <= value <= 0.5]) >= needed)


@pytest.mark.parametrize("score", [0.3, 0.5])
def test_both_ends_of_the_band_are_in_it(score):
    wish = band(band_low=0.3, band_high=0.5)(frame([score]))

    assert wish == (1.0, "1 or more boxes score in [0.3, 0.5]")


def test_too_few_boxes_in_the_band_are_a_reason_with_a_number():
    wish = band(band_boxes=2)(frame([0.5, 0.9]))

    assert wish == (0.0, "fewer than 2 boxes score in [0.4, 0.6]")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"band_low": -0.1}, r"band_low must be in \[0, 1\], got -0\.1\."),
        ({"band_high": 60}, r"band_high must be in \[0, 1\], got 60\. Did you mean 0\.6\?"),
        ({"band_low": 0.7}, r"band_low must be less than band_high, got 0\.7 and 0\.6\."),
        ({"band_boxes": 0}, "band_boxes must be a whole number of at least 1, got 0"),
        ({"band_boxes": 1.5}, r"band_boxes must be a whole number of at least 1, got 1\.5"),
    ],
)
def test_a_band_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        band(**settings)


@given(boxes=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), max_size=6))
def test_per_class_wants_a_box_below_the_threshold_of_its_own_class(boxes):
    limits = {0: 0.3, 2: 0.8}

    wish = per_class(class_thresholds=limits)(frame([s for _, s in boxes], [c for c, _ in boxes]))

    assert wish.probability == float(any(label in limits and s < limits[label] for label, s in boxes))


def test_per_class_names_the_class():
    rule = per_class(class_thresholds={0: 0.3, 2: 0.8})

    assert rule(frame([0.5, 0.7], [0, 2])) == (1.0, "a box of class 2 scores < 0.8")
    assert rule(frame([0.3, 0.8], [0, 2])) == (0.0, "no box below its class's threshold")


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({}, r"class_thresholds is empty\. Give at least one class, for example \{0: 0\.5\}\."),
        ({"car": 0.5}, "class_thresholds needs class indices from 0 as keys, got 'car'"),
        ({-1: 0.5}, "class_thresholds needs class indices from 0 as keys, got -1"),
        ({3: 0.0}, r"class_thresholds\[3\] must be in \(0, 1\], got 0\.0"),
        ({3: 1.2}, r"class_thresholds\[3\] must be in \(0, 1\], got 1\.2"),
        ({3: "low"}, r"class_thresholds\[3\] must be in \(0, 1\], got 'low'"),
    ],
)
def test_class_thresholds_that_cannot_be_are_refused(thresholds, message):
    with pytest.raises(ConfigError, match=message):
        per_class(class_thresholds=thresholds)
