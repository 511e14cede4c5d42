from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import numpy as np
import pytest

from retrain.data_collection.capture_time import capture_time
from retrain.errors import BadInput

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)

TIMES = {
    "seconds": NOON.timestamp(),
    "whole seconds": int(NOON.timestamp()),
    "numpy's seconds": np.float64(NOON.timestamp()),
    "numpy's whole seconds": np.int64(NOON.timestamp()),
    "a fraction": Fraction(int(NOON.timestamp())),
    "a datetime": NOON,
    "a datetime of another zone": NOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
    "a datetime without a zone": NOON.replace(tzinfo=None),
    "text": "2026-11-24T12:00:00Z",
    "text with a zone": "2026-11-24T13:00:00.000+01:00",
    "text without a zone": "2026-11-24 12:00:00",
}


@pytest.mark.parametrize("what", TIMES)
def test_every_way_to_write_a_time_gives_the_same_seconds(what):
    assert capture_time(TIMES[what], 50.0) == NOON.timestamp()


def test_without_a_time_it_is_the_other_one():
    assert capture_time(None, 50.0) == 50.0


@pytest.mark.parametrize("seconds", [0, -5.5])
def test_the_epoch_and_times_before_it_are_times(seconds):
    assert capture_time(seconds, 50.0) == seconds


@pytest.mark.parametrize(
    "given",
    [True, "noon", "", b"2026-11-24", [], float("nan"), float("inf"), 10**400, 1.7e12, 1j],
    ids=repr,
)
def test_what_is_no_time_is_refused(given):
    with pytest.raises(BadInput, match="captured_at must be seconds since the epoch, a datetime or ISO 8601"):
        capture_time(given, 50.0)
