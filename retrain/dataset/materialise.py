"""A version's images as the folders a YOLO trainer reads, made once per content."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from retrain.boxes import xyxy_to_yolo
from retrain.dataset.disk import disk_errors, write_durably
from retrain.dataset.folder_lock import FolderLock
from retrain.dataset.version import DatasetItem, DatasetVersion, canonical_line
from retrain.errors import BadInput

_MARKER = "complete.json"
_LAYOUT = 1


class ImageSource(Protocol):
    """Gives the bytes of items; `DatasetManager` is one."""

    def images(
        self, version: DatasetVersion, items: Iterable[DatasetItem]
    ) -> Iterator[tuple[DatasetItem, bytes]]: ...


def materialise(
    version: DatasetVersion,
    manager: ImageSource,
    select: str | Callable[[DatasetItem], bool],
    target_root: Path,
) -> Path:
    """A folder with `images/<digest>.<format>` and `labels/<digest>.txt` of some items of a version.

    It is named by what is in it, so equal selections of different versions share one folder, and a second call
    finds it done (also when `target_root` cannot be written). A killed call leaves no folder of that name.

    Args:
        select: a split, or which items.

    Raises:
        BadInput: no item is selected.
        StorageFull: no space left; nothing of this folder is kept.
    """
    wanted = (lambda item: item.split == select) if isinstance(select, str) else select
    items = [item for item in version.items if wanted(item)]
    if not items:
        what = f"split {select!r}" if isinstance(select, str) else "the selection"
        raise BadInput(
            f"Version {version.name} has no image in {what}; add recordings or change the split fractions."
        )
    target = target_root.absolute() / _content_key(items)
    if is_complete(target):
        return target
    with FolderLock(target_root / ".lock").hold() as interrupted, disk_errors(target_root):
        if interrupted:
            for left in target_root.glob(".arriving-*"):
                shutil.rmtree(left)
        if not is_complete(target):
            _build(version, items, manager, target)
    return target


def yolo_labels(item: DatasetItem) -> str:
    """YOLO text: one line per object, class and centre-size as fractions of the image."""
    rows = xyxy_to_yolo(item.annotations.boxes, item.width, item.height).tolist()
    classes = (o.class_index for o in item.objects)
    # Ten decimals are below 1e-5 px on any image.
    return "".join(
        f"{c} {' '.join(f'{v:.10f}' for v in row)}\n" for c, row in zip(classes, rows, strict=True)
    )


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and the files still add up to it (a power cut can empty them)."""
    try:
        marker = json.loads((folder / _MARKER).read_bytes())
        return (marker["files"], marker["bytes"]) == _extent(folder)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _build(version: DatasetVersion, items: Sequence[DatasetItem], manager: ImageSource, target: Path) -> None:
    arriving = target.with_name(f".arriving-{target.name}")
    for old in (arriving, target):
        if old.exists():
            shutil.rmtree(old)
    try:
        (arriving / "images").mkdir(parents=True)
        (arriving / "labels").mkdir()
        for item, data in manager.images(version, items):
            (arriving / "images" / item.file_name).write_bytes(data)
            (arriving / "labels" / f"{item.image}.txt").write_text(yolo_labels(item), encoding="ascii")
        files, size = _extent(arriving)
        write_durably(arriving / _MARKER, canonical_line({"files": files, "bytes": size}))
        arriving.replace(target)
    except BaseException:
        shutil.rmtree(arriving, ignore_errors=True)
        raise


def _extent(folder: Path) -> tuple[int, int]:
    sizes = [entry.stat().st_size for name in ("images", "labels") for entry in os.scandir(folder / name)]
    return len(sizes), sum(sizes)


def _content_key(items: Sequence[DatasetItem]) -> str:
    content = hashlib.blake2b(str(_LAYOUT).encode(), digest_size=16)
    for item in items:
        content.update(f"\n{item.file_name} {yolo_labels(item)}".encode())
    return content.hexdigest()
