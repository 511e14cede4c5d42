import json
from dataclasses import replace

from retrain.dataset.diff import diff_versions
from retrain.dataset.version import LabelledObject


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
    assert diff.images_by_split == {"train": (4, 3), "val": (0, 0), "test": (0, 1)}


def test_the_same_labels_under_other_ids_or_in_another_order_are_no_relabelling(make_item, make_version):
    two = (LabelledObject("a-0", 0, (1.0, 1.0, 2.0, 2.0)), LabelledObject("a-1", 1, (3.0, 3.0, 4.0, 4.0)))
    swapped = (replace(two[1], id="x"), replace(two[0], id="y"))

    diff = diff_versions(
        make_version([make_item(1, objects=two)]), make_version([make_item(1, objects=swapped)])
    )

    assert diff.relabelled == ()


def test_a_diff_reads_as_json_and_as_text(make_item, make_version):
    diff = diff_versions(
        make_version([make_item(0)]), make_version([make_item(0), make_item(1)], name="v1.1.0")
    )

    assert json.loads(json.dumps(diff.to_json()))["objects_by_class"]["one"] == [0, 1]
    text = diff.to_text()
    assert text.startswith("v1.0.0 → v1.1.0: 1 added, 0 removed, 0 relabelled\n")
    assert "train       1 → 2       +1" in text
