"""`retrain dataset import` and `add`: labelled files become images of a draft, and every problem of them is told."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from flows.dataset_grouping import groups_by
from retrain.boxes import Annotations
from retrain.dataset.drafting.additions import AddReport
from retrain.dataset.drafting.candidates import Progress
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.formats.archives import opened
from retrain.dataset.formats.labelled import LabelledDataset, LabelledImage
from retrain.dataset.formats.registry import read_dataset
from retrain.dataset.manager import DatasetManager
from retrain.dataset.report.wording import counted
from retrain.errors import BadInput

_SHOWN = 20
_OPTIONS = {"relabel=True": "--relabel", "gold=": "--gold", "cannot be added": "--on-error skip"}


@dataclass(frozen=True)
class SourceOptions:
    """How labelled files are read.

    Attributes:
        format: by default found out.
        group_by: see `dataset_grouping`.
        label: who labelled; by default as the files say, else human.
        relabel: replace the labels of images that are there.
        keep_splits: whether official splits hold.
        report: where to write every problem.
        one_based: how VOC counts pixels, see `formats.voc`.
    """

    source: Path
    format: str | None = None
    group_by: str | None = None
    label: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    relabel: bool = False
    keep_splits: bool = True
    report: Path | None = None
    one_based: bool = False


@dataclass(frozen=True)
class Reading:
    """Labelled files, as long as they are there.

    Attributes:
        root: the folder they are in; of an archive a temporary one.
    """

    root: Path
    dataset: LabelledDataset


@dataclass(frozen=True)
class Outcome:
    """What became of labelled files.

    Attributes:
        problems: one line each.
        lost: images that cannot be used.
        added: what became of the others, or why nothing was added.
    """

    problems: tuple[str, ...]
    lost: int
    added: AddReport | BadInput


@contextmanager
def reading(
    options: SourceOptions,
    manager: DatasetManager,
    classes: Sequence[str] | None,
    progress: Progress | None,
) -> Iterator[Reading]:
    """Read the labels of the source, an archive unpacked until the end of the block.

    Args:
        classes: objects of others are left out and reported; by default those of the files.
    """
    # Beside the versions, as /tmp may be small.
    scratch = manager.repository.scratch if manager.repository.scratch.is_dir() else None
    if progress is not None:
        progress("reading labels", 0, 0)
    with opened(options.source, scratch) as root:
        yield Reading(root, read_dataset(root, options.format, classes, one_based=options.one_based))


def add_files(
    manager: DatasetManager,
    draft: Draft,
    found: Reading,
    options: SourceOptions,
    progress: Progress | None,
) -> Outcome:
    """Add what was read to a draft, unless something is wrong with it; `show_outcome` says so."""
    problems = [f"{problem.file}: {problem}" for problem in found.dataset.problems]
    lost = sum(problem.lost == "image" for problem in found.dataset.problems)
    if lost and options.on_error == "raise":
        said = f"{counted(lost, 'image')} of {options.source} cannot be used, so none was added."
        return Outcome(tuple(problems), lost, BadInput(f"{said} Mend them, or use --on-error skip."))
    try:
        report = _add(manager, draft, found, options, progress)
    except BadInput as refusal:
        return Outcome(tuple(problems), lost, BadInput(f"{refusal}{_here(str(refusal))}"))
    problems += [f"{Path(name).name}: {reason} (image left out)" for name, reason in report.rejected.items()]
    return Outcome(tuple(problems), lost + len(report.rejected), report)


def show_outcome(outcome: Outcome, options: SourceOptions, console: Console) -> None:
    """Print the first problems and what was added; write all problems where the options say.

    Raises:
        BadInput: nothing was added.
    """
    problems, file = outcome.problems, options.report
    if file is not None:
        file.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8")
    for problem in problems[:_SHOWN]:
        console.print(Text(problem, style="yellow"))
    if len(problems) > _SHOWN:
        where = f"see {file}" if file is not None else "--report FILE writes all"
        console.print(Text(f"and {len(problems) - _SHOWN} more; {where}", style="yellow"))
    if isinstance(outcome.added, BadInput):
        raise outcome.added
    console.print(Text(f"{options.source}: {_counts(outcome.added, outcome.lost)}"))


def classes_with(base: Sequence[str], dataset: LabelledDataset) -> tuple[str, ...]:
    """Those of the parent, then those that the files bring.

    Raises:
        BadInput: there are none at all, as in a folder of images.
    """
    if names := tuple(dict.fromkeys((*base, *dataset.classes))):
        return names
    raise BadInput(
        "The files name no classes; say which objects the images could show, with --classes car,truck."
    )


def _add(
    manager: DatasetManager, draft: Draft, found: Reading, options: SourceOptions, progress: Progress | None
) -> AddReport:
    images = found.dataset.images
    return manager.add_images(
        draft,
        [image.path for image in images],
        _annotations(found.dataset, draft.classes),
        groups=groups_by(options.group_by, images, found.root),  # type: ignore[arg-type]
        sources=[options.label or image.source or "human" for image in images],
        metadata=[image.metadata for image in images],
        splits=[image.split if options.keep_splits else None for image in images],
        relabel=options.relabel,
        on_error=options.on_error,
        progress=progress,
    )


def _here(said: str) -> str:
    """How options that an error of the library names are spelt on the command line."""
    spelt = [option for name, option in _OPTIONS.items() if name in said]
    return f" Here: {' or '.join(spelt)}." if spelt else ""


def _annotations(dataset: LabelledDataset, classes: Sequence[str]) -> list[Annotations]:
    """The labels in the draft's classes, which may come in another order than the files have."""
    if unknown := [name for name in dataset.classes if name not in classes]:
        raise BadInput(f"The draft has no class {', '.join(unknown)}. It has: {', '.join(classes)}.")
    index = np.array([classes.index(name) for name in dataset.classes], dtype=np.int64)
    return [_translated(image, index) for image in dataset.images]


def _translated(image: LabelledImage, index: NDArray[np.int64]) -> Annotations:
    if not len(image.annotations):
        return image.annotations
    return Annotations(image.annotations.boxes, index[image.annotations.classes])


def _counts(report: AddReport, lost: int) -> str:
    counts = {
        "added": len(report.added),
        "there already": len(report.unchanged),
        "relabelled": len(report.relabelled),
        "left out": lost,
    }
    return ", ".join(f"{counted(n, 'image')} {what}" for what, n in counts.items() if n) or "no images"
