"""Exports that are there as a whole, and proven by reading them back, or not at all."""

import errno
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from retrain.dataset.formats.labelled import LabelledDataset
from retrain.dataset.repository.disk import disk_errors
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, PostConditionFailed

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


def selected(
    version: DatasetVersion, splits: Sequence[str] | None
) -> tuple[tuple[str, ...], list[DatasetItem]]:
    """The splits to export (all by default), in the version's order, and their items.

    Raises:
        BadInput: the version has no such split or no image in any of them, or a split cannot be a file's name.
    """
    names = tuple(version.splits) if splits is None else tuple(s for s in version.splits if s in set(splits))
    if unknown := sorted(set(splits or ()) - set(names)):
        raise BadInput(
            f"Version {version.name} has no split {', '.join(unknown)}. It has: {', '.join(version.splits)}."
        )
    if strange := [name for name in names if not _PLAIN_NAME.fullmatch(name)]:
        raise BadInput(f"Split {strange[0]!r} of {version.name} cannot be the name of a file; rename it.")
    items = [item for item in version.items if item.split in names]
    if not items:
        raise BadInput(f"Version {version.name} has no image in {', '.join(names) or 'any split'}.")
    return names, items


@contextmanager
def arriving(target: Path, read_back: Callable[[Path], None]) -> Iterator[Path]:
    """A folder to fill, which becomes `target` at the end of the block, after `read_back` has accepted it.

    A killed process leaves a hidden folder `.<name>.exporting-…` beside `target`, and no `target`.

    Raises:
        BadInput: `target` is there and not an empty folder, also when somebody else made it meanwhile.
    """
    target = target.absolute()
    _check_is_free(target)
    folder = target.with_name(f".{target.name}.exporting-{secrets.token_hex(4)}")
    with disk_errors(target.parent):
        folder.mkdir(parents=True)
        try:
            yield folder
            read_back(folder)
            _rename(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def check_read_back(
    dataset: LabelledDataset, version: DatasetVersion, items: Sequence[DatasetItem], tolerance_px: float
) -> None:
    """Hold what an export reads as against what was to be in it.

    Raises:
        PostConditionFailed: they differ, or a box does by more than the tolerance.
    """
    by_name = {image.path.stem: image for image in dataset.images}
    problem = "" if not dataset.problems else f"{dataset.problems[0].file}: {dataset.problems[0]}"
    if not problem and (
        dataset.classes != version.classes or by_name.keys() != {item.image for item in items}
    ):
        problem = "it has other classes or images"
    for item in items if not problem else ():
        image = by_name[item.image]
        carried = (image.split, image.group, image.source, image.metadata, image.object_ids)
        expected = (item.split, item.group, item.source, item.metadata, tuple(o.id for o in item.objects))
        boxes = np.array([o.box for o in item.objects]).reshape(-1, 4)
        classes = [o.class_index for o in item.objects]
        if carried != expected or image.annotations.classes.tolist() != classes:
            problem = f"image {item.image} reads as {carried}, not {expected}"
        elif boxes.size and np.abs(image.annotations.boxes - boxes).max() > tolerance_px:
            problem = f"image {item.image} has boxes {image.annotations.boxes.tolist()}, not {boxes.tolist()}"
    if problem:
        raise PostConditionFailed(
            f"The export of {version.name}, read back, is not the version, and was removed: {problem}."
        )


def _check_is_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise BadInput(f"{target} is there already. Export to a folder that does not exist or is empty.")


def _rename(folder: Path, target: Path) -> None:
    try:
        # Replaces an empty folder, and nothing else.
        folder.rename(target)
    except OSError as e:
        if e.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise BadInput(f"{target} was filled by somebody else meanwhile; nothing was exported.") from e
        raise
