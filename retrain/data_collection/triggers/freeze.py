"""Times at which nobody wants a retraining to start, such as a weekend without anyone to watch a rollout."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from retrain.errors import ConfigError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEK = 7 * 24 * 60
# Near the ends of the calendar, time zones and neighbouring weeks fall off it.
_FIRST_YEAR, _LAST_YEAR = 1970, 2999
_CLOCK = r"([A-Za-z]{3})\s+(\d\d?):(\d\d)"
_WEEKLY = re.compile(rf"{_CLOCK}\s*-\s*{_CLOCK}")


@dataclass(frozen=True)
class _Weekly:
    """From one minute of the local week to another, perhaps over Sunday night."""

    start: int
    length: int

    def around(self, moment: float, zone: ZoneInfo) -> Iterator[tuple[float, float]]:
        today = datetime.fromtimestamp(moment, zone).date()
        for weeks in (-1, 0, 1):
            monday = today - timedelta(days=today.weekday() - 7 * weeks)
            first, _ = _readings(monday, self.start, zone)
            _, last = _readings(monday, self.start + self.length, zone)
            yield first, last


@dataclass(frozen=True)
class _Dated:
    start: float
    end: float

    def around(self, _moment: float, _zone: ZoneInfo) -> Iterator[tuple[float, float]]:
        yield self.start, self.end


@dataclass(frozen=True)
class FreezeCalendar:
    """Weekly and dated freezes in one time zone; each holds from its start until just before its end.

    A local time that a change of the clocks makes happen twice, or not at all, is read so that the freeze is the
    longer one: at most an hour too long, never too short.

    Args:
        windows: "Fri 18:00 - Mon 06:00" for every week, or an ISO 8601 interval such as
            "2026-12-24T12:00/2027-01-02" for once, in the years 1970 to 2999; times without an offset are local.
        timezone: an IANA name such as Europe/Berlin.

    Raises:
        ConfigError: a window or the time zone cannot be read, or the weekly windows leave no minute of the week.
    """

    windows: tuple[str, ...] = ()
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        covered: set[int] = set()
        for window in self._parsed:
            if isinstance(window, _Weekly):
                covered |= {(window.start + minute) % _WEEK for minute in range(window.length)}
        if len(covered) == _WEEK:
            raise ConfigError(
                f"The freezes {', '.join(self.windows)} cover the whole week, so nothing could ever cross; "
                "leave a gap, or freeze between two dates."
            )

    def until(self, moment: float) -> float | None:
        """When the freeze at `moment` (seconds since the epoch) ends, those that follow at once included."""
        opens = self.next_open(moment)
        return None if opens == moment else opens

    def next_open(self, moment: float) -> float:
        """The first time from `moment` on that no freeze covers."""
        while ends := [end for start, end in self._around(moment) if start <= moment < end]:
            moment = max(ends)
        return moment

    def local(self, moment: float) -> str:
        """The moment as a clock in this time zone shows it."""
        return f"{datetime.fromtimestamp(moment, self._zone):%Y-%m-%d %H:%M:%S %Z}"

    @cached_property
    def _zone(self) -> ZoneInfo:
        return _zone(self.timezone)

    @cached_property
    def _parsed(self) -> tuple[_Weekly | _Dated, ...]:
        zone = self._zone
        return tuple(_parse(text, zone) for text in self.windows)

    def _around(self, moment: float) -> Iterator[tuple[float, float]]:
        for window in self._parsed:
            yield from window.around(moment, self._zone)


def _parse(text: str, zone: ZoneInfo) -> _Weekly | _Dated:
    if (weekly := _WEEKLY.fullmatch(text.strip())) is not None:
        start, end = _minute(text, *weekly.groups()[:3]), _minute(text, *weekly.groups()[3:])
        if start == end:
            raise ConfigError(f"The freeze {text!r} ends the minute it starts.")
        return _Weekly(start, (end - start) % _WEEK)
    try:
        first, last = (datetime.fromisoformat(part.strip()) for part in text.split("/"))
    except ValueError as error:
        raise ConfigError(
            f"The freeze {text!r} cannot be read; write 'Fri 18:00 - Mon 06:00' for every week, or "
            "'2026-12-24T12:00/2027-01-02' for once."
        ) from error
    if not _FIRST_YEAR <= first.year <= last.year <= _LAST_YEAR:
        raise ConfigError(
            f"The freeze {text!r} must lie in the years {_FIRST_YEAR} to {_LAST_YEAR}, its start before its end."
        )
    dated = _Dated(min(_instants(first, zone)), max(_instants(last, zone)))
    if dated.end <= dated.start:
        raise ConfigError(f"The freeze {text!r} must end after it starts.")
    return dated


def _minute(text: str, day: str, hour: str, minute: str) -> int:
    if day.lower() not in _DAYS or int(hour) > 23 or int(minute) > 59:
        raise ConfigError(
            f"The freeze {text!r} names no time of the week: days are Mon … Sun, hours 00:00 to 23:59."
        )
    return (_DAYS.index(day.lower()) * 24 + int(hour)) * 60 + int(minute)


def _readings(monday: date, minute: int, zone: ZoneInfo) -> tuple[float, float]:
    """The earliest and the latest instant that a minute of a local week can mean."""
    moments = _instants(datetime.combine(monday, time()) + timedelta(minutes=minute), zone)
    return min(moments), max(moments)


def _instants(moment: datetime, zone: ZoneInfo) -> list[float]:
    """What a time can mean: one with an offset says it, a local one may happen twice or lie in a gap."""
    local = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return [local.replace(fold=fold).timestamp() for fold in (0, 1)]


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    # A name with a folder's or a damaged file's path fails in its own way.
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        close = difflib.get_close_matches(str(name), available_timezones(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"Unknown time zone {name!r}.{hint} Names are those of the IANA database, such as Europe/Berlin."
        ) from error
