"""Arguments that are easily given as something else: told at once, in words of the caller."""

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from retrain.errors import BadInput, ConfigError
from retrain.evaluation.evaluation import Evaluation


def checked_list(given: Any, what: str) -> list[Any]:
    """What was given as a list.

    Raises:
        ConfigError: it is one alone, which a text would be letter by letter, or nothing of that kind.
    """
    if isinstance(given, str | PathLike) or not isinstance(given, Iterable):
        raise ConfigError(
            f"{what} must be a list, got {given!r}; write [...] around it if there is only one."
        )
    return list(given)


def checked_path(given: Any, what: str) -> Path:
    """What was given as a path.

    Raises:
        BadInput: no text and no path, or an empty one, which would mean the current folder.
    """
    if not isinstance(given, str | PathLike) or given == "":
        raise BadInput(f"{what} must be a path, got {given!r}.")
    return Path(given)


def checked_fraction(given: Any, what: str) -> float:
    """What was given as a number in [0, 1].

    Raises:
        ConfigError: it is none.
    """
    try:
        usable = 0 <= given <= 1
    except TypeError:
        usable = False
    if not usable:
        raise ConfigError(f"{what} must be in [0, 1], got {given!r}.")
    return float(given)


def checked_device(given: Any) -> str:
    """A name of a device; whether it is there is another question.

    Raises:
        ConfigError: no such name.
    """
    if not isinstance(given, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", given):
        raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:<index>', got {given!r}.")
    return given


def checked_evaluation(given: Any) -> Evaluation:
    """An evaluation.

    Raises:
        BadInput: something else, such as the result or the file that has one in it.
    """
    if not isinstance(given, Evaluation):
        raise BadInput(
            f"An Evaluation is needed, got {type(given).__name__}; take `evaluation` of a result, or "
            "`Evaluation.load` a file."
        )
    return given
