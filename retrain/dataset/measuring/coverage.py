"""When and where the images of a version were taken, as far as their metadata says."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from retrain.dataset.version import DatasetItem

TIME_KEYS = ("captured_at", "date_captured")
"""What our collection writes, and what COCO files do."""
CAMERA_KEYS = ("camera", "camera_id")
_YEAR_10000 = 253_402_300_800.0
_LONGEST_GAPS = 5


@dataclass(frozen=True)
class Gap:
    """Consecutive days without an image; both are days without one."""

    first: str
    last: str
    days: int


@dataclass(frozen=True)
class TimeCoverage:
    """Times are UTC; a time without a zone counts as UTC.

    Attributes:
        known: images whose time is known.
        unreadable: images that have a time nobody can read, as milliseconds or free text.
        first, last: ISO 8601; None when nothing is known.
        by_day: ISO date → images, in order, days without one left out.
        by_hour: of the day, 24 counts.
        gaps: the longest ones between first and last, longest first.
    """

    known: int
    unreadable: int
    first: str | None
    last: str | None
    by_day: Mapping[str, int]
    by_hour: tuple[int, ...]
    days_without: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class CameraCoverage:
    """One camera; `first` and `last` as in `TimeCoverage`."""

    name: str
    images: int
    objects: int
    images_by_split: Mapping[str, int]
    first: str | None
    last: str | None


@dataclass(frozen=True)
class PlaceCoverage:
    """Attributes:
    known: images with a named or measured place.
    unreadable: images with a place that is none, as a latitude of 200.
    names: place → images, most first.
    cells: (latitude, longitude, images) by cells of 0.01 degrees (about 1.1 km north to south), named by their
        south-west corner, most images first.
    bounds: south, west, north, east in degrees; None without coordinates. A dataset across the 180th meridian
        spans the long way round.
    """

    known: int
    unreadable: int
    names: Mapping[str, int]
    cells: tuple[tuple[float, float, int], ...]
    bounds: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Coverage:
    """Attributes:
    cameras: most images first.
    without_camera: images that do not say which.
    """

    time: TimeCoverage
    cameras: tuple[CameraCoverage, ...]
    without_camera: int
    places: PlaceCoverage


def coverage_of(items: Sequence[DatasetItem]) -> Coverage:
    """Read the metadata of every image once."""
    times = [time_of(item.metadata) for item in items]
    owned: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if (camera := camera_of(item.metadata)) is not None:
            owned.setdefault(camera, []).append(index)
    cameras = [_camera(name, [(items[i], times[i]) for i in own]) for name, own in owned.items()]
    return Coverage(
        time=_time_coverage(times),
        cameras=tuple(sorted(cameras, key=lambda one: (-one.images, one.name))),
        without_camera=len(items) - sum(map(len, owned.values())),
        places=_place_coverage(items),
    )


def camera_of(metadata: Mapping[str, Any]) -> str | None:
    """The camera an image's metadata names, as text."""
    found = next((metadata[key] for key in CAMERA_KEYS if metadata.get(key) not in (None, "")), None)
    return None if found is None else str(found)


def time_of(metadata: Mapping[str, Any]) -> float | None:
    """Seconds since the epoch; None when the metadata says nothing, NaN when what it says is no time.

    Accepts seconds and ISO 8601 text, as the collection does, and COCO's `date_captured`.
    """
    given = next((metadata[key] for key in TIME_KEYS if metadata.get(key) not in (None, "")), None)
    if given is None:
        return None
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given.strip().replace("/", "-"))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return math.nan
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if is_number and abs(given) < _YEAR_10000 else math.nan


