from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.dataset.history.manifest import Stored, check_version, new_segments, read_stored, read_version
from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject, Waiver
from retrain.errors import BadInput
from retrain.storage.digests import content_digest

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
        gold=draw(st.sampled_from([None, "v0"])),
        merged=draw(st.sampled_from([None, "other"])),
        is_aside=draw(st.booleans()),
    )


def written(version, parent=None, inherited=(), kept=None):
    """A version's header and its segments by name, with those that were there."""
    names, new = new_segments(version, parent, inherited)
    return Stored(version.header, version.digest, names), {**(kept or {}), **new}


def read_back(stored, segments):
    return read_version(read_stored(stored.to_bytes()), [segments[name] for name in stored.segments])


@given(version=versions())
def test_a_manifest_reads_back_as_the_same_version(version):
    again = read_back(*written(version))

    assert again == version
    assert again.digest == version.digest == content_digest(version.to_manifest())


@given(before=versions(), after=versions(), inherits=st.booleans())
def test_a_child_reads_back_the_same_whatever_changed(before, after, inherits):
    if inherits:
        items = {**before.by_image, **after.by_image}
        after = with_items(after, tuple(items[image] for image in sorted(items)))
    parent, segments = written(before)

    child, all_segments = written(after, before, parent.segments, segments)

    assert read_back(child, all_segments) == after


def with_items(version, items):
    return replace(version, items=items)


def test_one_percent_more_images_write_one_percent_of_the_manifest(make_item, make_version):
    before = make_version([make_item(n) for n in range(200)])
    after = make_version([*before.items, make_item(200), make_item(201)], name="v1.1.0")
    parent, segments = written(before)

    names, new = new_segments(after, before, parent.segments)

    assert names[:-1] == parent.segments
    assert sum(map(len, new.values())) < 0.015 * sum(map(len, segments.values()))


def test_removing_an_image_leaves_no_trace_of_it_in_the_child(make_item, make_version):
    before = make_version([make_item(n) for n in range(20)])
    gone = before.items[0]
    after = make_version(before.items[1:], name="v1.1.0")
    parent, segments = written(before)

    child, everything = written(after, before, parent.segments, segments)

    assert read_back(child, everything) == after
    assert not any(gone.image.encode() in everything[name] for name in child.segments)


def test_segments_are_put_together_before_they_become_many(make_item, make_version):
    version, names, segments = None, (), {}
    for count in range(1, 140):
        grown = make_version([make_item(n) for n in range(count)], name=f"v{count}")
        stored, segments = written(grown, version, names, segments)
        version, names = grown, stored.segments
        assert len(names) <= 64

    assert read_back(stored, segments) == version


def test_a_damaged_segment_is_named(make_item, make_version):
    stored, segments = written(make_version([make_item(n) for n in range(3)]))
    (name,) = stored.segments

    for wrong in (segments[name][:-3], segments[name].replace(b"12.25", b"12.26"), b""):
        with pytest.raises(BadInput, match=rf"segment {name} of v1.0.0 is damaged"):
            read_back(stored, {name: wrong})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:-9], "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: b"[]", "damaged"),
        (lambda data: b"{}", "damaged"),
        (lambda data: data.replace(b'"format": 2', b'"format": 7'), "has format 7, this Retrain reads 2"),
        (lambda data: data.replace(b'"salt"', b'"sugar"'), "sugar"),
        (lambda data: data.replace(b'"images": 1', b'"images": "1"'), "images"),
    ],
)
def test_a_damaged_header_is_refused_in_words(make_item, make_version, damage, sentence):
    data = written(make_version([make_item(1)]))[0].to_bytes()
    assert damage(data) != data

    with pytest.raises(BadInput, match=sentence):
        read_stored(damage(data))


def test_a_version_needs_images_and_untorn_groups_unless_waived(make_item, make_version):
    with pytest.raises(BadInput, match="would have no images"):
        check_version(make_version([]))
    torn = [make_item(1, group="north"), make_item(2, group="north", split="test")]
    with pytest.raises(BadInput, match="A group must be in one split"):
        check_version(make_version(torn))
    images = tuple(sorted(item.image for item in torn))
    waiver = Waiver(kind="group", images=images, splits=("train", "test"), reason="official split")

    assert check_version(make_version(torn, waivers=(waiver,))).waivers == (waiver,)
