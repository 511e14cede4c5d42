"""When a frame was captured, as callers may write it."""

import math
from datetime import UTC, datetime
from numbers import Real
from typing import Any

from retrain.errors import BadInput

_YEAR_10000 = 253_402_300_800.0


def capture_time(given: Any, otherwise: float) -> float:
    """Seconds since the epoch of a number of seconds, a datetime or ISO 8601 text; without a zone they are in UTC.

    Args:
        otherwise: what it is where None is given.

    Raises:
        BadInput: it is none of these, or seconds after the year 9999: they may be milliseconds.
    """
    if given is None:
        return otherwise
    seconds = math.nan
    if type(given) is float or (isinstance(given, Real) and not isinstance(given, bool)):
        try:
            seconds = float(given)
        except OverflowError:
            seconds = math.inf
    elif isinstance(given, datetime | str):
        seconds = _of_calendar(given)
    if not abs(seconds) < _YEAR_10000:
        raise BadInput(
            f"captured_at must be seconds since the epoch, a datetime or ISO 8601 text, got {given!r:.100}."
        )
    return seconds


def _of_calendar(given: datetime | str) -> float:
    """NaN for text that is no time."""
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
