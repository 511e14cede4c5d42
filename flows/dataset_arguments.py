"""What people type for fractions, class lists and class maps, and what it means."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from retrain.errors import BadInput

_SPLITS = ("train", "val", "test")


def read_fractions(text: str | None) -> dict[str, float] | None:
    """`0.7,0.2,0.1` in the order train, val, test.

    Raises:
        BadInput: it is not three numbers.
    """
    if text is None:
        return None
    parts = text.split(",")
    try:
        return dict(zip(_SPLITS, map(float, parts), strict=True))
    except ValueError as e:
        raise BadInput(
            f"--splits must be three numbers for train, val and test such as 0.7,0.2,0.1, got {text!r}."
        ) from e


def read_classes(text: str | None) -> tuple[str, ...] | None:
    """`car,truck`; spaces around names do not count."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def read_class_map(texts: Sequence[str]) -> dict[str, str | None] | None:
    """Class of the second version → class of the merged one, None to drop it; None when nothing was said.

    Args:
        texts: each `from=to`, `from=` to drop, or a YAML file with such a mapping (null to drop).

    Raises:
        BadInput: a file that holds something else.
    """
    found: dict[str, str | None] = {}
    for text in texts:
        name, sign, target = text.partition("=")
        found |= {name.strip(): target.strip() or None} if sign else _map_in(Path(text))
    return found or None


def _map_in(file: Path) -> dict[str, str | None]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BadInput(
            f"--class-map must be from=to or a YAML file, got {str(file)!r}, which is neither."
        ) from e
    except (UnicodeDecodeError, yaml.YAMLError) as e:
        raise BadInput(f"{file} is not YAML: {' '.join(str(e).split())}") from e
    is_map = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(target, str | None) for name, target in content.items()
    )
    if not is_map:
        raise BadInput(
            f"{file} must map class names to class names, or to null to drop them, got {content!r}."
        )
    return dict(content)
