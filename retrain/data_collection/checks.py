"""Checks of strategy settings. Each raises ConfigError that names the setting, its value and what is allowed."""

import difflib
from collections.abc import Collection, Mapping

from retrain.errors import ConfigError


def check_known(what: str, name: str, known: Collection[str]) -> None:
    """Raises: ConfigError: `name` is not one of `known`; names the nearest."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")


def check_fraction(name: str, value: float, *, zero: bool = True) -> None:
    """Raises: ConfigError: not a number in [0, 1], or in (0, 1] without `zero`."""
    if isinstance(value, int | float) and (value >= 0 if zero else value > 0) and value <= 1:
        return
    is_percent = isinstance(value, int | float) and 2 <= value <= 100
    hint = f" Did you mean {value / 100:g}?" if is_percent else ""
    raise ConfigError(f"{name} must be in {'[' if zero else '('}0, 1], got {value!r}.{hint}")


def check_interval(name: str, low: float, high: float) -> None:
    """Raises: ConfigError: not 0 <= low < high <= 1."""
    check_fraction(f"{name}_low", low)
    check_fraction(f"{name}_high", high)
    if not low < high:
        raise ConfigError(f"{name}_low must be less than {name}_high, got {low:g} and {high:g}.")


def check_count(name: str, value: int) -> None:
    """Raises: ConfigError: not a whole number from 1."""
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_per_class(name: str, values: Mapping[int, float]) -> None:
    """Raises: ConfigError: no class at all, a key that is no class index, or a value outside (0, 1]."""
    if not values:
        raise ConfigError(f"{name} is empty. Give at least one class, for example {{0: 0.5}}.")
    for label, value in values.items():
        if not isinstance(label, int) or label < 0:
            raise ConfigError(f"{name} needs class indices from 0 as keys, got {label!r}.")
        check_fraction(f"{name}[{label}]", value, zero=False)
