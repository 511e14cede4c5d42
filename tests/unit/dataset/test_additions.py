from dataclasses import replace

import pytest

from retrain.boxes import Annotations
from retrain.dataset.additions import Additions
from retrain.dataset.drafts import Draft
from retrain.dataset.splitter import DatasetSplitter
from retrain.errors import BadInput
from retrain.images import read_image

BOX = [1.0, 2.0, 11.0, 12.0]


@pytest.fixture
def draft():
    return Draft("v2", "", ("zero", "one", "two"), None, None, {"train": 0.7, "val": 0.2, "test": 0.1}, "")


def groups_in(draft, split):
    splitter = DatasetSplitter(draft.splits, draft.salt)
    return (f"g{n}" for n in range(1000) if splitter.split_of(f"g{n}") == split)


def test_the_group_decides_the_split_and_each_image_is_its_own_group_by_default(draft, make_image):
    additions = Additions(draft, None, {}, relabel=False)
    group = next(groups_in(draft, "test"))
    lone = read_image(make_image(9))

    assert additions.add(read_image(make_image(1)), Annotations.of([BOX], [0]), group, "seed", {})
    assert additions.add(lone, Annotations.empty(), None, "seed", {})

    first = additions.items[read_image(make_image(1)).digest]
    assert (first.group, first.split) == (group, "test")
    assert additions.items[lone.digest].group == lone.digest


def test_a_group_of_the_parent_keeps_its_split_when_fractions_change(
    draft, make_item, make_version, make_image
):
    group = next(groups_in(draft, "train"))
    parent = make_version([make_item(1, group=group, split="test")])
    additions = Additions(draft, parent, {}, relabel=False)

    additions.add(read_image(make_image(2)), Annotations.empty(), group, "auto", {})

    assert additions.items[read_image(make_image(2)).digest].split == "test"


def test_an_image_of_the_parent_is_not_added_twice(draft, make_item, make_version, make_image):
    item = make_item(1)
    additions = Additions(draft, make_version([item]), {}, relabel=False)

    is_new = additions.add(read_image(make_image(1)), item.annotations, item.group, "auto", {})

    assert not is_new
    assert additions.unchanged == [item.image]
    assert additions.items == {}


def test_other_labels_are_an_error_unless_relabelling(draft, make_item, make_version, make_image):
    item, other = make_item(1), Annotations.of([BOX], [2])

    with pytest.raises(BadInput, match=r"other labels; pass relabel=True"):
        Additions(draft, make_version([item]), {}, relabel=False).add(
            read_image(make_image(1)), other, item.group, "human", {}
        )
    additions = Additions(draft, make_version([item]), {}, relabel=True)
    is_new = additions.add(read_image(make_image(1)), other, item.group, "human", {})

    changed = additions.items[item.image]
    assert not is_new
    assert changed.pack == item.pack
    assert changed.split == item.split
    assert changed.labels == ((2, (1.0, 2.0, 11.0, 12.0)),)


def test_object_ids_survive_a_correction_and_new_objects_get_new_ones(draft, make_image):
    image = read_image(make_image(1))
    first = Additions(draft, None, {}, relabel=False)
    first.add(image, Annotations.of([[0, 0, 8, 8], [10, 4, 20, 14]], [0, 1]), "g", "auto", {})
    before = first.items[image.digest]
    again = Additions(draft, None, {image.digest: before}, relabel=True)

    again.add(
        image,
        Annotations.of([[10.5, 4, 20, 14.5], [0, 10, 4, 15], [0, 0, 8, 8.5]], [2, 2, 0]),
        "g",
        "human",
        {},
    )

    ids = [o.id for o in again.items[image.digest].objects]
    assert ids == [before.objects[1].id, f"{image.digest[:12]}-2", before.objects[0].id]


def test_an_image_that_would_be_in_two_splits_is_refused(draft, make_item, make_version, make_image):
    parent = make_version([make_item(1, group="mine", split="train")])
    elsewhere = next(groups_in(draft, "test"))

    with pytest.raises(
        BadInput, match=rf"would leak: it is in train with group 'mine', but group '{elsewhere}' is in test"
    ):
        Additions(draft, parent, {}, relabel=True).add(
            read_image(make_image(1)), Annotations.empty(), elsewhere, "human", {}
        )


def test_boxes_are_clipped_to_the_image_and_those_outside_are_refused(draft, make_image):
    image = read_image(make_image(1))
    additions = Additions(draft, None, {}, relabel=False)

    additions.add(image, Annotations.of([[-2.0, 3.0, 30.0, 20.0]], [0]), None, "auto", {})

    assert additions.items[image.digest].objects[0].box == (0.0, 3.0, 24.0, 16.0)
    for outside in ([30.0, 3.0, 40.0, 9.0], [5.0, 5.0, 5.0, 9.0]):
        with pytest.raises(BadInput, match="no area inside"):
            additions.add(read_image(make_image(2)), Annotations.of([outside], [0]), None, "auto", {})


def test_an_unknown_class_and_metadata_that_is_not_json_are_refused(draft, make_image):
    additions, image = Additions(draft, None, {}, relabel=False), read_image(make_image(1))

    with pytest.raises(BadInput, match=r"class 3, but the version has classes 0 to 2"):
        additions.add(image, Annotations.of([BOX], [3]), None, "auto", {})
    with pytest.raises(BadInput, match="Only plain JSON"):
        additions.add(image, Annotations.empty(), None, "auto", {"score": float("nan")})
    assert additions.items == {}


def test_a_version_with_a_relabelled_item_still_checks_as_one(draft, make_item, make_version, make_image):
    item = make_item(1)
    additions = Additions(draft, make_version([item]), {}, relabel=True)
    additions.add(read_image(make_image(1)), Annotations.empty(), None, "human", {})

    assert (
        replace(additions.items[item.image], objects=item.objects, source="seed", metadata=item.metadata)
        == item
    )
