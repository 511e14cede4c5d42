"""Plain folders of images: no labels at all."""

from collections.abc import Sequence
from pathlib import Path

from retrain.boxes import Annotations
from retrain.dataset.formats.checks import checked_classes, measured, split_of_folders
from retrain.dataset.formats.labelled import LabelledDataset, LabelledImage, Problem, labelled_dataset
from retrain.dataset.formats.tree import Tree
from retrain.errors import BadInput


def read(path: Path | Tree, classes: Sequence[str] | None = None) -> LabelledDataset:
    """Every image below a folder, with no box; a folder named train, val, valid or test says the split.

    Nothing in the files tells whether such an image shows nothing or was not labelled yet: the caller must know.

    Args:
        classes: those of the result; none by default.

    Raises:
        BadInput: there is no image, or the class names are not different.
    """
    tree = Tree.of(path)
    names = checked_classes(classes, "classes") if classes is not None else ()
    images, problems = [], list(tree.problems)
    for file in tree.images():
        try:
            measured(tree.path(file))
        except BadInput as e:
            problems.append(Problem(file, "", str(e), "image"))
        else:
            images.append(LabelledImage(tree.path(file), Annotations.empty(), split_of_folders(file)))
    if not images and not problems:
        raise BadInput(f"There is no image in {tree.root}.")
    return labelled_dataset(names, images, problems)
