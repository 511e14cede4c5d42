"""Names that MLflow takes for metrics, made of names that come from elsewhere, such as those of cameras."""

import hashlib
import re

_LONGEST = 250
_DIGEST = 16


def metric_name(*parts: str) -> str:
    """The parts joined by slashes; other parts give another name.

    MLflow takes letters, digits and `_ - . : /` and spaces, in the form of a relative path. Each other character
    becomes `_<hex>_`, a slash within a part too.
    """
    name = "/".join(_clean(part) for part in parts)
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST - _DIGEST - 1]}-{digest}"


def _clean(part: str) -> str:
    # As a folder, these would be no part of the path.
    if part in {"", ".", ".."}:
        return "".join(map(_code, part)) or "__"
    return re.sub(r"[^A-Za-z0-9_\-.: ]", lambda match: _code(match[0]), part)


def _code(character: str) -> str:
    return f"_{ord(character):x}_"
