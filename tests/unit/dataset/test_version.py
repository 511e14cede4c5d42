import json

import msgspec
import pytest

from retrain.dataset.version import LabelledObject, canonical_line, check_items
from retrain.errors import BadInput


def test_any_change_of_an_item_changes_the_digest(make_item, make_version):
    item = make_item(1)
    moved = msgspec.structs.replace(item.objects[0], box=(1.0, 2.5, 10.0, 12.250001))
    changes = [
        {"split": "val"},
        {"group": "other"},
        {"source": "auto"},
        {"objects": (moved,)},
        {"metadata": {}},
    ]

    digests = {make_version([msgspec.structs.replace(item, **change)]).digest for change in [{}, *changes]}

    assert len(digests) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "dev"}, r"split must be one of train, val, test, got 'dev'"),
        ({"objects": (LabelledObject("a-0", 1, (1.0, 2.5, 10.0, 99.25)),)}, r"box inside the image"),
        ({"objects": (LabelledObject("a-0", 3, (1.0, 2.5, 10.0, 12.25)),)}, r"class below 3"),
        ({"objects": (LabelledObject("a-0", 1, (5.0, 2.5, 5.0, 12.25)),)}, r"box inside the image"),
        ({"objects": (LabelledObject("a-0", 1, (float("nan"), 2.5, 5.0, 12.25)),)}, r"box inside the image"),
        ({"objects": (LabelledObject("a", 1, (1.0, 2.0, 3.0, 4.0)),) * 2}, r"two objects have the same id"),
        ({"height": "16"}, r"whole pixels"),
        ({"format": "gif"}, r"format must be one of bmp, jpg, png, tif, webp"),
        ({"pack": ""}, r"64 hex characters"),
    ],
)
def test_an_impossible_item_is_refused_naming_what_is_wrong(make_item, make_version, change, sentence):
    version = make_version([make_item(1, **change), make_item(2)])

    with pytest.raises(BadInput, match=sentence):
        check_items(version.items, version.classes, version.splits)


def test_images_must_be_sorted_and_occur_once(make_item, make_version):
    one, two = make_version([make_item(1), make_item(2)]).items

    for wrong in ((two, one), (one, one)):
        with pytest.raises(BadInput, match="must be sorted and occur once"):
            check_items(wrong, ("zero", "one", "two"), {"train": 1.0})


def test_all_groups_in_two_splits_are_listed(make_item, make_version):
    leaking = [make_item(1, group="north", split="train"), make_item(2, group="north", split="test")]
    leaking += [make_item(3, group="south", split="val"), make_item(4, group="south", split="test")]
    version = make_version([*leaking, make_item(5)])

    with pytest.raises(BadInput, match=r"in several are 'north' \(test, train\), 'south' \(test, val\)\."):
        check_items(version.items, version.classes, version.splits)


def test_counts_name_every_class_and_split(make_item, make_version):
    version = make_version([make_item(0), make_item(3), make_item(1, split="val")])

    assert version.images_by_split() == {"train": 2, "val": 1, "test": 0}
    assert version.objects_by_class() == {"zero": 2, "one": 1, "two": 0}
    assert {item.split for item in version.in_split("val")} == {"val"}


def test_groups_that_were_waived_may_be_in_two_splits(make_item, make_version):
    torn = make_version([make_item(1, group="north"), make_item(2, group="north", split="test")])

    check_items(torn.items, torn.classes, torn.splits, {"north"})


def test_a_manifest_line_is_plain_json_for_other_tools(make_item, make_version):
    lines = make_version([make_item(1)]).to_manifest().splitlines()

    header, item = (json.loads(line) for line in lines)

    assert header["classes"] == ["zero", "one", "two"]
    assert item["objects"] == [["a-0", 1, [1.0, 2.5, 10.0, 12.25]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(BadInput, match="Only plain JSON values"):
        canonical_line({"value": value})
