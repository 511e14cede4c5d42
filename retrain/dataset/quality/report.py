"""What a look at a dataset's labels found, and how it is told."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from retrain.errors import ConfigError

Severity = Literal["error", "warning", "info"]
"""error: training or evaluation goes wrong; warning: most likely a mistake; info: worth knowing."""

SEVERITY: Mapping[str, Severity] = {
    "missing-image": "error",
    "not-finite": "error",
    "zero-area": "error",
    "out-of-bounds": "error",
    "unknown-class": "error",
    "duplicate-box": "warning",
    "two-classes": "warning",
    "tiny-box": "warning",
    "implausible-size": "warning",
    "implausible-aspect": "warning",
    "covers-image": "warning",
    "class-name-mismatch": "warning",
    "class-unused": "warning",
    "class-in-one-split": "warning",
    "no-objects": "info",
    "single-image-group": "info",
}
"""Every kind of issue, in the order of a report."""
_PLACE = {kind: place for place, kind in enumerate(SEVERITY)}


@dataclass(frozen=True)
class QualityLimits:
    """From where on something is called implausible.

    Attributes:
        duplicate_iou: overlap in (0, 1] from which two boxes of one image are the same box.
        min_side_px: a side below this is tiny.
        size_z: robust standard deviations of log area, as a share of the image's, from the median of the class.
            Smaller ones at the border are let through: their object may be cut off.
        aspect_z: likewise of log (width / height); boxes at the border are let through.
        max_aspect: longer side through shorter side, whatever the class.
        min_class_boxes: classes with fewer boxes have no distribution to compare with.
        image_share: share of the image's area from which a box covers it.
        name_similarity: of two class names, in [0, 1], after case, spaces and plural are levelled.

    Raises:
        ConfigError: a value out of range.
    """

    duplicate_iou: float = 0.9
    min_side_px: float = 2.0
    size_z: float = 5.0
    aspect_z: float = 6.0
    max_aspect: float = 20.0
    min_class_boxes: int = 20
    image_share: float = 0.95
    name_similarity: float = 0.85

    def __post_init__(self) -> None:
        for name in ("duplicate_iou", "image_share", "name_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in (0, 1], got {getattr(self, name)}.")
        for name, least in (("min_side_px", 0), ("size_z", 0), ("aspect_z", 0), ("max_aspect", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.min_class_boxes < 2:
            raise ConfigError(f"min_class_boxes must be at least 2, got {self.min_class_boxes}.")


class Issue(msgspec.Struct, frozen=True, gc=False):
    """One thing to look at.

    Attributes:
        kind: a key of `SEVERITY`.
        image: digest; empty when it concerns the dataset as a whole.
        objects: ids of the objects concerned, in the image's order.
        message: a sentence for a person.
        value: the measured number behind it (IoU, z, share, side in px, …).
    """

    kind: str
    severity: Severity
    image: str
    objects: tuple[str, ...]
    message: str
    value: float | None = None

    @classmethod
    def of(
        cls,
        kind: str,
        message: str,
        image: str = "",
        objects: tuple[str, ...] = (),
        value: float | None = None,
    ) -> "Issue":
        return cls(kind, SEVERITY[kind], image, objects, message, value)


@dataclass(frozen=True)
class QualityReport:
    """Every issue of a dataset, ordered by kind (as in `SEVERITY`), image and objects.

    Attributes:
        images, objects: how many were looked at.
    """

    images: int
    objects: int
    issues: tuple[Issue, ...]

    @classmethod
    def of(cls, images: int, objects: int, issues: Iterable[Issue]) -> "QualityReport":
        return cls(images, objects, tuple(sorted(issues, key=_order)))

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Issues by kind, worst first; kinds without any are left out."""
        return dict(Counter(issue.kind for issue in self.issues))

    @cached_property
    def counts_by_severity(self) -> Mapping[str, int]:
        found = Counter(issue.severity for issue in self.issues)
        return {severity: found[severity] for severity in ("error", "warning", "info")}

    def of_kind(self, kind: str) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.kind == kind)

    def to_text(self, examples: int = 3) -> str:
        """For a terminal: the counts, and the first few issues of each kind."""
        total = ", ".join(f"{n} {severity}" for severity, n in self.counts_by_severity.items())
        lines = [f"{self.images} images, {self.objects} objects: {total}"]
        for kind, count in self.counts.items():
            lines.append(f"{SEVERITY[kind]:<8}{kind:<20}{count:>8}")
            shown = self.of_kind(kind)[:examples]
            lines += [f"    {issue.image[:12] or 'dataset'}: {issue.message}" for issue in shown]
            if count > len(shown):
                lines.append(f"    and {count - len(shown)} more")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return {
            "images": self.images,
            "objects": self.objects,
            "counts": dict(self.counts),
            "counts_by_severity": dict(self.counts_by_severity),
            "issues": msgspec.to_builtins(self.issues),
        }


def _order(issue: Issue) -> tuple[int, str, tuple[str, ...], str]:
    return _PLACE[issue.kind], issue.image, issue.objects, issue.message
