"""Which few images of a version stand for all of it."""

from collections import Counter
from collections.abc import Iterable, Sequence

from retrain.dataset.measuring.coverage import camera_of
from retrain.dataset.version import DatasetItem


def choose_samples(items: Iterable[DatasetItem], number: int) -> tuple[DatasetItem, ...]:
    """At most `number` images, the same ones every time.

    Classes take turns, rarest first and images without objects last, each with an image of the camera least shown so
    far. So every class is seen where `number` allows it.
    """
    left = {item.image: item for item in items}
    by_class = _by_class(left.values())
    taken: list[DatasetItem] = []
    cameras: Counter[str | None] = Counter()
    while len(taken) < number and any(by_class):
        for own in by_class:
            found = [item for item in own if item.image in left]
            own[:] = found
            if not found or len(taken) == number:
                continue
            # The digest decides between equals: it is as good as chance, and stays the same.
            best = min(found, key=lambda item: (cameras[camera_of(item.metadata)], item.image))
            cameras[camera_of(best.metadata)] += 1
            taken.append(left.pop(best.image))
    return tuple(taken)


def _by_class(items: Iterable[DatasetItem]) -> Sequence[list[DatasetItem]]:
    shown: dict[int, list[DatasetItem]] = {}
    empty = []
    for item in items:
        for index in {o.class_index for o in item.objects}:
            shown.setdefault(index, []).append(item)
        if not item.objects:
            empty.append(item)
    return [*(shown[index] for index in sorted(shown, key=lambda index: (len(shown[index]), index))), empty]
