import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.dataset.history.derivation import merged_classes, merged_items
from retrain.dataset.version import LabelledObject
from retrain.errors import BadInput

fast = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.lists(st.sampled_from(["car", "bus", "van", "dog", "cat"]), min_size=1, max_size=4, unique=True)


@pytest.fixture
def version_of(make_item, make_version):
    def make(name, classes, numbers, start=0, **changes):
        """A version with one image per number, which has one object of each class below that number."""
        items = [
            make_item(
                1,
                image=f"{start + place:064x}",
                group=f"{name}-{place}",
                split=("train", "val", "test")[place % 3],
                objects=tuple(
                    LabelledObject(f"o-{index}", index, (0.0, 0.0, 1.0 + index, 2.0))
                    for index in range(min(number, len(classes)))
                ),
            )
            for place, number in enumerate(numbers)
        ]
        return make_version(items, name=name, classes=tuple(classes), **changes)

    return make


def merged(make_version, a, b, class_map=None):
    classes = merged_classes(a, b, class_map)
    items = [*a.items, *merged_items(a, b, class_map, classes)]
    return make_version(items, name=f"({a.name} {b.name})", classes=classes)


def named_objects(version):
    """Image → names of its classes, which is what a label means."""
    return {
        item.image: [(version.classes[o.class_index], o.box) for o in item.objects] for item in version.items
    }


three = st.tuples(*[st.tuples(names, st.lists(st.integers(0, 4), max_size=5)) for _ in range(3)])


@fast
@given(drawn=three)
def test_merging_disjoint_data_is_associative_and_keeps_what_every_label_means(
    version_of, make_version, drawn
):
    a, b, c = (
        version_of(n, *given, start=100 * k) for k, (n, given) in enumerate(zip("abc", drawn, strict=True))
    )

    left = merged(make_version, merged(make_version, a, b), c)
    right = merged(make_version, a, merged(make_version, b, c))

    assert left.items == right.items
    assert left.classes == right.classes
    assert named_objects(left) == named_objects(a) | named_objects(b) | named_objects(c)
    assert {item.image: item.split for item in left.items} == {
        item.image: item.split for version in (a, b, c) for item in version.items
    }


@fast
@given(classes=names, numbers=st.lists(st.integers(0, 4), max_size=5), data=st.data())
def test_class_maps_one_after_the_other_are_their_composition(
    version_of, make_version, classes, numbers, data
):
    empty = version_of("none", ["first"], [])
    b = version_of("b", classes, numbers)
    target = st.sampled_from(["x", "y", "first", None])
    one = data.draw(st.fixed_dictionaries(dict.fromkeys(classes, target)))
    once = merged(make_version, empty, b, one)
    two = data.draw(st.fixed_dictionaries(dict.fromkeys(once.classes, target)))
    composed = {old: None if (name := one[old]) is None else two[name] for old in classes}

    twice = merged(make_version, empty, once, two)

    assert named_objects(twice) == named_objects(merged(make_version, empty, b, composed))


def test_classes_of_the_first_come_first_and_new_ones_in_their_own_order(version_of):
    a, b = version_of("a", ["car", "bus"], []), version_of("b", ["dog", "bus", "cat"], [])

    assert merged_classes(a, b, None) == ("car", "bus", "dog", "cat")
    assert merged_classes(a, b, {"dog": "car", "bus": None, "cat": "cat"}) == ("car", "bus", "cat")


def test_a_version_merged_with_itself_brings_nothing_new(version_of):
    a = version_of("a", ["car"], [1, 0, 1])

    assert merged_items(a, a, None, a.classes) == []


def test_an_image_that_both_have_with_other_labels_or_in_another_split_is_an_error(version_of, make_version):
    a = version_of("a", ["car", "bus"], [2, 1])
    relabelled = make_version([msgspec.structs.replace(a.items[0], objects=())], name="b", classes=a.classes)
    moved = make_version([msgspec.structs.replace(a.items[0], split="test")], name="b", classes=a.classes)

    with pytest.raises(BadInput, match=r"1 images of both have other labels in b than in a, first 0{64}"):
        merged_items(a, relabelled, None, a.classes)
    with pytest.raises(BadInput, match="1 images of both have another split in b"):
        merged_items(a, moved, None, a.classes)


def test_labels_of_shared_images_are_compared_after_the_class_map(version_of, make_version):
    a = version_of("a", ["car"], [1])
    same = make_version(a.items, name="b", classes=("Auto",))

    assert merged_items(a, same, {"Auto": "car"}, ("car",)) == []
    with pytest.raises(BadInput, match="other labels"):
        merged_items(a, same, {"Auto": None}, ("car",))


def test_a_group_that_would_be_torn_by_the_merge_is_an_error(version_of, make_version):
    a = version_of("a", ["car"], [1])
    stranger = msgspec.structs.replace(a.items[0], image="f" * 64, split="test")

    with pytest.raises(BadInput, match="1 groups are in one split in a and in another in b, first 'a-0'"):
        merged_items(a, make_version([stranger], name="b", classes=("car",)), None, ("car",))


def test_a_group_that_is_torn_in_both_alike_under_one_waiver_is_torn_by_neither(version_of, make_version):
    (item,) = version_of("a", ["car"], [1]).items
    other = msgspec.structs.replace(item, image="f" * 64, split="test")
    more = msgspec.structs.replace(item, image="e" * 64, group="new")
    a, b = (
        make_version(items, name=n, classes=("car",))
        for n, items in (("a", [item, other]), ("b", [item, other, more]))
    )

    assert merged_items(a, b, None, ("car",)) == [more]


@pytest.mark.parametrize(
    ("class_map", "said"),
    [
        ({"car": "car"}, "says nothing of bus; map every class of b"),
        ({"car": "car", "bus": ""}, "maps to an empty name; use null"),
        ({"car": "car", "bus": "bus", "tram": "bus"}, "names 'tram', but b has car, bus"),
        ({}, "says nothing of car, bus"),
    ],
)
def test_a_class_map_with_holes_or_strangers_is_an_error(version_of, class_map, said):
    with pytest.raises(BadInput, match=said):
        merged_classes(version_of("a", ["car"], []), version_of("b", ["car", "bus"], []), class_map)
