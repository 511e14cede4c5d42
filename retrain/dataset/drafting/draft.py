"""A version in the making, as it is begun."""

import re
import secrets
from collections.abc import Mapping, Sequence

import msgspec

from retrain.dataset.splitter import DEFAULT_FRACTIONS, checked_fractions
from retrain.dataset.version import DatasetVersion, Waiver
from retrain.errors import BadInput

_LONGEST = 100_000
"""Bytes of a description; it is one argument of a Git command, of which Linux takes 131 072."""
# Also a valid Git tag and file name on every system.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.|lock$|$)){0,99}")


def _nonce() -> str:
    return secrets.token_hex(4)


class Draft(msgspec.Struct, frozen=True):
    """What `DatasetManager.create_version` returns; pass it, or its `id` or name, as `version_id`.

    Attributes:
        inherits: whether it starts from all images of the parent.
        learns_classes: whether classes that labels name are added to `classes`.
        gold: the version whose test images are its frozen gold test; its own name if it declares a new one.
        waivers: leaks that were accepted where its images come from.
        merged: the version that was merged into the parent.
        is_aside: whether nothing shall start from it unless it is named.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    parent: str | None
    parent_digest: str | None
    splits: Mapping[str, float]
    salt: str
    gold: str = ""
    inherits: bool = True
    learns_classes: bool = False
    waivers: tuple[Waiver, ...] = ()
    merged: str | None = None
    is_aside: bool = False
    nonce: str = msgspec.field(default_factory=_nonce)

    @property
    def id(self) -> str:
        return f"{self.name}@{self.nonce}"


def begin_draft(
    name: str,
    description: str,
    parent: DatasetVersion | None,
    classes: Sequence[str] | None,
    splits: Mapping[str, float] | None,
    salt: str | None,
    gold: str | None,
) -> Draft:
    """An empty draft; what is not given is the parent's (`DatasetManager.create_version` says what else).

    Raises:
        BadInput: a name, fraction or class list that cannot be used.
    """
    names = tuple(classes if classes is not None else parent.classes if parent else ())
    if (
        len(set(names)) != len(names)
        or not all(text.strip() for text in names)
        or (classes is not None and not names)
    ):
        raise BadInput(f"classes must be different names, at least one, got {list(names)}.")
    if parent and names[: len(parent.classes)] != parent.classes:
        raise BadInput(
            f"classes must begin with those of {parent.name} ({', '.join(parent.classes)}), got {list(names)}."
        )
    return Draft(
        name=check_name(name),
        description=check_text(description),
        classes=names,
        parent=parent.name if parent else None,
        parent_digest=parent.digest if parent else None,
        splits=checked_fractions(splits or (parent.splits if parent else DEFAULT_FRACTIONS)),
        salt=salt if salt is not None else parent.salt if parent else "",
        gold=gold or (parent.gold if parent and parent.gold else name),
        learns_classes=not names,
        waivers=parent.waivers if parent else (),
        is_aside=parent.is_aside if parent else False,
    )


def derived_draft(
    name: str, description: str, parent: DatasetVersion, like: DatasetVersion, *, is_aside: bool
) -> Draft:
    """An empty draft that succeeds `parent`, inherits none of its images, and follows the rules of `like`.

    Raises:
        BadInput: a name that cannot be used.
    """
    return Draft(
        name=check_name(name),
        description=check_text(description),
        classes=like.classes,
        parent=parent.name,
        parent_digest=parent.digest,
        splits=dict(like.splits),
        salt=like.salt,
        gold=like.gold or like.name,
        inherits=False,
        waivers=like.waivers,
        is_aside=is_aside,
    )


def check_text(description: str) -> str:
    """The description itself.

    Raises:
        BadInput: Git cannot keep it in a commit's message.
    """
    size = len(description.encode("utf-8", "surrogatepass"))
    if "\0" in description or size > _LONGEST or any("\ud800" <= sign <= "\udfff" for sign in description):
        raise BadInput(f"A description is text of at most {_LONGEST} bytes without NUL, got {size} bytes.")
    return description


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        BadInput: it cannot be a tag.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"A version name has up to 100 letters, digits and . _ -, like v1.2.0; got {name!r}.")
    return name
