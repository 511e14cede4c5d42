from datetime import UTC, datetime

import pytest

from retrain.dataset.measuring.coverage import coverage_of, time_of
from retrain.dataset.version import DatasetItem, LabelledObject


def taken(number, split="train", objects=0, **metadata):
    return DatasetItem(
        image=f"{number:064x}", pack="ab" * 32, format="jpg", width=64, height=64, split=split, group="g",
        objects=tuple(LabelledObject(f"o-{i}", 0, (0.0, 0.0, 9.0, 9.0)) for i in range(objects)),
        source="seed", metadata=metadata,
    )  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        1767261600.0,
        1767261600,
        "2026-01-01T10:00:00",
        "2026-01-01T10:00:00Z",
        "2026-01-01 12:00:00+02:00",
        "2026/01/01 10:00:00",
    ],
)
def test_a_time_may_be_seconds_or_iso_text_in_any_zone(given):
    assert datetime.fromtimestamp(time_of({"captured_at": given}), UTC) == datetime(
        2026, 1, 1, 10, tzinfo=UTC
    )


def test_the_time_of_a_coco_file_is_read():
    assert time_of({"date_captured": "1970-01-01 00:01:00"}) == 60.0


@pytest.mark.parametrize("given", ["yesterday", 1767261600000.0 * 1000, True, [1], {"at": 1}, float("nan")])
def test_what_is_no_time_is_counted_and_not_guessed(given):
    time = coverage_of([taken(1, captured_at=given), taken(2, captured_at=0.0)]).time

    assert (time.known, time.unreadable) == (1, 1)
    assert time.first == time.last == "1970-01-01T00:00:00+00:00"


def test_images_are_counted_by_day_and_hour():
    stamps = ["2026-01-01T00:30:00", "2026-01-01T23:30:00", "2026-01-02T23:10:00"]
    time = coverage_of([taken(n, captured_at=stamp) for n, stamp in enumerate(stamps)]).time

    assert time.by_day == {"2026-01-01": 2, "2026-01-02": 1}
    assert time.by_hour == (1, *[0] * 22, 2)
    assert (time.first, time.last) == ("2026-01-01T00:30:00+00:00", "2026-01-02T23:10:00+00:00")
    assert (time.days_without, time.gaps) == (0, ())


def test_gaps_are_whole_days_without_an_image_longest_first():
    stamps = ["2026-01-01", "2026-01-03", "2026-01-10", "2026-01-11"]
    time = coverage_of([taken(n, captured_at=stamp) for n, stamp in enumerate(stamps)]).time

    assert [(gap.first, gap.last, gap.days) for gap in time.gaps] == [
        ("2026-01-04", "2026-01-09", 6),
        ("2026-01-02", "2026-01-02", 1),
    ]
    assert time.days_without == 7


def test_a_time_before_1970_is_a_time():
    assert coverage_of([taken(1, captured_at="1969-12-31T23:00:00")]).time.by_day == {"1969-12-31": 1}


def test_cameras_are_counted_with_their_splits_and_times():
    coverage = coverage_of(
        [
            taken(1, camera="north", objects=2, captured_at=60.0),
            taken(2, camera="north", split="val", objects=1, captured_at=0),
            taken(3, camera_id=7),
            taken(4),
        ]
    )

    north, seven = coverage.cameras
    assert (north.name, north.images, north.objects) == ("north", 2, 3)
    assert north.images_by_split == {"train": 1, "val": 1}
    assert (north.first, north.last) == ("1970-01-01T00:00:00+00:00", "1970-01-01T00:01:00+00:00")
    assert (seven.name, seven.first) == ("7", None)
    assert coverage.without_camera == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"latitude": 48.137, "longitude": 11.575},
        {"location": {"latitude": 48.137, "longitude": 11.575}},
        {"location": {"lat": 48.137, "lon": 11.575}},
        {"location": [48.137, 11.575]},
    ],
)
def test_a_place_may_be_written_in_four_ways(metadata):
    places = coverage_of([taken(1, **metadata)]).places

    assert places.cells == ((48.13, 11.57, 1),)
    assert places.bounds == (48.137, 11.575, 48.137, 11.575)


def test_named_places_are_counted_most_first():
    places = coverage_of(
        [taken(1, location="yard"), taken(2, location="gate"), taken(3, location="gate")]
    ).places

    assert list(places.names.items()) == [("gate", 2), ("yard", 1)]
    assert (places.known, places.cells, places.bounds) == (3, (), None)


@pytest.mark.parametrize(
    "metadata",
    [
        {"latitude": 91.0, "longitude": 0.0},
        {"latitude": 0.0, "longitude": -181.0},
        {"latitude": 48.0},
        {"latitude": "48", "longitude": "11"},
        {"latitude": float("nan"), "longitude": 1.0},
        {"location": [1.0, 2.0, 3.0]},
        {"location": 5},
    ],
)
def test_what_is_no_place_is_counted_and_not_guessed(metadata):
    places = coverage_of([taken(1, **metadata)]).places

    assert (places.known, places.unreadable, places.bounds) == (0, 1, None)


@pytest.mark.parametrize(("degrees", "cell"), [(0.29, 0.29), (-0.005, -0.01), (-0.01, -0.01), (57.0, 57.0)])
def test_a_cell_is_named_by_its_south_west_corner(degrees, cell):
    assert coverage_of([taken(1, latitude=degrees, longitude=0.0)]).places.cells == ((cell, 0.0, 1),)


def test_nothing_known_is_said_as_nothing():
    coverage = coverage_of([taken(1)])

    assert (coverage.time.known, coverage.time.first, coverage.cameras, coverage.places.known) == (
        0,
        None,
        (),
        0,
    )
