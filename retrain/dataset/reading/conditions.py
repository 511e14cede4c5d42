"""What one condition of a query means: a field, a sign and values become a test of an image."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from typing import Any

from retrain.dataset.measuring.coverage import camera_of, time_of
from retrain.dataset.splitter import SPLITS
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput

Test = Callable[[DatasetItem], bool]
Values = list[str]

_NUMBERS: Mapping[str, Callable[[DatasetItem], int]] = {
    "width": lambda item: item.width,
    "height": lambda item: item.height,
    "objects": lambda item: len(item.objects),
}
_TEXTS: Mapping[str, Callable[[DatasetItem], str | None]] = {
    "split": lambda item: item.split,
    "camera": lambda item: camera_of(item.metadata),
    "group": lambda item: item.group,
    "source": lambda item: item.source,
    "image": lambda item: item.image,
}
_METADATA = "metadata."
_FIELDS = (*_TEXTS, "class", *_NUMBERS, "captured_at")
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITY = ("=", "!=")
_DATE = re.compile(r"\d{4}-?\d{2}-?\d{2}")
_NAMED_CLASSES = 20


def compiled(name: str, sign: str, values: Values, classes: Sequence[str]) -> tuple[Values, Test]:
    """The values in canonical form, and the test. `retrain.dataset.reading.query.parse_query` says what they mean.

    Raises:
        BadInput: an unknown field, class or split, or a sign or value that the field is not compared by.
    """
    allowed = _signs(name)
    if sign not in allowed:
        raise BadInput(f"{name} cannot be compared by {sign!r}. Signs for {name} are {' '.join(allowed)}.")
    if sign in _ORDER and len(values) > 1:
        raise BadInput(f"{name}{sign} takes one value, got {', '.join(values)}.")
    if name in _NUMBERS:
        return _number(name, sign, values)
    if name == "captured_at":
        return _time(sign, values)
    if name == "class":
        return values, _class(sign, values, classes)
    if sign in _ORDER:
        return _metadata_number(name, sign, values[0])
    texts = [_checked_text(name, value) for value in values]
    return texts, _text(name, sign, texts)


def _signs(name: str) -> tuple[str, ...]:
    if name in _NUMBERS or name == "captured_at" or name.removeprefix(_METADATA) not in ("", name):
        return (*_EQUALITY, *_ORDER)
    if name in _FIELDS:
        return _EQUALITY
    hint = _hint(name, (*_FIELDS, "metadata.<key>"))
    raise BadInput(f"Unknown field {name!r}.{hint} Fields are {', '.join(_FIELDS)} and metadata.<key>.")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _any_or_none(
    sign: str, checks: Sequence[Callable[[Any], bool]], value_of: Callable[[DatasetItem], Any]
) -> Test:
    """Any check holds, with `!=` none does; never for an item without a value."""
    wanted, first, others = sign != "!=", checks[0], checks[1:]

    def test(item: DatasetItem) -> bool:
        value = value_of(item)
        if value is None:
            return False
        # Most conditions have one value, and a generator costs more than all the rest.
        found = first(value) or (bool(others) and any(check(value) for check in others))
        return found is wanted

    return test


def _number(name: str, sign: str, values: Values) -> tuple[Values, Test]:
    if wrong := [value for value in values if not re.fullmatch(r"[0-9]{1,18}", value)]:
        raise BadInput(f"{name} is compared with whole numbers from 0, got {wrong[0]!r}.")
    numbers = [int(value) for value in values]
    checks = [_compared(sign, number) for number in numbers]
    return [str(number) for number in numbers], _any_or_none(sign, checks, _NUMBERS[name])


def _compared(sign: str, limit: float) -> Callable[[float], bool]:
    compare: Callable[[float, float], bool] = _ORDER.get(sign, operator.eq)
    return lambda number: compare(number, limit)


def _time(sign: str, values: Values) -> tuple[Values, Test]:
    spans = [_span(value) for value in values]
    checks = [_span_check(sign, first, last) for _, first, last in spans]
    return [text for text, _, _ in spans], _any_or_none(sign, checks, _moment)


def _moment(item: DatasetItem) -> float | None:
    seconds = time_of(item.metadata)
    return None if seconds is None or math.isnan(seconds) else seconds


def _span(value: str) -> tuple[str, float, float]:
    """Canonical text, and the first and the last moment it stands for, in seconds since the epoch."""
    date = _DATE.match(value)
    try:
        # Without this check a week, as 2026-W44, would pass for its Monday.
        given = datetime.fromisoformat(value if date else "")
        moment = (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as e:
        raise BadInput(
            f"captured_at is compared with a date or time as 2026-11-01 or 2026-11-01T14:30:00+01:00, got {value!r}."
        ) from e
    first = moment.timestamp()
    if date is None or date.end() < len(value):
        return moment.isoformat(), first, first
    next_day = first + timedelta(days=1).total_seconds()
    return moment.date().isoformat(), first, math.nextafter(next_day, -math.inf)


def _span_check(sign: str, first: float, last: float) -> Callable[[float], bool]:
    if sign in _EQUALITY:
        return lambda seconds: first <= seconds <= last
    return _compared(sign, first if sign in ("<", ">=") else last)


def _class(sign: str, names: Values, classes: Sequence[str]) -> Test:
    wanted, shown = frozenset(_index(name, classes) for name in names), sign == "="
    return lambda item: wanted.isdisjoint([o.class_index for o in item.objects]) is not shown


def _index(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        more = len(classes) - _NAMED_CLASSES
        named = ", ".join(classes[:_NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")
        raise BadInput(f"Unknown class {name!r}.{_hint(name, classes)} Classes are {named}.")
    return classes.index(name)


def _checked_text(name: str, value: str) -> str:
    if name == "split" and value not in SPLITS:
        raise BadInput(f"Unknown split {value!r}. Splits are train, val and test.")
    if name == "image" and not re.fullmatch(r"[0-9a-fA-F]{1,64}", value):
        raise BadInput(f"image is compared with the first 1 to 64 hex characters of a digest, got {value!r}.")
    return value.lower() if name == "image" else value


def _text(name: str, sign: str, values: Values) -> Test:
    globs = [value + "*" for value in values] if name == "image" else values
    # Only stars and question marks are special: names and paths may hold brackets.
    matches = re.compile("|".join(translate(glob.replace("[", "[[]")) for glob in globs)).fullmatch
    if name in _TEXTS:
        return _any_or_none(sign, [lambda text: matches(text) is not None], _TEXTS[name])
    key = name.removeprefix(_METADATA)
    return _any_or_none(
        sign, [lambda texts: any(map(matches, texts))], lambda item: _as_texts(item.metadata.get(key))
    )


def _as_texts(value: Any) -> Values | None:
    """A value of the metadata as JSON writes it, a list element by element; None: nothing to compare."""
    if isinstance(value, list | tuple):
        return [text for element in value for text in _as_texts(element) or ()]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, float) and value.is_integer():
        return [str(int(value))]
    return [str(value)] if isinstance(value, str | int | float) else None


def _metadata_number(name: str, sign: str, value: str) -> tuple[Values, Test]:
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise BadInput(f"{name}{sign} is compared with a number, got {value!r}.")
    key = name.removeprefix(_METADATA)

    def number(item: DatasetItem) -> float | None:
        given = item.metadata.get(key)
        return given if isinstance(given, int | float) and not isinstance(given, bool) else None

    return [f"{limit:.17g}"], _any_or_none(sign, [_compared(sign, limit)], number)
