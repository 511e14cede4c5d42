"""Which split each new group of a version goes to."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from retrain.dataset.duplicates import NearPair, clusters
from retrain.dataset.splitter import SPLITS, DatasetSplitter, GroupContents
from retrain.dataset.version import DatasetItem


def decide_splits(
    items: Mapping[str, DatasetItem], pairs: Sequence[NearPair], splitter: DatasetSplitter
) -> dict[str, DatasetItem]:
    """The items, each with a split. Those that have one keep it.

    An image follows its group. Groups that have no split yet and share a near-duplicate are placed together: where
    one they repeat is already, else stratified over classes.

    Args:
        items: image → item, all of the version.
        pairs: near-duplicates among them.
    """
    settled = {item.group: item.split for item in items.values() if item.split}
    pending = {item.group for item in items.values()} - settled.keys()
    edges = [(items[pair.first].group, items[pair.second].group) for pair in pairs]
    unit_of = {group: group for group in pending}
    for members in clusters(NearPair(a, b, 0, mirrored=False) for a, b in edges if {a, b} <= pending):
        unit_of |= dict.fromkeys(members, members[0])
    fixed = _repeating(edges, unit_of, settled)
    contents = _contents((unit_of[item.group], item) for item in items.values() if item.group in unit_of)
    held = _contents(
        (settled.get(item.group) or fixed[unit_of[item.group]], item)
        for item in items.values()
        if item.group in settled or unit_of[item.group] in fixed
    )
    free = {unit: content for unit, content in contents.items() if unit not in fixed}
    chosen = {**splitter.assign(free, held), **fixed}
    splits = settled | {group: chosen[unit] for group, unit in unit_of.items()}
    return {
        image: item if item.split else msgspec.structs.replace(item, split=splits[item.group])
        for image, item in items.items()
    }


def _repeating(
    edges: Iterable[tuple[str, str]], unit_of: Mapping[str, str], settled: Mapping[str, str]
) -> dict[str, str]:
    """Unit → split of the settled groups whose pictures it repeats; of several, where most are."""
    beside: dict[str, Counter[str]] = defaultdict(Counter)
    for a, b in edges:
        for group, other in ((a, b), (b, a)):
            if group in unit_of and other in settled:
                beside[unit_of[group]][settled[other]] += 1
    return {unit: max(SPLITS, key=lambda name: counts[name]) for unit, counts in beside.items()}


def _contents(placed: Iterable[tuple[str, DatasetItem]]) -> dict[str, GroupContents]:
    images: Counter[str] = Counter()
    objects: dict[str, Counter[int]] = defaultdict(Counter)
    for name, item in placed:
        images[name] += 1
        objects[name].update(o.class_index for o in item.objects)
    return {name: GroupContents(count, objects[name]) for name, count in images.items()}
