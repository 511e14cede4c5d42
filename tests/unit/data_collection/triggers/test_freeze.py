from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.triggers.freeze import FreezeCalendar
from retrain.errors import ConfigError

WEEK = 7 * 24 * 60
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WEEKEND = "Fri 18:00 - Mon 06:00"


def at(text, zone="UTC"):
    """A moment by its local date and time; `text` may bring an offset of its own."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp()


def frozen(moments, *windows, zone="UTC"):
    calendar = FreezeCalendar(windows, zone)
    return [calendar.until(at(moment, zone)) is not None for moment in moments]


def test_without_windows_nothing_is_ever_frozen():
    assert FreezeCalendar().until(0.0) is None
    assert FreezeCalendar().next_open(5.5) == 5.5


def test_a_freeze_holds_from_its_start_until_just_before_its_end():
    # 2026-11-20 is a Friday.
    moments = ["2026-11-20T17:59:59", "2026-11-20T18:00", "2026-11-23T05:59:59", "2026-11-23T06:00"]

    assert frozen(moments, WEEKEND) == [False, True, True, False]


def test_a_weekend_freeze_holds_over_the_turn_of_the_week_and_of_the_year():
    # 2027-01-01 is a Friday.
    moments = [
        "2027-01-01T17:00",
        "2027-01-02T12:00",
        "2027-01-03T23:59:59",
        "2027-01-04T00:00",
        "2026-12-31T23:00",
    ]

    assert frozen(moments, WEEKEND) == [False, True, True, True, False]


def test_a_freeze_over_midnight_holds_on_both_sides_of_it():
    moments = [
        "2026-11-17T21:59",
        "2026-11-17T23:59:59",
        "2026-11-18T00:00",
        "2026-11-18T05:59",
        "2026-11-18T06:00",
    ]

    assert frozen(moments, "Tue 22:00 - Wed 06:00") == [False, True, True, True, False]


def test_the_time_zone_moves_the_window():
    friday = at("2026-11-20T18:00", "America/New_York")

    assert FreezeCalendar((WEEKEND,), "America/New_York").until(friday) == at("2026-11-23T11:00+00:00")
    assert FreezeCalendar((WEEKEND,), "America/New_York").until(friday - 1) is None
    assert FreezeCalendar((WEEKEND,), "Asia/Tokyo").until(friday) == at("2026-11-23T06:00", "Asia/Tokyo")


@pytest.mark.parametrize(
    ("friday", "hours"),
    # Europe/Berlin loses an hour on Sunday 2026-03-29 and gains one on Sunday 2026-10-25.
    [("2026-03-20T18:00", 60), ("2026-03-27T18:00", 59), ("2026-10-23T18:00", 61)],
)
def test_a_weekend_ends_by_the_local_clock_although_it_was_changed(friday, hours):
    start = at(friday, "Europe/Berlin")

    end = FreezeCalendar((WEEKEND,), "Europe/Berlin").until(start)

    assert end - start == hours * 3600
    assert datetime.fromtimestamp(end, ZoneInfo("Europe/Berlin")).strftime("%a %H:%M") == "Mon 06:00"


def test_a_boundary_that_happens_twice_makes_the_freeze_the_longer_one():
    # On 2026-10-25 in Berlin, 02:30 is at 00:30 UTC and again at 01:30 UTC.
    starts = FreezeCalendar(("Sun 02:30 - Sun 05:00",), "Europe/Berlin")
    ends = FreezeCalendar(("Sun 01:00 - Sun 02:30",), "Europe/Berlin")

    assert starts.until(at("2026-10-25T00:30+00:00")) == at("2026-10-25T04:00+00:00")
    assert starts.until(at("2026-10-25T00:29:59+00:00")) is None
    assert ends.until(at("2026-10-25T00:30+00:00")) == at("2026-10-25T01:30+00:00")


def test_a_boundary_that_never_happens_makes_the_freeze_at_most_an_hour_longer():
    # On 2026-03-29 in Berlin, the clock goes from 02:00 (01:00 UTC) to 03:00.
    starts = FreezeCalendar(("Sun 02:30 - Sun 05:00",), "Europe/Berlin")
    ends = FreezeCalendar(("Sun 01:00 - Sun 02:30",), "Europe/Berlin")

    assert starts.until(at("2026-03-29T01:00+00:00")) == at("2026-03-29T03:00+00:00")
    assert starts.until(at("2026-03-29T00:00+00:00")) is None
    assert ends.until(at("2026-03-29T00:59+00:00")) == at("2026-03-29T01:30+00:00")


def test_a_dated_freeze_holds_once_and_its_local_times_may_bring_an_offset():
    local = FreezeCalendar(("2026-12-24T12:00/2027-01-02",), "Europe/Berlin")
    offset = FreezeCalendar(("2026-12-24T11:00Z / 2027-01-01T23:00+00:00",), "Asia/Tokyo")

    for calendar in (local, offset):
        assert calendar.until(at("2026-12-24T10:59:59+00:00")) is None
        assert calendar.until(at("2026-12-24T11:00+00:00")) == at("2027-01-01T23:00+00:00")
        assert calendar.until(at("2027-01-01T23:00+00:00")) is None


def test_a_dated_boundary_that_happens_twice_or_never_makes_the_freeze_the_longer_one():
    # On 2026-10-25 in Berlin, 02:30 is at 00:30 UTC and again at 01:30 UTC; on 2026-03-29 it is skipped.
    ends = FreezeCalendar(("2026-10-24T00:00/2026-10-25T02:30",), "Europe/Berlin")
    starts = FreezeCalendar(("2026-10-25T02:30/2026-10-25T05:00",), "Europe/Berlin")
    skipped = FreezeCalendar(("2026-03-29T01:00/2026-03-29T02:30",), "Europe/Berlin")

    assert ends.until(at("2026-10-25T00:45+00:00")) == at("2026-10-25T01:30+00:00")
    assert starts.until(at("2026-10-25T00:30+00:00")) == at("2026-10-25T04:00+00:00")
    assert starts.until(at("2026-10-25T00:29:59+00:00")) is None
    assert skipped.until(at("2026-03-29T00:30+00:00")) == at("2026-03-29T01:30+00:00")


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_the_farthest_dates_allowed_can_be_asked_about_beside_weekly_windows(zone):
    calendar = FreezeCalendar((WEEKEND, "1970-01-01/2999-12-31T23:59"), zone)

    until = calendar.until(at("2026-11-24"))

    assert until >= at("2999-12-31T23:59", zone)
    assert calendar.local(until).startswith(("2999-12-31", "3000-01"))


def test_freezes_that_touch_or_overlap_end_together():
    calendar = FreezeCalendar((WEEKEND, "Mon 06:00 - Mon 08:00", "2026-11-23T07:00/2026-11-27T20:00"))

    # Until Friday 20:00, which lies in the next weekend, which ends on Monday at 08:00.
    assert calendar.until(at("2026-11-21T00:00")) == at("2026-11-30T08:00")


def minutes_of_week():
    return st.integers(0, WEEK - 1)


def clock(minute):
    return f"{DAYS[minute // 1440]} {minute // 60 % 24:02}:{minute % 60:02}"


@given(start=minutes_of_week(), end=minutes_of_week(), moment=st.integers(0, 4_000_000_000))
def test_in_utc_a_week_is_frozen_exactly_between_its_two_minutes(start, end, moment):
    if start == end:
        return
    local = datetime.fromtimestamp(moment, UTC)
    minute = local.weekday() * 1440 + local.hour * 60 + local.minute

    until = FreezeCalendar((f"{clock(start)} - {clock(end)}",)).until(float(moment))

    assert (until is not None) == ((minute - start) % WEEK < (end - start) % WEEK)
    if until is not None:
        monday = datetime.combine(local.date(), datetime.min.time(), UTC) - timedelta(days=local.weekday())
        assert (until - monday.timestamp()) / 60 % WEEK == end


@given(
    windows=st.lists(st.tuples(minutes_of_week(), st.integers(1, WEEK // 3)), min_size=1, max_size=2),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
    ),
    moment=st.integers(1_700_000_000, 1_900_000_000),
)
def test_the_next_open_moment_is_open_and_nothing_before_it_is(windows, zone, moment):
    texts = tuple(f"{clock(start)} - {clock((start + length) % WEEK)}" for start, length in windows)
    calendar = FreezeCalendar(texts, zone)

    opens = calendar.next_open(moment)

    assert calendar.until(opens) is None
    for part in range(5):
        inside = moment + (opens - moment) * part / 5
        assert calendar.next_open(inside) == opens


@pytest.mark.parametrize(
    ("windows", "zone", "said"),
    [
        (("Fri 18:00 to Mon 06:00",), "UTC", "'Fri 18:00 to Mon 06:00' cannot be read"),
        (("Fry 18:00 - Mon 06:00",), "UTC", "names no time of the week"),
        (("Fri 24:00 - Mon 06:00",), "UTC", "names no time of the week"),
        (("Fri 18:60 - Mon 06:00",), "UTC", "names no time of the week"),
        (("Fri 18:00 - Fri 18:00",), "UTC", "ends the minute it starts"),
        (("2026-12-24",), "UTC", "cannot be read"),
        (("2026-12-24/2026-12-25/2026-12-26",), "UTC", "cannot be read"),
        (("2026-12-24/2026-12-24",), "UTC", "must end after it starts"),
        (("2026-12-24/9999-12-31",), "UTC", "must lie in the years 1970 to 2999"),
        (("0001-01-01/2026-12-24",), "Asia/Tokyo", "must lie in the years 1970 to 2999"),
        (("2027-01-01/2026-12-24",), "UTC", "its start before its end"),
        (("Mon 00:00 - Fri 00:00", "Thu 12:00 - Mon 00:00"), "UTC", "cover the whole week"),
        ((), "Europe/Berln", "'Europe/Berln'. Did you mean 'Europe/Berlin'"),
        ((), "../etc/passwd", "Unknown time zone"),
        ((), "", "Unknown time zone"),
    ],
)
def test_a_window_or_zone_that_makes_no_sense_is_refused(windows, zone, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?").replace(".", r"\.")):
        FreezeCalendar(windows, zone)