def _time_coverage(times: Sequence[float | None]) -> TimeCoverage:
    known = _readable(times)
    moments = [_moment(second) for second in known]
    by_day = Counter(moment.date() for moment in moments)
    hours = Counter(moment.hour for moment in moments)
    days = sorted(by_day)
    gaps = [_gap(one, other) for one, other in pairwise(days) if (other - one).days > 1]
    return TimeCoverage(
        known=len(known),
        unreadable=sum(one is not None and math.isnan(one) for one in times),
        first=_iso(min(known, default=None)),
        last=_iso(max(known, default=None)),
        by_day={day.isoformat(): by_day[day] for day in days},
        by_hour=tuple(hours[hour] for hour in range(24)),
        days_without=sum(gap.days for gap in gaps),
        gaps=tuple(sorted(gaps, key=lambda gap: (-gap.days, gap.first))[:_LONGEST_GAPS]),
    )


def _gap(day: date, next_day: date) -> Gap:
    one = timedelta(days=1)
    return Gap((day + one).isoformat(), (next_day - one).isoformat(), (next_day - day).days - 1)


def _camera(name: str, own: Sequence[tuple[DatasetItem, float | None]]) -> CameraCoverage:
    known = _readable([second for _, second in own])
    return CameraCoverage(
        name=name,
        images=len(own),
        objects=sum(len(item.objects) for item, _ in own),
        images_by_split=dict(sorted(Counter(item.split for item, _ in own).items())),
        first=_iso(min(known, default=None)),
        last=_iso(max(known, default=None)),
    )


def _place_coverage(items: Sequence[DatasetItem]) -> PlaceCoverage:
    names: Counter[str] = Counter()
    points: list[tuple[float, float]] = []
    known = unreadable = 0
    for item in items:
        name, given = _place(item.metadata)
        point = None if given is None else _point(*given)
        if name is not None:
            names[name] += 1
        if point is not None:
            points.append(point)
        known += name is not None or point is not None
        unreadable += given is not None and point is None
    latitudes, longitudes = [p[0] for p in points], [p[1] for p in points]
    cells = Counter((_cell(latitude), _cell(longitude)) for latitude, longitude in points)
    return PlaceCoverage(
        known=known,
        unreadable=unreadable,
        names=dict(sorted(names.items(), key=lambda one: (-one[1], one[0]))),
        cells=tuple((*cell, n) for cell, n in sorted(cells.items(), key=lambda one: (-one[1], one[0]))),
        bounds=(min(latitudes), min(longitudes), max(latitudes), max(longitudes)) if points else None,
    )


def _place(metadata: Mapping[str, Any]) -> tuple[str | None, tuple[Any, Any] | None]:
    """A name, and latitude and longitude as given; either may be missing.

    `location` may be a name, a pair, or a mapping of latitude and longitude.
    """
    location = metadata.get("location")
    name = location.strip() or None if isinstance(location, str) else None
    for holder in (metadata, location):
        if isinstance(holder, Mapping):
            for keys in (("latitude", "longitude"), ("lat", "lon"), ("lat", "lng")):
                if any(holder.get(key) is not None for key in keys):
                    return name, (holder.get(keys[0]), holder.get(keys[1]))
    if location is None or isinstance(location, str):
        return name, None
    is_pair = isinstance(location, list | tuple) and len(location) == 2
    return name, (location[0], location[1]) if is_pair else (None, None)


def _point(latitude: Any, longitude: Any) -> tuple[float, float] | None:
    for given, limit in ((latitude, 90), (longitude, 180)):
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        if not is_number or not -limit <= given <= limit:
            return None
    return float(latitude), float(longitude)


def _cell(degrees: float) -> float:
    # 0.29 * 100 is 28.999999999999996: rounding first keeps a corner in its own cell.
    return math.floor(round(degrees * 100, 6)) / 100


def _readable(times: Sequence[float | None]) -> list[float]:
    return [one for one in times if one is not None and not math.isnan(one)]


def _moment(second: float) -> datetime:
    # fromtimestamp refuses times before 1970 on some systems.
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def _iso(second: float | None) -> str | None:
    return None if second is None else _moment(second).isoformat(timespec="seconds")
