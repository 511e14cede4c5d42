import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.dataset.comparing.patch import DatasetPatch, apply, compose, patch
from retrain.dataset.version import DatasetItem, DatasetVersion, LabelledObject, Waiver
from retrain.errors import BadInput, Conflict

# Few images and small values: versions then often share images, and often differ in one field alone.
IMAGES = [f"{n:064x}" for n in range(5)]
edges = st.sampled_from([1.0, 2.5, 7.25])
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), edges, edges, edges, edges)
labels = st.lists(st.tuples(st.integers(0, 2), boxes), max_size=2).map(
    lambda given: tuple(LabelledObject(f"o-{i}", index, box) for i, (index, box) in enumerate(given))
)
waivers = st.builds(
    Waiver,
    kind=st.sampled_from(["group", "near-duplicate"]),
    images=st.just((IMAGES[0], IMAGES[1])),
    splits=st.just(("train", "test")),
    reason=st.sampled_from(["as published", "Erste Fassung\u2028"]),
    distance=st.none() | st.integers(0, 9),
)


items = st.builds(
    DatasetItem,
    image=st.sampled_from(IMAGES),
    pack=st.sampled_from(["aa" * 32, "bb" * 32]),
    format=st.just("png"),
    width=st.just(24),
    height=st.just(16),
    objects=labels,
    split=st.sampled_from(["train", "test"]),
    group=st.sampled_from(["g", "h"]),
    source=st.sampled_from(["seed", "human"]),
    metadata=st.sampled_from([{}, {"camera": "é"}, {"camera": None, "cycle": 1}]),
)
versions = st.builds(
    DatasetVersion,
    name=st.sampled_from(["v1.0.0", "v1.1.0"]),
    description=st.sampled_from(["", "Erste\u2028Fassung"]),
    classes=st.sampled_from([("zero", "one", "two"), ("two", "one", "zero")]),
    parent=st.sampled_from([None, "v0.9.0"]),
    parent_digest=st.sampled_from([None, "cd" * 32]),
    splits=st.sampled_from([{"train": 0.7, "test": 0.3}, {"test": 0.5, "train": 0.5}]),
    salt=st.sampled_from(["", "x"]),
    items=st.lists(items, max_size=5, unique_by=lambda item: item.image).map(
        lambda given: tuple(sorted(given, key=lambda item: item.image))
    ),
    waivers=st.lists(waivers, max_size=2).map(tuple),
    gold=st.sampled_from([None, "v1.0.0"]),
    merged=st.sampled_from([None, "v0.9.0"]),
    is_aside=st.booleans(),
)
some = settings(max_examples=50)


@some
@given(versions, versions)
def test_a_patch_from_a_to_b_applied_to_a_gives_b(a, b):
    given = apply(patch(a, b), a)

    assert given == b
    assert given.digest == b.digest
    assert given.to_manifest() == b.to_manifest()


@some
@given(versions, versions)
def test_a_patch_holds_only_what_differs(a, b):
    change = patch(a, b)

    assert {item.image for item in change.written} == {
        item.image for item in b.items if a.by_image.get(item.image) != item
    }
    assert set(change.removed) == a.by_image.keys() - b.by_image.keys()
    assert (change.header is None) == (a.header == b.header)
    assert change.is_empty == (a == b)


@some
@given(versions)
def test_a_patch_from_a_version_to_itself_is_empty(a):
    change = patch(a, a)

    assert change == DatasetPatch(a.digest, a.digest)
    assert change.is_empty
    assert apply(change, a) is a


@some
@given(versions, versions, versions)
def test_two_patches_one_after_the_other_are_one(a, b, c):
    both = compose(patch(a, b), patch(b, c))

    assert apply(both, a) == c
    assert both.is_empty == (a == c)
    assert not {item.image for item in both.written} & set(both.removed)


@some
@given(versions, versions, versions, versions)
def test_composition_may_be_done_in_any_order(a, b, c, d):
    ab, bc, cd = patch(a, b), patch(b, c), patch(c, d)

    assert apply(compose(compose(ab, bc), cd), a) == apply(compose(ab, compose(bc, cd)), a) == d


@some
@given(versions, versions)
def test_the_patch_back_undoes_a_patch(a, b):
    assert compose(patch(a, b), patch(b, a)).is_empty


@some
@given(versions, versions)
def test_a_patch_survives_being_written_down(a, b):
    change = patch(a, b)

    assert apply(msgspec.json.decode(msgspec.json.encode(change), type=DatasetPatch), a) == b


def test_a_patch_is_refused_by_another_version(make_item, make_version):
    a, b = make_version([make_item(0)]), make_version([make_item(1)])

    with pytest.raises(Conflict, match=f"digest {a.digest[:12]}, but v1.0.0 has {b.digest[:12]}"):
        apply(patch(a, b), b)


def test_patches_that_do_not_meet_are_not_composed(make_item, make_version):
    a, b = make_version([make_item(0)]), make_version([make_item(1)])

    with pytest.raises(Conflict, match="second patch applies to"):
        compose(patch(a, b), patch(a, b))


def test_a_damaged_patch_is_found_by_the_digest_of_its_result(make_item, make_version):
    a, b = make_version([make_item(0)]), make_version([make_item(0), make_item(1)])
    change = msgspec.structs.replace(patch(a, b), written=())

    with pytest.raises(BadInput, match="damaged or edited"):
        apply(change, a)
