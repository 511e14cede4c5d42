"""`--group-by`: which images of an import a split must not tear apart."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from retrain.dataset.formats.labelled import LabelledImage
from retrain.dataset.measuring.coverage import camera_of
from retrain.errors import BadInput

_REGEX = "file-regex="
_SHOWN = 5

GroupOf = Callable[[LabelledImage], str | None]


def groups_by(rule: str | None, images: Sequence[LabelledImage], root: Path) -> list[str | None]:
    """The group of each image; None where it is by itself.

    Args:
        rule: `image`, `folder`, `camera` or `file-regex=…`; None takes what the files say.
        root: the imported folder; groups by folder are named by their path in it.

    Raises:
        BadInput: another rule, or images for which it gives no group; the first are named.
    """
    if rule == "image":
        return [None] * len(images)
    group_of = _group_of(rule, root)
    groups = [group_of(image) for image in images]
    if rule is not None and (without := [i for i, group in zip(images, groups, strict=True) if not group]):
        shown = ", ".join(image.path.name for image in without[:_SHOWN])
        more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
        raise BadInput(f"--group-by {rule} says nothing of {len(without)} images: {shown}{more}.")
    return groups


def _group_of(rule: str | None, root: Path) -> GroupOf:
    if rule is None:
        return lambda image: image.group
    if rule == "folder":
        # Images are where links lead to, so the root must be, too.
        top = root.resolve()
        return lambda image: image.path.parent.relative_to(top).as_posix()
    if rule == "camera":
        return lambda image: camera_of(image.metadata)
    if rule.startswith(_REGEX):
        return _by_file_name(rule.removeprefix(_REGEX))
    raise BadInput(f"--group-by must be image, folder, camera or file-regex=…, got {rule!r}.")


def _by_file_name(text: str) -> GroupOf:
    try:
        pattern = re.compile(text)
    except re.error as e:
        raise BadInput(f"--group-by has a regular expression that cannot be read, {text!r}: {e}.") from e

    def group_of(image: LabelledImage) -> str | None:
        if (found := pattern.search(image.path.name)) is None:
            return None
        return found[1] if pattern.groups else found[0]

    return group_of
