"""Publishes what a new dataset version changes, for whoever reviews a cycle."""

from collections.abc import Iterable, Mapping
from itertools import islice

from prefect.artifacts import create_markdown_artifact

from retrain.dataset.comparing.diff import DatasetDiff
from retrain.dataset.report.markdown import MOST_ROWS, diff_markdown
from retrain.dataset.report.page import diff_page
from retrain.dataset.report.samples import choose_samples
from retrain.dataset.version import DatasetItem
from retrain.storage.files import write_whole
from tasks.cycle import CycleWork

_SAMPLES = 24
"""Images that the page shows of those added, and of those relabelled."""


def publish_review(work: CycleWork, difference: DatasetDiff, left_out: Mapping[str, str]) -> str:
    """The difference as a Prefect artifact, and with pictures as a page under the cycle's folder.

    Args:
        left_out: samples that were not added, with the reason; leaks are among them.

    Returns:
        The page, as seen from the home folder.
    """
    create_markdown_artifact(key="dataset-version", markdown=diff_markdown(difference) + _left_out(left_out))
    resources, datasets = work.resources, work.resources.datasets
    before, after = (datasets.get_version(name) for name in (difference.before, difference.after))
    page = resources.review_page(work.cycle.id)

    def samples(images: Iterable[str]) -> Iterable[tuple[DatasetItem, bytes]]:
        return datasets.images(after, choose_samples([after.by_image[image] for image in images], _SAMPLES))

    text = diff_page(difference, before, after, samples(difference.added), samples(difference.relabelled))
    write_whole(page, text.encode())
    return str(page.relative_to(resources.home))


def _left_out(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    # Indented and each in one line, so that a name in it cannot become markup.
    rows = [
        f"    {sample}: {' '.join(reason.split())}" for sample, reason in islice(reasons.items(), MOST_ROWS)
    ]
    if more := len(reasons) - len(rows):
        rows.append(f"    and {more} more")
    return "\n".join(["\n## Left out", "", *rows, ""])
