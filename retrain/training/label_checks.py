"""What is wrong or odd about the labels and images that a job is given, counted over all and not only the first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from retrain.errors import BadInput, NotFound
from retrain.storage.digests import file_digest
from retrain.training.labelled_images import found_images, label_text, parse_labels
from retrain.training.packed_images import PackedImage
from retrain.training.preflight_report import Check

# Labels are written with about six digits, so that a box that touches the edge may seem to end past it.
_EDGE = 1e-4
_SHOWN = 3


@dataclass
class _Split:
    images: list[str]
    boxes: int = 0
    unlabelled: int = 0
    crossing: int = 0
    empty: int = 0
    repeated: int = 0
    classes: Counter[int] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def figures(self) -> Mapping[str, float]:
        return {
            "images": len(self.images),
            "boxes": self.boxes,
            "share without labels": round(self.unlabelled / max(len(self.images), 1), 4),
            "boxes across the edge": self.crossing,
            "boxes without area": self.empty,
            "repeated boxes": self.repeated,
            "images that cannot be used": len(self.refused),
        }


def check_labels(train: Sequence[Path], val: Path, classes: Sequence[str]) -> Check:
    """Empty splits and labels that cannot be used fail; classes that nothing shows and odd boxes are warnings."""
    splits = {"training": _read(train, len(classes)), "validation": _read([val], len(classes))}
    wrong, odd = list[str](), list[str]()
    for name, split in splits.items():
        if not split.boxes:
            wrong.append(f"none of the {len(split.images)} {name} images has a label")
        if split.refused:
            wrong.append(f"{len(split.refused)} {name} images cannot be used: {_some(split.refused)}")
        if missing := [shown for index, shown in enumerate(classes) if not split.classes[index]]:
            odd.append(f"no {name} image shows {', '.join(missing)}")
        for what in ("boxes across the edge", "boxes without area", "repeated boxes"):
            if count := int(split.figures()[what]):
                odd.append(f"{count} {what} in the {name} labels")
    figures = {
        f"{name} {what}": value for name, split in splits.items() for what, value in split.figures().items()
    }
    return Check("labels", not wrong, "; ".join(wrong) or "Labels can be used.", figures, "; ".join(odd))


def check_separation(train: Sequence[Path], val: Path) -> Check:
    """The same image in training and validation makes validation say nothing."""
    digests = {_digest(name) for name in _images(train)}
    shared = [name for name in _images([val]) if _digest(name) in digests]
    said = "No validation image is a training image."
    if shared:
        said = (
            f"{len(shared)} validation images are training images too: {_some(shared)}. Take them out of one."
        )
    return Check("separation", not shared, said, {"shared images": len(shared)})


def _images(places: Sequence[Path]) -> list[str]:
    try:
        return found_images([str(place if place.is_file() else place / "images") for place in places])
    except (BadInput, NotFound):
        return []


def _read(places: Sequence[Path], classes: int) -> _Split:
    split = _Split(_images(places))
    for name in split.images:
        text = label_text(name)
        try:
            rows = parse_labels(text, name, classes)
        except BadInput as error:
            split.refused.append(str(error))
            continue
        split.boxes += len(rows)
        split.unlabelled += not len(rows)
        split.repeated += sum(1 for line in text.splitlines() if line.strip()) - len(rows)
        split.classes.update(np.unique(rows[:, 0]).astype(int).tolist())
        centre, size = rows[:, 1:3], rows[:, 3:]
        past = ((centre - size / 2 < -_EDGE) | (centre + size / 2 > 1 + _EDGE)).any(axis=1)
        split.crossing += int(past.sum())
        split.empty += int((size <= 0).any(axis=1).sum())
    return split


def _digest(name: str) -> str:
    return name.image.digest if isinstance(name, PackedImage) else file_digest(Path(name))


def _some(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
