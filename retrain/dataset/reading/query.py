"""A small language that says which images of a version are meant: `split=train class=car,truck width>=640`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from retrain.dataset.reading.conditions import Test, compiled
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput

_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s,"']+)"""
_CONDITION = re.compile(
    rf"\s*(?P<field>[^\W\d][\w.-]*)\s*(?P<sign>[=!<>~]+)\s*(?P<values>{_VALUE}(?:\s*,\s*{_VALUE})*)(?=\s|$)"
)
_PLAIN = re.compile(r"""[^\s,"'=!<>~]+""")


@dataclass(frozen=True)
class Query:
    """Says of an image whether it is meant. Queries with equal text mean the same for the same classes.

    Attributes:
        text: the conditions in canonical form, in a fixed order; `parse_query` reads it back.
    """

    text: str
    _tests: tuple[Test, ...] = field(repr=False, compare=False)

    def __call__(self, item: DatasetItem) -> bool:
        for test in self._tests:  # noqa: SIM110 - this is called for each of a million images, and all() is slower
            if not test(item):
                return False
        return True


def parse_query(conditions: str | Sequence[str], classes: Sequence[str]) -> Query:
    """Read conditions, which an image must fulfil all of.

    A condition is a field, a sign and a value; conditions are separated by spaces. A value with a space, a comma or
    a quote in it is put in quotes. With `=` several values, separated by commas, mean any of them, with `!=` none.

    - `split`: train, val or test. `image`: how the digest begins.
    - `class`: the image shows such an object; `class!=car`: it shows none (an image without objects, too).
    - `camera`, `group`, `source`, `metadata.<key>`: text, where `*` stands for any characters and `?` for one.
      Metadata compare as JSON writes them (`true`, `3`, `0.5`); of a list, any element; by `<`, `<=`, `>` and `>=`
      as numbers.
    - `width`, `height`: pixels; `objects`: their number. Whole numbers, with every sign.
    - `captured_at`: ISO 8601, in UTC unless it names a zone, with every sign. A date stands for its whole day:
      `<=2026-11-01` includes that day, `>2026-11-01` begins on the next.

    An image whose metadata lack the key, or hold something that does not compare, is never meant, not by `!=`
    either: nothing is known of it. Its camera and time are those its statistics show.

    Args:
        conditions: one text, or several that hold one or more conditions each.
        classes: names, in the order of their indices.

    Raises:
        BadInput: no condition, one that cannot be read, or an unknown field, class, split, sign or value.
    """
    texts = [conditions] if isinstance(conditions, str) else conditions
    tests: dict[str, Test] = {}
    for name, sign, values in (condition for text in texts for condition in _conditions(text)):
        canonical, test = compiled(name, sign, values, classes)
        tests[f"{name}{sign}{','.join(sorted(set(map(_quoted, canonical))))}"] = test
    if not tests:
        raise BadInput("A query needs at least one condition, for example split=train.")
    return Query(" ".join(sorted(tests)), tuple(tests.values()))


def _conditions(text: str) -> list[tuple[str, str, list[str]]]:
    """Field, sign and values of each."""
    found, position, text = [], 0, text.rstrip()
    while position < len(text):
        match = _CONDITION.match(text, position)
        if match is None:
            raise BadInput(
                f"Cannot read {text[position:].strip()!r}. Write conditions as field, sign and value, separated by "
                'spaces, and values with spaces in quotes: split=train class="traffic light" width>=640.'
            )
        values = [v[1:-1] if v[0] in "\"'" else v for v in re.findall(_VALUE, match["values"])]
        found.append((match["field"], match["sign"], values))
        position = match.end()
    return found


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'
