"""Numbers and findings in words, the same on the page, in Markdown and in the terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from retrain.dataset.comparing.diff import DatasetDiff

NOT_KNOWN = "not known"
MINUS = "\u2212"


@dataclass(frozen=True)
class Finding:
    """Something a reviewer decides about: `bad` should stop a version unless meant, `plain` is only said."""

    level: Literal["bad", "warn", "plain"]
    text: str


def count(value: int) -> str:
    """With thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def counted(value: int, noun: str) -> str:
    """E.g. "no images", "1 image", "12 images"."""
    return f"{count(value) if value else 'no'} {noun}{'' if value == 1 else 's'}"


def change(value: int) -> str:
    """With its sign, or ±0."""
    return "±0" if value == 0 else f"{'+' if value > 0 else MINUS}{count(abs(value))}"


def percent(part: float, whole: float) -> str:
    """Share of a whole; of nothing it is not known."""
    if not whole:
        return NOT_KNOWN
    share = 100 * part / whole
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return NOT_KNOWN
    return count(round(value)) if abs(value) >= 1000 else f"{value:.3g}"


def shortened(text: str, most: int) -> str:
    """At most so many characters, of which the last says that some are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def listed(names: tuple[str, ...], most: int = 5) -> str:
    """Names in a sentence; of many only the first ones."""
    said = ", ".join(shortened(name, 60) for name in names[:most])
    return said if len(names) <= most else f"{said} and {count(len(names) - most)} more"


def summary(diff: DatasetDiff) -> str:
    """What the change amounts to, in two or three sentences."""
    images = [sum(pair[side] for pair in diff.images_by_source.values()) for side in (0, 1)]
    sizes = f"{counted(images[1], 'image')}, {_more(images[1] - images[0])} {diff.before}"
    said = [f"{diff.after} has {sizes}: {count(len(diff.added))} added, {count(len(diff.removed))} removed."]
    if diff.relabelled:
        kinds = ", ".join(f"{count(n)} {kind}" for kind, n in diff.objects_by_change().items())
        verb = "was" if len(diff.relabelled) == 1 else "were"
        said.append(f"{counted(len(diff.relabelled), 'image')} {verb} relabelled (objects: {kinds}).")
    else:
        said.append("No image was relabelled.")
    if not diff.moved:
        said.append("Every image that was kept is in the split it was in.")
    return " ".join(said)


def findings(diff: DatasetDiff) -> list[Finding]:
    """What a reviewer must not overlook, worst first."""
    found = [*_split_findings(diff), *_class_findings(diff), *_test_findings(diff), *_camera_findings(diff)]
    if diff.waivers_added:
        leaks = f"{counted(len(diff.waivers_added), 'leak')} between splits"
        found.append(Finding("warn", f"{leaks} accepted by a new waiver; see the leak report."))
    if diff.waivers_removed:
        found.append(
            Finding(
                "plain", f"{counted(len(diff.waivers_removed), 'waiver')} of {diff.before} no longer apply."
            )
        )
    return sorted(found, key=lambda one: ("bad", "warn", "plain").index(one.level))


def _split_findings(diff: DatasetDiff) -> list[Finding]:
    found = []
    for old, new, images in diff.moves:
        text = f"{counted(images, 'image')} moved from {old} to {new}"
        risk = f": a model trained on {diff.before} may have learnt from what it is now measured on"
        leaks = not old.startswith("test") and new != "train"
        found.append(Finding("bad" if leaks else "warn", f"{text}{risk * leaks}."))
    if {"salt", "splits"} & diff.header.keys():
        found.append(Finding("warn", "The rule that splits new images was changed."))
    return found


def _class_findings(diff: DatasetDiff) -> list[Finding]:
    found = []
    if diff.classes_removed:
        found.append(Finding("bad", f"Classes removed: {listed(diff.classes_removed)}."))
    if diff.are_classes_renumbered:
        text = "Classes were renumbered: models trained before read the new labels wrongly."
        found.append(Finding("bad", text))
    if diff.classes_added:
        found.append(
            Finding("warn", f"Classes added: {listed(diff.classes_added)}; older images may lack them.")
        )
    gone = tuple(name for name, (old, new) in diff.objects_by_class.items() if old and not new)
    if gone := tuple(name for name in gone if name not in diff.classes_removed):
        found.append(Finding("bad", f"No object is left of: {listed(gone)}."))
    return found


def _test_findings(diff: DatasetDiff) -> list[Finding]:
    found = []
    for split, changes in diff.changes_by_split.items():
        changed = {"removed from": changes.removed, "relabelled in": changes.relabelled}
        said = [f"{counted(n, 'image')} {what} {split}" for what, n in changed.items() if n]
        if split.startswith("test") and said:
            text = f"{' and '.join(said)}: scores on {diff.before} and {diff.after} do not compare."
            found.append(Finding("warn", text))
    return found


def _camera_findings(diff: DatasetDiff) -> list[Finding]:
    cameras: Mapping[str, tuple[int, int]] = diff.images_by_camera
    gone = tuple(name for name, (old, new) in cameras.items() if old and not new)
    come = tuple(name for name, (old, new) in cameras.items() if new and not old)
    found = [Finding("warn", f"Cameras no longer covered: {listed(gone)}.")] if gone else []
    return [*found, *([Finding("plain", f"Cameras new in the dataset: {listed(come)}.")] if come else [])]


def _more(difference: int) -> str:
    if difference == 0:
        return "as many as"
    return f"{count(abs(difference))} {'more' if difference > 0 else 'fewer'} than"
