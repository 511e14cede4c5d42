"""A version's images as the folders a YOLO trainer reads, made once per content.

The images of all folders under one root are the same files (hard links), so the next version's folder costs what is
new in it. They are read-only: whoever edits one in place would edit it everywhere.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from retrain.boxes import xyxy_to_yolo
from retrain.dataset.dataset import ImageSource
from retrain.dataset.drafting.candidates import Progress
from retrain.dataset.repository.disk import disk_errors, link, write_durably
from retrain.dataset.repository.folder_lock import FolderLock
from retrain.dataset.version import DatasetItem, DatasetVersion, canonical_line
from retrain.errors import BadInput
from retrain.storage.digests import content_digest

_MARKER = "complete.json"
_LAYOUT = 2


def materialise(
    version: DatasetVersion,
    manager: ImageSource,
    select: str | Callable[[DatasetItem], bool] | None,
    target_root: Path,
    progress: Progress | None = None,
) -> Path:
    """A folder that Ultralytics trains on: `images/<digest>.<format>`, `labels/<digest>.txt` and `data.yaml`.

    It is named by what is in it, so equal selections of different versions share one folder, and a second call
    finds it done (also when `target_root` cannot be written). A killed call leaves no folder of that name.

    Args:
        select: a split, or which items; None takes all, in `images/<split>` and `labels/<split>`.

    Raises:
        BadInput: no item is selected.
        StorageFull: no space left; nothing of this folder is kept.
    """
    wanted = (lambda item: item.split == select) if isinstance(select, str) else select
    items = [item for item in version.items if wanted is None or wanted(item)]
    if not items:
        what = f"split {select!r}" if isinstance(select, str) else "the selection"
        raise BadInput(
            f"Version {version.name} has no image in {what}; add recordings or change the split fractions."
        )
    by_split = select is None
    target = target_root.absolute() / _content_key(items, version.classes, by_split=by_split)
    if is_complete(target):
        return target
    with FolderLock(target_root / ".lock").hold() as interrupted, disk_errors(target_root):
        if interrupted:
            for left in target_root.glob(".arriving-*"):
                shutil.rmtree(left)
        if not is_complete(target):
            _build(version, items, manager, target, by_split=by_split, progress=progress)
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


def _build(
    version: DatasetVersion,
    items: Sequence[DatasetItem],
    manager: ImageSource,
    target: Path,
    *,
    by_split: bool,
    progress: Progress | None,
) -> None:
    arriving = target.with_name(f".arriving-{target.name}")
    for old in (arriving, target):
        if old.exists():
            shutil.rmtree(old)
    try:
        folders = sorted({item.split for item in items}) if by_split else [""]
        for kind in ("images", "labels"):
            for name in folders:
                (arriving / kind / name).mkdir(parents=True)
        for done, (item, path) in enumerate(
            _shared_images(version, items, manager, arriving, target.parent), start=1
        ):
            split = item.split if by_split else ""
            link(path, arriving / "images" / split / item.file_name)
            (arriving / "labels" / split / f"{item.image}.txt").write_text(
                yolo_labels(item), encoding="ascii"
            )
            if progress is not None and (done % 1000 == 0 or done == len(items)):
                progress("laying out images", done, len(items))
        (arriving / "data.yaml").write_text(_data_yaml(version, folders), encoding="utf-8")
        files, size = _extent(arriving)
        write_durably(arriving / _MARKER, canonical_line({"files": files, "bytes": size}))
        arriving.replace(target)
    except BaseException:
        shutil.rmtree(arriving, ignore_errors=True)
        raise


def _shared_images(
    version: DatasetVersion, items: Sequence[DatasetItem], manager: ImageSource, arriving: Path, root: Path
) -> Iterator[tuple[DatasetItem, Path]]:
    """The file of each image that all folders under `root` share, written if it is not there or was damaged."""
    missing = []
    for item in items:
        path = _shared(root, item)
        if path.exists() and content_digest(path.read_bytes()) == item.image:
            yield item, path
        else:
            missing.append(item)
    for item, data in manager.images(version, missing):
        path, temporary = _shared(root, item), arriving / f".{secrets.token_hex(4)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.chmod(0o444)
        temporary.replace(path)
        yield item, path


def _shared(root: Path, item: DatasetItem) -> Path:
    return root / "objects" / item.image[:2] / item.file_name


def _data_yaml(version: DatasetVersion, folders: Sequence[str]) -> str:
    """What Ultralytics reads; without `path`, its entries are relative to the file."""
    places = (
        {name: f"images/{name}" for name in folders}
        if folders != [""]
        else dict.fromkeys(("train", "val"), "images")
    )
    return yaml.safe_dump(
        {**places, "names": dict(enumerate(version.classes))}, sort_keys=False, allow_unicode=True
    )


def _extent(folder: Path) -> tuple[int, int]:
    sizes = [
        os.stat(os.path.join(place, name)).st_size  # noqa: PTH118, PTH116 - twice as fast over 10^5 files
        for kind in ("images", "labels")
        for place, _, names in os.walk(folder / kind)
        for name in names
    ]
    return len(sizes), sum(sizes)


def _content_key(items: Sequence[DatasetItem], classes: Sequence[str], *, by_split: bool) -> str:
    content = hashlib.blake2b(f"{_LAYOUT} {json.dumps(classes)}".encode(), digest_size=16)
    for item in items:
        split = f"{item.split}/" if by_split else ""
        content.update(f"\n{split}{item.file_name} {yolo_labels(item)}".encode())
    return content.hexdigest()
