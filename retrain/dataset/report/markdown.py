"""A dataset change as Markdown, for a Prefect artifact or a pull request."""

from retrain.dataset.comparing.diff import Counts, DatasetDiff
from retrain.dataset.report.wording import change, count, findings, shortened, summary
from retrain.dataset.version import Waiver

MOST_ROWS = 25
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>#!|~&"} | {"\n": " ", "\r": " "})


def diff_markdown(diff: DatasetDiff) -> str:
    """Summary, findings and tables; names from outside cannot become markup.

    Long tables are cut after `MOST_ROWS` rows, those that changed most first.
    """
    parts = [f"# {_plain(diff.before)} → {_plain(diff.after)}", _plain(summary(diff))]
    marks = {"bad": "**Check:**", "warn": "Note:", "plain": "Also:"}
    if found := findings(diff):
        parts.append("\n".join(f"- {marks[one.level]} {_plain(one.text)}" for one in found))
    for title, counts in (
        ("Images by split", diff.images_by_split),
        ("Objects by class", diff.objects_by_class),
        ("Boxes by size", diff.boxes_by_size),
        ("Images by camera", diff.images_by_camera),
        ("Images by source", diff.images_by_source),
    ):
        parts += [f"## {title}", _table(diff, counts)] if counts else []
    parts.append("## Leak report")
    parts.append(_waivers(diff))
    return "\n\n".join(parts) + "\n"


def _table(diff: DatasetDiff, counts: Counts) -> str:
    ordered = sorted(counts.items(), key=lambda row: -abs(row[1][1] - row[1][0]))
    shown = dict(ordered[:MOST_ROWS]) if len(counts) > MOST_ROWS else counts
    rows = [f"| | {_plain(diff.before)} | {_plain(diff.after)} | change |", "|---|---:|---:|---:|"]
    rows += [
        f"| {_plain(shortened(name, 60))} | {count(old)} | {count(new)} | {change(new - old)} |"
        for name, (old, new) in shown.items()
    ]
    left = len(counts) - len(shown)
    return "\n".join(rows) + (f"\n\n{count(left)} more, which changed less." if left else "")


def _waivers(diff: DatasetDiff) -> str:
    if not diff.waivers_after:
        return "No group and no near-duplicate is in two splits; nothing was waived."
    lines = [
        f"- {'**new** ' if one in diff.waivers_added else ''}{_waiver(one)}" for one in diff.waivers_after
    ]
    left = len(lines) - MOST_ROWS
    return "\n".join(lines[:MOST_ROWS]) + (f"\n- {count(left)} more" if left > 0 else "")


def _waiver(waiver: Waiver) -> str:
    places = " and ".join(
        f"`{image[:12]}` in {_plain(split)}"
        for image, split in zip(waiver.images, waiver.splits, strict=True)
    )
    bits = "" if waiver.distance is None else f", {waiver.distance} of 128 bits apart"
    return f"{waiver.kind}: {places}{bits}: {_plain(waiver.reason)}"


def _plain(text: str) -> str:
    return text.translate(_SPECIAL)
