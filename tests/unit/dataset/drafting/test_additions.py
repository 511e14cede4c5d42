import msgspec
import pytest

from retrain.boxes import Annotations
from retrain.dataset.drafting.additions import Additions
from retrain.dataset.drafting.candidates import read_candidates
from retrain.dataset.drafting.draft import Draft
from retrain.errors import BadInput

BOX = [1.0, 2.0, 11.0, 12.0]


@pytest.fixture
def draft():
    return Draft(
        "v2", "", ("zero", "one", "two"), None, None, {"train": 0.7, "val": 0.2, "test": 0.1}, "", "v1"
    )


def candidate(data):
    (one,) = read_candidates([data])
    return one


def test_a_group_decides_later_and_each_image_is_its_own_group_by_default(draft, make_image):
    additions = Additions(draft, {}, relabel=False)
    image, lone = candidate(make_image(1)), candidate(make_image(9))

    assert additions.add(image, Annotations.of([BOX], [0]), "mine", "seed", {})
    assert additions.add(lone, Annotations.empty(), None, "seed", {})

    assert (additions.items[image.digest].group, additions.items[image.digest].split) == ("mine", "")
    assert additions.items[lone.digest].group == lone.digest


def test_a_group_that_is_there_keeps_its_split(draft, make_item, make_image):
    there = make_item(1, group="mine", split="test")
    additions = Additions(draft, {there.image: there}, relabel=False)

    additions.add(candidate(make_image(2)), Annotations.empty(), "mine", "auto", {})

    assert additions.items[candidate(make_image(2)).digest].split == "test"


def test_an_official_split_is_kept_and_one_that_does_not_exist_is_refused(draft, make_image):
    additions, image = Additions(draft, {}, relabel=False), candidate(make_image(1))

    additions.add(image, Annotations.empty(), None, "seed", {}, "val")

    assert additions.items[image.digest].split == "val"
    with pytest.raises(BadInput, match=r"split 'dev'; splits are train, val, test"):
        additions.add(candidate(make_image(2)), Annotations.empty(), None, "seed", {}, "dev")


def test_an_image_never_changes_its_split(draft, make_item, make_image):
    there = make_item(1, split="train")
    additions = Additions(draft, {there.image: there}, relabel=True)

    with pytest.raises(BadInput, match=r"is in train and cannot go to test"):
        additions.add(candidate(make_image(1)), there.annotations, None, "seed", {}, "test")


def test_forgotten_images_and_labels_of_the_gold_test_are_refused(draft, make_item, make_image):
    there = make_item(1, split="test")
    forgotten = {candidate(make_image(2)).digest: "request 7"}
    additions = Additions(draft, {there.image: there}, True, forgotten, {there.image})

    with pytest.raises(BadInput, match=r"was forgotten for good \(request 7\)"):
        additions.add(candidate(make_image(2)), Annotations.empty(), None, "seed", {})
    with pytest.raises(BadInput, match=r"frozen gold test of v1, .* gold='v2'"):
        additions.add(candidate(make_image(1)), Annotations.empty(), None, "seed", {})


def test_an_image_of_the_parent_is_not_added_twice(draft, make_item, make_image):
    item = make_item(1)
    additions = Additions(draft, {item.image: item}, relabel=False)

    is_new = additions.add(candidate(make_image(1)), item.annotations, item.group, "auto", {})

    assert not is_new
    assert additions.unchanged == [item.image]
    assert additions.items == {}


def test_other_labels_are_an_error_unless_relabelling(draft, make_item, make_image):
    item, other = make_item(1), Annotations.of([BOX], [2])

    with pytest.raises(BadInput, match=r"other labels; pass relabel=True"):
        Additions(draft, {item.image: item}, relabel=False).add(
            candidate(make_image(1)), other, item.group, "human", {}
        )
    additions = Additions(draft, {item.image: item}, relabel=True)
    is_new = additions.add(candidate(make_image(1)), other, item.group, "human", {})

    changed = additions.items[item.image]
    assert not is_new
    assert changed.pack == item.pack
    assert changed.split == item.split
    assert changed.labels == ((2, (1.0, 2.0, 11.0, 12.0)),)


