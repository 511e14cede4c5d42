import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject, check_items, read_manifest
from retrain.errors import BadInput

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def items(draw):
    width, height = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    edge = st.floats(0, 1, allow_nan=False)
    objects = []
    for number in range(draw(st.integers(0, 3))):
        x1, y1 = draw(edge) * width / 2, draw(edge) * height / 2
        box = (x1, y1, width / 2 + (width - x1) / 4, height / 2 + (height - y1) / 4)
        objects.append(LabelledObject(f"o-{number}", draw(st.integers(0, 2)), box))
    return DatasetItem(
        image=draw(digests),
        pack=draw(digests),
        format=draw(st.sampled_from(["png", "jpg", "bmp"])),
        width=width,
        height=height,
        objects=tuple(objects),
        split="train",
        group=draw(st.text(max_size=8)),
        source=draw(st.sampled_from(["seed", "auto", "human"])),
        metadata=draw(st.dictionaries(st.text(max_size=5), json_values, max_size=3)),
    )


@st.composite
def versions(draw):
    drawn = draw(st.lists(items(), max_size=4, unique_by=lambda item: item.image))
    return DatasetVersion(
        name="v1",
        description=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
        classes=("a", "b", "c"),
        parent=None,
        parent_digest=None,
        splits={"train": 0.7, "val": 0.2, "test": 0.1},
        salt="",
        items=tuple(sorted(drawn, key=lambda item: item.image)),
    )


@given(version=versions())
def test_a_manifest_reads_back_as_the_same_version(version):
    again = read_manifest(version.to_manifest())

    assert again == version
    assert again.digest == version.digest


def test_any_change_of_an_item_changes_the_digest(make_item, make_version):
    item = make_item(1)
    moved = replace(item.objects[0], box=(1.0, 2.5, 10.0, 12.250001))
    changes = [
        {"split": "val"},
        {"group": "other"},
        {"source": "auto"},
        {"objects": (moved,)},
        {"metadata": {}},
    ]

    digests = {make_version([replace(item, **change)]).digest for change in [{}, *changes]}

    assert len(digests) == len(changes) + 1


@pytest.fixture
def lines(make_item, make_version):
    return make_version([make_item(n) for n in range(3)]).to_manifest().split(b"\n")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda lines: [*lines[:2], lines[2][:-20]], r"Manifest line 3 is cut off"),
        (lambda lines: [lines[0], b"not json", *lines[2:]], r"Manifest line 2 is not JSON"),
        (lambda lines: [lines[0], b"[1]", *lines[2:]], r"Manifest line 2 must be a JSON object"),
        (lambda lines: [lines[0], b"{}", *lines[2:]], r"Manifest line 2 is not a dataset item: 'objects'"),
        (
            lambda lines: [lines[0], lines[1].replace(b'"width"', b'"wide"'), *lines[2:]],
            r"Manifest line 2 .*'wide'",
        ),
        (lambda lines: [lines[0], lines[1] + b" ", *lines[2:]], r"Manifest line 2 is not in canonical form"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], r"must be sorted and occur once"),
        (lambda lines: [lines[0], lines[1], *lines[1:]], r"must be sorted and occur once"),
        (lambda lines: [lines[0], *lines[2:]], r"Manifest line 1 is not in canonical form"),
        (lambda lines: [b"{}", *lines[1:]], r"Manifest line 1 is not a dataset header: KeyError\('format'\)"),
        (
            lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]],
            r"line 1: format must be 1, got 2",
        ),
        (
            lambda lines: [lines[0], lines[1].replace(b'"split":"train"', b'"split":"dev"'), *lines[2:]],
            r"got 'dev'",
        ),
        (lambda lines: [lines[0], lines[1].replace(b"12.25", b"99.25"), *lines[2:]], r"box inside the image"),
        (
            lambda lines: [lines[0], lines[1].replace(b'"height":16', b'"height":"16"'), *lines[2:]],
            r"whole pixels",
        ),
        (lambda _: [b""], r"Manifest line 1 must be the header"),
    ],
)
def test_a_damaged_manifest_is_refused_naming_what_is_wrong(lines, damage, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_manifest(b"\n".join(damage(lines)))


def test_every_truncation_is_noticed(make_item, make_version):
    manifest = make_version([make_item(n) for n in range(2)]).to_manifest()

    for length in range(len(manifest)):
        with pytest.raises(BadInput):
            read_manifest(manifest[:length])


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


def test_a_manifest_line_is_plain_json_for_other_tools(make_item):
    item = make_item(1)

    parsed = json.loads(json.dumps(item.to_json()))

    assert parsed["objects"] == [["a-0", 1, [1.0, 2.5, 10.0, 12.25]]]
    assert DatasetItem.from_json(parsed) == item
