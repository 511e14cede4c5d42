import json

import msgspec
import pytest

from retrain.dataset.comparing.diff import diff_versions
from retrain.dataset.comparing.relabelling import NamedBox, ObjectChange
from retrain.dataset.version import LabelledObject, Waiver

replace = msgspec.structs.replace
BOX, OTHER = (1.0, 1.0, 5.0, 5.0), (2.0, 2.0, 9.0, 9.0)


def test_a_diff_names_added_removed_relabelled_and_moved_images(make_item, make_version):
    gone, kept, relabelled, moved, new = (make_item(n) for n in range(5))
    other = replace(relabelled, objects=(LabelledObject("a-0", 1, (2.0, 2.5, 10.0, 12.25)),))
    before = make_version([gone, kept, relabelled, moved])
    after = make_version([kept, other, replace(moved, split="test"), new], name="v1.1.0")

    diff = diff_versions(before, after)

    assert diff.added == (new.image,)
    assert diff.removed == (gone.image,)
    assert diff.relabelled == (relabelled.image,)
    assert diff.moved == (moved.image,)
    assert diff.moves == (("train", "test", 1),)
    assert diff.images_by_split == {"train": (4, 3), "val": (0, 0), "test": (0, 1)}
    train = diff.changes_by_split["train"]
    assert (train.added, train.removed, train.relabelled) == (1, 1, 1)


def test_a_version_does_not_differ_from_itself(make_item, make_version):
    version = make_version([make_item(n) for n in range(3)])

    diff = diff_versions(version, version)

    assert diff.added + diff.removed + diff.relabelled + diff.moved == ()
    assert (diff.relabellings, diff.other_changes, diff.header) == ((), {}, {})
    assert not diff.are_classes_renumbered


def test_the_same_labels_under_other_ids_or_in_another_order_are_no_relabelling(make_item, make_version):
    two = (LabelledObject("a-0", 0, (1.0, 1.0, 2.0, 2.0)), LabelledObject("a-1", 1, (3.0, 3.0, 4.0, 4.0)))
    swapped = (replace(two[1], id="x"), replace(two[0], id="y"))

    diff = diff_versions(
        make_version([make_item(1, objects=two)]), make_version([make_item(1, objects=swapped)])
    )

    assert diff.relabelled == ()


def relabelled(make_item, make_version, old, new):
    """The one relabelling between two versions of an image with these (id, class, box)."""
    before, after = (
        make_version([make_item(1, objects=tuple(LabelledObject(*o) for o in side))]) for side in (old, new)
    )
    (one,) = diff_versions(before, after).relabellings
    return one


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ([], [("a", 0, BOX)], "added"),
        ([("a", 0, BOX)], [], "removed"),
        ([("a", 0, BOX)], [("a", 1, BOX)], "reclassed"),
        ([("a", 0, BOX)], [("a", 0, OTHER)], "moved"),
        ([("a", 0, BOX)], [("a", 1, OTHER)], "reclassed and moved"),
    ],
)
def test_an_object_is_followed_by_its_id(make_item, make_version, old, new, kind):
    stays = ("z", 2, (0.0, 0.0, 3.0, 3.0))

    one = relabelled(make_item, make_version, [stays, *old], [*new, stays])

    assert [change.kind for change in one.changes] == [kind]
    assert one.changes[0].id == "a"
    assert one.unchanged == 1


def test_an_object_that_only_got_another_id_is_unchanged_in_a_relabelled_image(make_item, make_version):
    one = relabelled(make_item, make_version, [("a", 0, BOX), ("b", 1, BOX)], [("c", 0, BOX), ("b", 2, BOX)])

    assert one.changes == (ObjectChange("b", NamedBox("one", BOX), NamedBox("two", BOX)),)
    assert one.unchanged == 1


def test_of_equal_boxes_only_the_surplus_was_removed(make_item, make_version):
    one = relabelled(make_item, make_version, [("a", 0, BOX), ("b", 0, BOX), ("c", 0, BOX)], [("x", 0, BOX)])

    assert [change.kind for change in one.changes] == ["removed", "removed"]
    assert one.unchanged == 1