def test_object_ids_survive_a_correction_and_new_objects_get_new_ones(draft, make_image):
    image = candidate(make_image(1))
    first = Additions(draft, {}, relabel=False)
    first.add(image, Annotations.of([[0, 0, 8, 8], [10, 4, 20, 14]], [0, 1]), "g", "auto", {})
    before = first.items[image.digest]
    again = Additions(draft, {image.digest: before}, relabel=True)

    again.add(
        image,
        Annotations.of([[10.5, 4, 20, 14.5], [0, 10, 4, 15], [0, 0, 8, 8.5]], [2, 2, 0]),
        "g",
        "human",
        {},
    )

    ids = [o.id for o in again.items[image.digest].objects]
    assert (ids[0], ids[2]) == (before.objects[1].id, before.objects[0].id)
    assert ids[1].startswith(f"{image.digest[:12]}-")
    assert len({*ids, *(o.id for o in before.objects)}) == 3


def test_the_id_of_an_object_that_was_taken_out_is_given_to_no_other(draft, make_image):
    image, first, second = candidate(make_image(1)), [0, 0, 8, 8], [10, 4, 20, 14]
    known = {}
    for boxes in ([first, second], [first], [first, [12, 0, 20, 5]]):
        additions = Additions(draft, known, relabel=True)
        additions.add(image, Annotations.of(boxes, [0] * len(boxes)), "g", "human", {})
        known = dict(additions.items)
        if len(boxes) == 2 and boxes[1] == second:
            gone = known[image.digest].objects[1].id

    assert gone not in {o.id for o in known[image.digest].objects}


def test_an_image_that_would_be_in_two_splits_is_refused(draft, make_item, make_image):
    mine, other = make_item(1, group="mine", split="train"), make_item(2, group="other", split="test")
    additions = Additions(draft, {mine.image: mine, other.image: other}, relabel=True)

    with pytest.raises(
        BadInput, match=r"would leak: it is in train with group 'mine', but group 'other' is in test"
    ):
        additions.add(candidate(make_image(1)), Annotations.empty(), "other", "human", {})


def test_boxes_are_clipped_to_the_image_and_those_outside_are_refused(draft, make_image):
    image = candidate(make_image(1))
    additions = Additions(draft, {}, relabel=False)

    additions.add(image, Annotations.of([[-2.0, 3.0, 30.0, 20.0]], [0]), None, "auto", {})

    assert additions.items[image.digest].objects[0].box == (0.0, 3.0, 24.0, 16.0)
    for outside in ([30.0, 3.0, 40.0, 9.0], [5.0, 5.0, 5.0, 9.0]):
        with pytest.raises(BadInput, match="no area inside"):
            additions.add(candidate(make_image(2)), Annotations.of([outside], [0]), None, "auto", {})


def test_an_unknown_class_and_metadata_that_is_not_json_are_refused(draft, make_image):
    additions, image = Additions(draft, {}, relabel=False), candidate(make_image(1))

    with pytest.raises(BadInput, match=r"class 3, but the version has classes 0 to 2"):
        additions.add(image, Annotations.of([BOX], [3]), None, "auto", {})
    with pytest.raises(BadInput, match="Only plain JSON"):
        additions.add(image, Annotations.empty(), None, "auto", {"score": float("nan")})
    assert additions.items == {}


def test_a_version_with_a_relabelled_item_still_checks_as_one(draft, make_item, make_image):
    item = make_item(1)
    additions = Additions(draft, {item.image: item}, relabel=True)
    additions.add(candidate(make_image(1)), Annotations.empty(), None, "human", {})

    assert (
        msgspec.structs.replace(
            additions.items[item.image], objects=item.objects, source="seed", metadata=item.metadata
        )
        == item
    )
