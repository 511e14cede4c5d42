import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retrain.evaluation.tide import ERROR_TYPES, Tide
from tests.unit.evaluation.tide_oracle import by_tidecv
from tests.unit.evaluation.worlds import evaluation, random_world

TOLERANCE = 1e-6


def kinds(one):
    tide = Tide(one)
    return {int(row): ERROR_TYPES[tide.kind[row]] for row in np.flatnonzero(tide.kind >= 0)}


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 1_000_000),
    images=st.integers(1, 10),
    classes=st.integers(1, 4),
    detections=st.sampled_from([1, 2, 10, 30]),
    crowds=st.sampled_from([0.0, 0.3]),
    grid=st.sampled_from([None, 4, 16]),
    spread=st.sampled_from([9, 40, 200]),
)
def test_types_and_gains_equal_those_of_tidecv(seed, classes, **world):
    one = evaluation(*random_world(seed, classes=classes, **world), classes + 1)
    assume((~one.truth.crowd).any())
    expected = by_tidecv(one)
    errors = Tide(one).errors

    assert kinds(one) == expected["kinds"]
    assert errors.counts == expected["counts"]
    # With 10, 20, ... objects tidecv's recall levels, as floats, differ from pycocotools'.
    assume(not any(number and number % 10 == 0 for number in expected["asked"]))
    assert errors.delta_ap == pytest.approx(expected["delta_ap"], abs=TOLERANCE, nan_ok=True)
    assert errors.false_positives == pytest.approx(expected["false_positives"], abs=TOLERANCE, nan_ok=True)
    assert errors.false_negatives == pytest.approx(expected["false_negatives"], abs=TOLERANCE, nan_ok=True)
    assert errors.map50 == pytest.approx(expected["map50"], abs=TOLERANCE, nan_ok=True)
    assert errors.map50 == pytest.approx(one.summary.map50, abs=1e-12)