def test_classes_are_compared_by_name(make_item, make_version):
    before = make_version([make_item(1, objects=(LabelledObject("a", 0, BOX),))])
    same = make_version(
        [make_item(1, objects=(LabelledObject("a", 2, BOX),))], classes=("one", "two", "zero", "three")
    )

    diff = diff_versions(before, same)

    assert diff.relabelled == ()
    assert diff.are_classes_renumbered
    assert (diff.classes_added, diff.classes_removed) == (("three",), ())
    assert diff.objects_by_class == {"zero": (1, 1), "one": (0, 0), "two": (0, 0), "three": (0, 0)}


def test_the_same_index_under_another_class_name_is_a_relabelling(make_item, make_version):
    item = make_item(1, objects=(LabelledObject("a", 0, BOX),))

    diff = diff_versions(make_version([item]), make_version([item], classes=("none", "one", "two")))

    assert diff.objects_by_change() == {"reclassed": 1}


def test_a_class_at_the_end_of_the_list_renumbers_none(make_version):
    longer = make_version([], classes=("zero", "one", "two", "three"))

    assert not diff_versions(make_version([]), longer).are_classes_renumbered
    assert diff_versions(longer, make_version([])).classes_removed == ("three",)


def test_changes_beside_boxes_and_split_are_counted_by_field(make_item, make_version):
    items = [make_item(n) for n in range(3)]
    changed = [items[0], replace(items[1], source="human"), replace(items[2], metadata={}, source="auto")]

    diff = diff_versions(make_version(items), make_version(changed))

    assert diff.other_changes == {"source": 2, "metadata": 1}
    assert diff.images_by_source == {"seed": (3, 1), "human": (0, 1), "auto": (0, 1)}
    assert diff.images_by_camera == {"north": (3, 2), "(not known)": (0, 1)}


def test_boxes_are_counted_by_size(make_item, make_version):
    big = make_item(
        1, width=500, height=500, objects=(
            LabelledObject("a", 0, (0.0, 0.0, 32.0, 32.0)), LabelledObject("b", 0, (0.0, 0.0, 400.0, 400.0)),
        ),
    )  # fmt: skip

    diff = diff_versions(make_version([make_item(0)]), make_version([make_item(0), big]))

    assert diff.boxes_by_size == {"small": (1, 1), "medium": (0, 1), "large": (0, 1)}


def test_waivers_and_settings_of_both_versions_are_compared(make_version):
    old, kept, new = (Waiver("group", ("a" * 64, c * 64), ("train", "val"), "why") for c in "bcd")
    before = make_version([], waivers=(old, kept))
    after = make_version([], waivers=(kept, new), salt="x", gold="v1.0.0")

    diff = diff_versions(before, after)

    assert (diff.waivers_added, diff.waivers_removed, diff.waivers_kept) == ((new,), (old,), (kept,))
    assert diff.header == {"salt": ("", "x"), "gold": (None, "v1.0.0")}


def test_a_diff_reads_as_json_and_as_text(make_item, make_version):
    diff = diff_versions(
        make_version([make_item(0)]), make_version([make_item(0), make_item(1)], name="v1.1.0")
    )

    plain = diff.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["objects_by_class"]["one"] == [0, 1]
    text = diff.to_text()
    assert text.startswith("v1.0.0 → v1.1.0: 1 added, 0 removed, 0 relabelled\n")
    assert "train       1 → 2       +1" in text


def test_the_text_says_what_must_not_be_overlooked(make_item, make_version):
    item = make_item(1, objects=(LabelledObject("a", 0, BOX),))
    changed = replace(item, objects=(LabelledObject("a", 2, BOX),), split="test")
    waiver = Waiver("group", (item.image, "f" * 64), ("test", "train"), "why")

    text = diff_versions(
        make_version([item]),
        make_version([changed], classes=("one", "zero", "late"), waivers=(waiver,)),
    ).to_text()

    for line in (
        "objects of relabelled images: 1 reclassed",
        "images that changed split: 1 from train to test",
        "classes added: late",
        "classes removed: two",
        "classes: renumbered; models trained before read the new labels wrongly",
        "leaks waived anew: 1",
    ):
        assert f"\n{line}\n" in text
