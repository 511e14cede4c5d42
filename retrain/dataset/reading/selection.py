"""What is trained on, written down for the trainer, which then reads the packs themselves: no folder is made."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.reading.materialise import yolo_labels
from retrain.dataset.version import DatasetItem, DatasetVersion
from retrain.errors import BadInput, NotFound
from retrain.storage.selections import SelectedImage, read_selection_file, write_selection_file


def write_selection(
    version: DatasetVersion,
    items: Iterable[DatasetItem],
    pack_file: Callable[[str], Path],
    target: Path,
    weights: Sequence[float] | None = None,
    *,
    by_camera: bool = False,
) -> Path:
    """A selection file of some items of a version, to train on as on the folder `materialise` would make of them.

    Args:
        items: of the version, in any order.
        pack_file: where a pack of that digest is on this machine.
        target: folder to write it to.
        weights: for balanced sampling, one per item and in their order; above 0.
        by_camera: name the camera of each image as its slice, so that training scores every camera apart.

    Returns:
        The file, named by its content: equal selections have equal names.

    Raises:
        BadInput: no items, an item twice, one that is still in a draft, or a weight that is none.
        StorageFull: no space; nothing was written.
    """
    chosen = list(items)
    if not chosen:
        raise BadInput(f"Version {version.name} has no image in the selection; select some.")
    if weights is not None and len(weights) != len(chosen):
        raise BadInput(f"Every image needs one weight, got {len(chosen)} images and {len(weights)} weights.")
    if drafted := [item for item in chosen if not item.pack]:
        raise BadInput(f"Image {drafted[0].image} is in no pack yet; commit version {version.name} first.")
    packs = {pack: index for index, pack in enumerate(sorted({item.pack for item in chosen}))}
    given: Sequence[float | None] = [None] * len(chosen) if weights is None else [float(w) for w in weights]
    slices = [camera_of(item.metadata) if by_camera else None for item in chosen]
    images = [_selected(*one, packs) for one in zip(chosen, given, slices, strict=True)]
    return write_selection_file(
        target, [pack_file(pack) for pack in packs], sorted(images, key=lambda image: image.name)
    )


def count_selected(selection: Path) -> int:
    """How many images a selection file holds, after checking that they can be read: it is whole, its packs are there.

    Raises:
        NotFound: the file, or a pack it names, is not on this machine.
        BadInput: the file is damaged.
    """
    found = read_selection_file(selection)
    if missing := [pack for pack in found.packs if not pack.is_file()]:
        raise NotFound(
            f"{len(missing)} packs of selection {selection} are not on this machine, the first is {missing[0]}. "
            "Pull the dataset from its remote, or write the selection again."
        )
    return len(found.images)


def _selected(
    item: DatasetItem, weight: float | None, slice_name: str | None, packs: dict[str, int]
) -> SelectedImage:
    return SelectedImage(
        name=item.file_name,
        pack=packs[item.pack],
        width=item.width,
        height=item.height,
        labels=yolo_labels(item),
        weight=weight,
        slice=slice_name,
    )
