import json
import math
import random

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from retrain.dataset.stats import (
    ASPECT_EDGES,
    GRID,
    OBJECTS_EDGES,
    RELATIVE_EDGES,
    SIDE_EDGES,
    Spread,
    dataset_statistics,
    size_counts,
)
from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject, Waiver

CLASSES = ("car", "person", "bicycle", "never seen")


def make_item(number, boxes=(), **changes):
    objects = tuple(LabelledObject(f"o-{i}", index, box) for i, (index, box) in enumerate(boxes))
    values = {
        "image": f"{number:064x}", "pack": "ab" * 32, "format": "jpg", "width": 640, "height": 480,
        "objects": objects, "split": "train", "group": f"g-{number}", "source": "seed",
    }  # fmt: skip
    return DatasetItem(**{**values, **changes})


def make_version(items, **changes):
    values = {
        "name": "v1.0.0", "description": "", "classes": CLASSES, "parent": None, "parent_digest": None,
        "splits": {"train": 0.7, "val": 0.2, "test": 0.1}, "salt": "", "items": tuple(items),
    }  # fmt: skip
    return DatasetVersion(**{**values, **changes})


@pytest.fixture(scope="module")
def version():
    """A hundred images of all shapes, splits and sources; every seventh is empty, some boxes touch the border."""
    rng = random.Random(4)
    items = []
    for number in range(100):
        width, height = rng.choice([(640, 480), (480, 640), (1920, 1080), (33, 47)])
        boxes = []
        for _ in range(0 if number % 7 == 0 else rng.randrange(1, 9)):
            x = sorted(rng.sample(range(width + 1), 2))
            y = sorted(rng.sample(range(height + 1), 2))
            boxes.append((rng.randrange(3), (float(x[0]), float(y[0]), float(x[1]), float(y[1]))))
        items.append(
            make_item(
                number, boxes, width=width, height=height, group=f"g-{number // 3}",
                split=("train", "val", "test")[number // 3 % 3], format=rng.choice(["jpg", "png"]),
                source=rng.choice(["seed", "auto", "human"]),
            )
        )  # fmt: skip
    return make_version(items)


def objects(version, keep=lambda item, one: True):
    return [(item, one) for item in version.items for one in item.objects if keep(item, one)]


def area(one):
    x1, y1, x2, y2 = one.box
    return (x2 - x1) * (y2 - y1)


def binned(values, edges):
    """Counts by the rule the docstring states, value by value."""
    return tuple(
        sum(low <= value < high for value in values)
        for low, high in zip(edges, (*edges[1:], math.inf), strict=True)
    )


def test_images_objects_and_groups_are_counted_by_split(version):
    stats = dataset_statistics(version)

    for split in version.splits:
        own = [item for item in version.items if item.split == split]
        assert stats.images_by_split[split] == len(own)
        assert stats.objects_by_split[split] == sum(len(item.objects) for item in own)
        assert stats.groups_by_split[split] == len({item.group for item in own})
    assert (stats.images, stats.objects) == (100, len(objects(version)))


def test_each_class_is_counted_by_split_and_image(version):
    stats = dataset_statistics(version)

    for index, one in enumerate(stats.classes):
        own = objects(version, lambda item, o, index=index: o.class_index == index)
        assert one.name == CLASSES[index]
        assert one.objects == len(own)
        assert one.images == len({item.image for item, _ in own})
        assert one.objects_by_split == {s: sum(item.split == s for item, _ in own) for s in version.splits}
    assert stats.absent == ("never seen",)


def test_imbalance_is_the_most_frequent_class_over_the_rarest_present_one():
    box = (0.0, 0.0, 9.0, 9.0)
    stats = dataset_statistics(make_version([make_item(1, [(0, box)] * 6 + [(1, box)] * 2)]))

    assert stats.imbalance_ratio == 3.0
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert stats.evenness == pytest.approx(expected)


@pytest.mark.parametrize(("counts", "evenness"), [((5, 5, 5, 5), 1.0), ((7, 0, 0, 0), 0.0)])
def test_evenness_is_one_for_equal_classes_and_zero_for_a_single_one(counts, evenness):
    boxes = [(index, (1.0, 1.0, 5.0, 5.0)) for index, n in enumerate(counts) for _ in range(n)]

    assert dataset_statistics(make_version([make_item(1, boxes)])).evenness == evenness


def test_box_histograms_count_as_value_by_value(version):
    boxes = dataset_statistics(version).boxes
    every = objects(version)

    assert boxes.side.counts == binned([math.sqrt(area(o)) for _, o in every], SIDE_EDGES)
    shares = [area(o) / (item.width * item.height) for item, o in every]
    assert boxes.relative_area.counts == binned(shares, RELATIVE_EDGES)[:-1]
    ratios = [(o.box[2] - o.box[0]) / (o.box[3] - o.box[1]) for _, o in every]
    assert boxes.aspect.counts == binned(ratios, ASPECT_EDGES)
    assert sum(boxes.side.counts) == sum(boxes.aspect.counts) == len(every)


def test_a_box_over_the_whole_image_is_in_the_last_bin_of_its_share():
    stats = dataset_statistics(make_version([make_item(1, [(0, (0.0, 0.0, 640.0, 480.0))])]))

    assert stats.boxes.relative_area.counts[-1] == 1
    assert stats.quality.at_border == 1


def test_size_counts_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    # No area on a bound: there COCO counts a box twice.
    areas = rng.integers(1, 200, 400) ** 2.0 + 0.5

    limits = Params(iouType="bbox")
    by_label = {
        label: int(((areas >= low) & (areas <= high)).sum())
        for label, (low, high) in zip(limits.areaRngLbl, limits.areaRng, strict=True)
    }
    counts = size_counts(areas)

    assert (counts.small, counts.medium, counts.large) == tuple(
        by_label[name] for name in ("small", "medium", "large")
    )
    assert counts.tiny == int((areas < 256).sum())


@pytest.mark.parametrize(
    ("side", "name"), [(31.99, "small"), (32.0, "medium"), (95.99, "medium"), (96.0, "large")]
)
def test_a_box_on_a_bound_counts_as_the_larger_size(side, name):
    assert getattr(size_counts(np.array([side**2])), name) == 1


def test_centres_fall_into_the_cell_that_holds_them(version):
    stats = dataset_statistics(version)

    expected = np.zeros((GRID, GRID), dtype=int)
    for item, one in objects(version):
        x, y = (one.box[0] + one.box[2]) / 2 / item.width, (one.box[1] + one.box[3]) / 2 / item.height
        expected[int(y * GRID), int(x * GRID)] += 1
    assert stats.boxes.centres == tuple(map(tuple, expected.tolist()))
    summed = np.sum([one.centres for one in stats.classes], axis=0)
    assert summed.tolist() == expected.tolist()


def test_a_low_left_box_is_in_the_last_row_and_first_column():
    stats = dataset_statistics(make_version([make_item(1, [(0, (0.0, 470.0, 8.0, 480.0))])]))

    assert stats.boxes.centres[GRID - 1][0] == 1


def test_a_sliver_at_the_edge_whose_centre_rounds_onto_it_is_in_the_last_cell():
    box = (math.nextafter(640.0, 0.0), math.nextafter(480.0, 0.0), 640.0, 480.0)
    assert (box[0] + box[2]) / 2 == 640.0

    stats = dataset_statistics(make_version([make_item(1, [(0, box)])]))

    assert stats.boxes.centres[GRID - 1][GRID - 1] == 1


def test_co_occurrence_counts_the_images_that_show_both(version):
    stats = dataset_statistics(version)

    shown = [{o.class_index for o in item.objects} for item in version.items]
    for i in range(len(CLASSES)):
        for j in range(len(CLASSES)):
            assert stats.co_occurrence[i][j] == sum({i, j} <= classes for classes in shown)


def test_image_sizes_and_formats_are_counted(version):
    sizes = dataset_statistics(version).image_sizes

    pairs = [(item.width, item.height) for item in version.items]
    assert sizes.different == len(set(pairs)) == 4
    assert set(sizes.most_common) == {(*pair, pairs.count(pair)) for pair in pairs}
    assert [n for _, _, n in sizes.most_common] == sorted((n for _, _, n in sizes.most_common), reverse=True)
    assert sizes.formats["jpg"] == sum(item.format == "jpg" for item in version.items)
    assert sizes.width.median == sorted(width for width, _ in pairs)[50]


def test_objects_per_image_include_the_empty_ones(version):
    stats = dataset_statistics(version)

    counts = [len(item.objects) for item in version.items]
    assert stats.objects_per_image.counts == binned(counts, OBJECTS_EDGES)
    assert stats.objects_per_image.counts[0] == stats.quality.without_objects == counts.count(0)
    assert stats.objects_per_image_spread.mean == pytest.approx(sum(counts) / 100)


def test_quality_counts_sources_border_and_tiny_boxes(version):
    quality = dataset_statistics(version).quality

    every = objects(version)
    assert quality.at_border == sum(
        o.box[0] == 0 or o.box[1] == 0 or o.box[2] == item.width or o.box[3] == item.height
        for item, o in every
    )
    assert quality.at_border > 0
    assert quality.tiny == sum(area(o) < 256 for _, o in every)
    for source in ("seed", "auto", "human"):
        assert quality.images_by_source[source] == sum(item.source == source for item in version.items)
        assert quality.objects_by_source[source] == sum(item.source == source for item, _ in every)


def test_waivers_are_counted():
    waiver = Waiver("group", ("a" * 64, "b" * 64), ("train", "test"), "as published")

    assert dataset_statistics(make_version([make_item(1)], waivers=(waiver,))).quality.waivers == 1


def test_per_class_spreads_are_those_of_its_own_boxes(version):
    stats = dataset_statistics(version)

    for index, one in enumerate(stats.classes[:3]):
        own = objects(version, lambda item, o, index=index: o.class_index == index)
        sides = sorted(math.sqrt(area(o)) for _, o in own)
        assert (one.side.least, one.side.most) == pytest.approx((sides[0], sides[-1]))
        assert one.relative_area.mean == pytest.approx(
            sum(area(o) / (item.width * item.height) for item, o in own) / len(own)
        )
    assert stats.classes[3].side is None


def test_a_spread_has_interpolated_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(1.0, 1.75, 2.5, 3.25, 4.0, 2.5)
    assert Spread.of([]) is None


def test_an_empty_version_is_all_zeros():
    stats = dataset_statistics(make_version([]))

    assert (stats.images, stats.objects, stats.imbalance_ratio, stats.evenness) == (0, 0, None, None)
    assert stats.images_by_split == {"train": 0, "val": 0, "test": 0}
    assert sum(map(sum, stats.co_occurrence)) == sum(stats.boxes.side.counts) == 0
    assert stats.absent == CLASSES


def test_a_version_without_classes_has_no_matrix():
    stats = dataset_statistics(make_version([make_item(1)], classes=()))

    assert (stats.classes, stats.co_occurrence, stats.images) == ((), (), 1)


def test_an_image_of_a_split_that_is_not_named_counts_in_none():
    box = (1.0, 1.0, 5.0, 5.0)
    stats = dataset_statistics(
        make_version([make_item(1, [(0, box)], split="draft"), make_item(2, [(0, box)])])
    )

    assert stats.objects_by_split == {"train": 1, "val": 0, "test": 0}
    assert stats.classes[0].objects_by_split == {"train": 1, "val": 0, "test": 0}


def test_statistics_read_as_json(version):
    plain = dataset_statistics(version).to_json()

    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["classes"][0]["name"] == "car"
    assert plain["images_by_split"]["train"] == 34
