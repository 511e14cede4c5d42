"""What the commands do that make dataset versions."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from flows.dataset_import import SourceOptions, add_files, classes_with, reading, show_outcome
from flows.dataset_place import progress_bar
from flows.dataset_view import version_line, waiver_lines
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.manager import DatasetManager
from retrain.dataset.version import DatasetVersion
from retrain.errors import Leakage

_NO_PARENT = "none"
_SHOWN_WAIVERS = 10


@dataclass(frozen=True)
class VersionOptions:
    """What a version is to be.

    Attributes:
        parent: a name, or "none"; by default the newest version.
        gold: whether its test images become the frozen gold test.
    """

    name: str
    description: str | None = None
    parent: str | None = None
    splits: dict[str, float] | None = None
    classes: tuple[str, ...] | None = None
    gold: bool = False


def create(manager: DatasetManager, options: VersionOptions, console: Console) -> None:
    """Begin a draft and say so."""
    draft = _begin(manager, options, options.classes, options.description or "")
    start = f"from {draft.parent}" if draft.parent else "empty"
    shares = ", ".join(f"{split} {share:g}" for split, share in draft.splits.items())
    _say(console, f"draft {draft.name}, {start}: classes {', '.join(draft.classes)}; {shares}")
    place = f"--path {manager.repository.folder}"
    _say(console, f"`retrain dataset add {draft.name} SOURCE {place}` adds images")
    _say(console, f"`retrain dataset commit {draft.name} {place}` ends it")


def add(manager: DatasetManager, name: str, source: SourceOptions, console: Console) -> None:
    """Add files to a draft that `create` began; objects of other classes are reported and left out."""
    draft = manager.draft(name)
    with progress_bar() as progress, reading(source, manager, draft.classes, progress) as found:
        outcome = add_files(manager, draft, found, source, progress)
    show_outcome(outcome, source, console)


def commit(manager: DatasetManager, name: str, waive: str | None, console: Console) -> DatasetVersion:
    """Make a draft a version, and print what is in it and what it changed.

    Raises:
        Leakage: names the pairs and says how to accept them here.
    """
    try:
        with progress_bar() as progress:
            version = manager.commit(name, waive, progress)
    except Leakage as e:
        place = f"--path {manager.repository.folder}"
        said = f"Here: `retrain dataset commit {name} --waive REASON {place}`; the draft is kept."
        raise Leakage(f"{e} {said}") from e
    show_made(manager, version, console)
    return version


def import_files(
    manager: DatasetManager,
    options: VersionOptions,
    source: SourceOptions,
    waive: str | None,
    console: Console,
) -> DatasetVersion:
    """Create, add and commit in one; the same again, with the same files, changes nothing."""
    with progress_bar() as progress, reading(source, manager, options.classes, progress) as found:
        parent = _parent(manager, options)
        base = manager.get_version(parent).classes if parent else ()
        classes = options.classes or classes_with(base, found.dataset)
        draft = _begin(
            manager, options, classes, options.description or f"from {source.source.resolve().name}"
        )
        start = f"starts from {parent}; --parent names another" if parent else "starts empty"
        _say(console, f"{options.name} in {manager.repository.folder} {start}")
        outcome = add_files(manager, draft, found, source, progress)
    show_outcome(outcome, source, console)
    return commit(manager, options.name, waive, console)


def show_made(manager: DatasetManager, version: DatasetVersion, console: Console) -> None:
    """What a new version holds, its accepted leaks, and what it changed against its parent."""
    _say(console, version_line(version))
    lines = waiver_lines(version)
    for line in lines[:_SHOWN_WAIVERS]:
        console.print(Text(f"leak waived: {line}", style="yellow"))
    if len(lines) > _SHOWN_WAIVERS:
        more = f"and {len(lines) - _SHOWN_WAIVERS} more; `retrain dataset show {version.name}` lists all"
        console.print(Text(more, style="yellow"))
    if version.parent is not None:
        _say(console, manager.diff(version.parent, version.name).to_text())


def _begin(
    manager: DatasetManager, options: VersionOptions, classes: Sequence[str] | None, description: str
) -> Draft:
    return manager.create_version(
        options.name,
        description,
        splits=options.splits,
        parent=_parent(manager, options),
        classes=classes,
        gold=options.name if options.gold else None,
    )


def _parent(manager: DatasetManager, options: VersionOptions) -> str | None:
    if options.parent is not None:
        return None if options.parent == _NO_PARENT else options.parent
    if options.name in manager.versions():
        # Imported once more: it must come out as it is, not as a child of itself.
        return manager.get_version(options.name).parent
    return manager.newest()


def _say(console: Console, said: str) -> None:
    console.print(Text(said))
