from collections import defaultdict

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.dataset.committing.assignment import decide_splits
from retrain.dataset.duplicates import NearPair, clusters
from retrain.dataset.splitter import DatasetSplitter
from retrain.dataset.version import LabelledObject

SPLITTER = DatasetSplitter({"train": 0.6, "val": 0.2, "test": 0.2})
NAMES = ("train", "val", "test")
fast = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])

places = st.tuples(st.integers(0, 9), st.integers(0, 2))
"""The group and the class of an image."""
links = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=12)


@pytest.fixture
def build(make_item):
    template = make_item(1)

    def make(drawn, start=0, split=""):
        items = {}
        for number, (group, index) in enumerate(drawn, start=start):
            objects = (LabelledObject("a-0", index, (0.0, 0.0, 5.0, 5.0)),)
            item = msgspec.structs.replace(
                template, image=f"{number:064x}", group=f"g{group}", objects=objects, split=split
            )
            items[item.image] = item
        return items

    return make


def near(items, drawn):
    known = sorted(items)
    found = [(known[a % len(known)], known[b % len(known)]) for a, b in drawn] if known else []
    return [NearPair(min(p), max(p), 1, mirrored=False) for p in found if p[0] != p[1]]


def by_group(items):
    found = defaultdict(set)
    for item in items.values():
        found[item.group].add(item.split)
    return found


@fast
@given(drawn=st.lists(places, max_size=40), linked=links)
def test_every_image_is_in_one_split_with_its_group_and_its_near_duplicates(build, drawn, linked):
    items = build(drawn)
    pairs = near(items, linked)

    decided = decide_splits(items, pairs, SPLITTER)

    assert decided.keys() == items.keys()
    assert {item.split for item in decided.values()} <= set(NAMES)
    assert all(len(splits) == 1 for splits in by_group(decided).values())
    for cluster in clusters(pairs):
        assert len({decided[image].split for image in cluster}) == 1
    for image, item in decided.items():
        assert msgspec.structs.replace(item, split="") == items[image], "nothing but the split is decided"


@fast
@given(
    drawn=st.lists(places, min_size=1, max_size=30),
    more=st.lists(places, max_size=30),
    linked=links,
    late=links,
)
def test_adding_images_moves_none_and_tears_no_new_cluster(build, drawn, more, linked, late):
    old = build(drawn)
    first = decide_splits(old, near(old, linked), SPLITTER)
    # The groups of the second half are new, so they may repeat old pictures or one another.
    new = build([(group + 10, index) for group, index in more], start=len(drawn))
    pairs = near(old, linked) + near({**old, **new}, late)

    second = decide_splits({**first, **new}, pairs, SPLITTER)

    assert all(second[image] == first[image] for image in first)
    assert all(len(splits) == 1 for splits in by_group(second).values())
    settled = set(first)
    for cluster in clusters(p for p in pairs if not {p.first, p.second} & settled):
        assert len({second[image].split for image in cluster}) == 1
    assert decide_splits(second, pairs, SPLITTER) == second


@fast
@given(drawn=st.lists(places, max_size=30), linked=links, data=st.data())
def test_neither_the_order_of_images_nor_of_pairs_decides_anything(build, drawn, linked, data):
    items = build(drawn)
    pairs = near(items, linked)
    shuffled = dict(data.draw(st.permutations(list(items.items()))))

    assert decide_splits(shuffled, data.draw(st.permutations(pairs)), SPLITTER) == decide_splits(
        items, pairs, SPLITTER
    )


@pytest.mark.parametrize("split", NAMES)
def test_what_repeats_an_old_picture_goes_where_that_is_with_its_whole_cluster(build, split):
    old = build([(0, 0)], split=split)
    new = build([(1, 0), (2, 0), (2, 1), (3, 0)], start=1)
    chain = near({**old, **new}, [(0, 1), (1, 2), (3, 4)])

    decided = decide_splits({**old, **new}, chain, SPLITTER)

    assert {item.split for item in decided.values()} == {split}


def test_of_several_old_pictures_that_are_repeated_most_decide(build):
    old = {
        **build([(0, 0), (1, 0)], split="val"),
        **build([(2, 0)], start=2, split="test"),
    }
    new = build([(3, 0)], start=3)

    decided = decide_splits({**old, **new}, near({**old, **new}, [(0, 3), (1, 3), (2, 3)]), SPLITTER)

    assert decided[f"{3:064x}"].split == "val"


def test_a_late_image_of_an_old_recording_joins_it_whatever_it_looks_like(build):
    old = {**build([(0, 0)], split="train"), **build([(1, 0)], start=1, split="test")}
    late = build([(0, 0)], start=2)

    decided = decide_splits({**old, **late}, near({**old, **late}, [(1, 2)]), SPLITTER)

    assert decided[f"{2:064x}"].split == "train", "the leak check says that it repeats a test image"


def test_images_of_a_group_that_is_torn_under_a_waiver_stay_where_they_are(build):
    torn = {**build([(0, 0)], split="train"), **build([(0, 0)], start=1, split="test")}
    late = build([(1, 0)], start=2)

    decided = decide_splits({**torn, **late}, [], SPLITTER)

    assert {image: decided[image].split for image in torn} == {
        image: item.split for image, item in torn.items()
    }
