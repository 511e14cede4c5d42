"""What an import gives: labelled images, and a report of everything in the files that was not as it should be."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retrain.boxes import Annotations

Loss = Literal["nothing", "box", "image"]
_LOSSES: Mapping[Loss, str] = {"nothing": "note", "box": "box left out", "image": "image left out"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in the files of an import.

    What makes an import as a whole impossible is not listed but raised as `BadInput`.

    Attributes:
        file: relative to the imported folder.
        where: the line, object or annotation in it; empty for the file as a whole.
        what: a sentence part, such as `has zero area`.
        lost: what is missing from the result because of it.
    """

    file: str
    where: str
    what: str
    lost: Loss

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what} ({_LOSSES[self.lost]})"


@dataclass(frozen=True)
class LabelledImage:
    """One image of an import, not yet decoded.

    Attributes:
        annotations: xyxy in pixels of the image as it is shown (EXIF orientation applied), inside the image, each
            box with an area. None at all is a background image.
        split: the official one; None when the files say none.
        group: None when the files say none, as all but our own exports.
        source: who labelled it, where an export of ours says so.
        object_ids: one per box in files of our own, else empty.
    """

    path: Path
    annotations: Annotations
    split: str | None = None
    group: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    object_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledDataset:
    """All that could be read. Whether its problems are acceptable is for the caller to say.

    Attributes:
        classes: names in the order of class indices.
        images: in the order of their paths.
        problems: in the order of their files.
    """

    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    problems: tuple[Problem, ...]

    @property
    def boxes(self) -> int:
        return sum(len(image.annotations) for image in self.images)

    @property
    def background(self) -> int:
        """How many images have no box."""
        return sum(not len(image.annotations) for image in self.images)

    @property
    def images_by_split(self) -> dict[str | None, int]:
        """Images per split; those without an official one are under None."""
        return dict(Counter(image.split for image in self.images))

    @property
    def losses(self) -> tuple[Problem, ...]:
        """Problems because of which a box or an image is missing."""
        return tuple(problem for problem in self.problems if problem.lost != "nothing")

    def summary(self) -> str:
        """Counts in one line."""
        splits = ", ".join(
            f"{count} {split or 'in no split'}" for split, count in self.images_by_split.items()
        )
        lost = Counter(problem.lost for problem in self.problems)
        return (
            f"{len(self.images)} images ({splits or 'none'}), {self.boxes} boxes of {len(self.classes)} classes, "
            f"{self.background} images without a box; left out: {lost['box']} boxes, {lost['image']} images; "
            f"{lost['nothing']} notes."
        )

    def report(self) -> str:
        """The summary, then every problem under the name of its file."""
        lines, current = [self.summary()], None
        for problem in self.problems:
            if problem.file != current:
                current = problem.file
                lines.append(current)
            lines.append(f"  {problem}")
        return "\n".join(lines)


def labelled_dataset(
    classes: tuple[str, ...], images: list[LabelledImage], problems: list[Problem]
) -> LabelledDataset:
    """Put both lists in their fixed order (problems of one file stay as they were found)."""
    ordered = sorted(images, key=lambda image: str(image.path))
    return LabelledDataset(classes, tuple(ordered), tuple(sorted(problems, key=lambda p: p.file)))
