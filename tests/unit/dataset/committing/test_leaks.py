import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.dataset.committing.leaks import find_leaks
from retrain.dataset.duplicates import NearPair
from retrain.dataset.version import Waiver
from retrain.errors import Leakage


@pytest.fixture
def items(make_item):
    def make(*placed):
        """Items for (name, split, group) in which the name is the digest's first letter."""
        made = [make_item(1, image=name * 64, split=split, group=group) for name, split, group in placed]
        return {item.image: item for item in made}

    return make


def pair(a, b, distance=3):
    return NearPair(a * 64, b * 64, distance, mirrored=False)


def waiver(kind, a, b, splits=("train", "test")):
    return Waiver(kind=kind, images=(a * 64, b * 64), splits=splits, reason="told", distance=None)


def test_the_same_picture_in_one_split_is_no_leak_and_in_two_it_is(items):
    together = items(("a", "train", "g"), ("b", "train", "h"))
    apart = items(("a", "train", "g"), ("b", "test", "h"))

    assert find_leaks(together, [pair("a", "b")]).leaks == ()
    (leak,) = find_leaks(apart, [pair("a", "b")]).leaks
    assert (leak.kind, leak.images, leak.splits) == (
        "near-duplicate",
        ("a" * 64, "b" * 64),
        ("train", "test"),
    )


def test_a_group_in_three_splits_leaks_between_the_first_and_each_other(items):
    torn = items(("a", "train", "g"), ("b", "val", "g"), ("c", "test", "g"), ("d", "train", "g"))

    leaks = find_leaks(torn, []).leaks

    assert [leak.images for leak in leaks] == [("a" * 64, "b" * 64), ("a" * 64, "c" * 64)]


def test_the_report_is_the_same_whatever_the_order_of_images(items):
    placed = [("a", "train", "g"), ("b", "val", "g"), ("c", "test", "h"), ("d", "train", "h")]

    assert find_leaks(items(*placed), []) == find_leaks(items(*reversed(placed)), [])


def test_a_waiver_holds_for_its_two_images_alone(items):
    apart = items(("a", "train", "g"), ("b", "test", "h"), ("c", "test", "i"))
    pairs = [pair("a", "b"), pair("a", "c")]

    report = find_leaks(apart, pairs, [waiver("near-duplicate", "a", "b")])

    assert [leak.images for leak in report.leaks] == [("a" * 64, "c" * 64)]
    assert len(report.waived) == 1


@pytest.mark.parametrize("other", ["val", "train"])
def test_a_waiver_ends_when_an_image_is_elsewhere_or_gone(items, other):
    moved = items(("a", "train", "g"), ("b", other, "h"))
    alone = items(("a", "train", "g"))

    assert find_leaks(moved, [], [waiver("near-duplicate", "a", "b")]).waived == ()
    assert find_leaks(alone, [], [waiver("near-duplicate", "a", "b")]).waived == ()


def test_a_waiver_of_a_shared_group_does_not_cover_the_same_picture_nor_the_other_way_round(items):
    apart = items(("a", "train", "g"), ("b", "test", "h"))
    torn = items(("a", "train", "g"), ("b", "test", "g"))

    assert len(find_leaks(apart, [pair("a", "b")], [waiver("group", "a", "b")]).leaks) == 1
    assert len(find_leaks(torn, [], [waiver("near-duplicate", "a", "b")]).leaks) == 1


def test_of_two_waivers_for_the_same_images_both_stand(items):
    torn = items(("a", "train", "g"), ("b", "test", "g"))
    both = [waiver("group", "a", "b"), waiver("near-duplicate", "a", "b")]

    for waivers in (both, both[::-1]):
        report = find_leaks(torn, [pair("a", "b")], waivers)
        assert report.leaks == ()
        assert set(report.waived) == set(both)


def test_leaks_are_accepted_with_words_only_and_all_of_them_are_recorded(items):
    apart = items(("a", "train", "g"), ("b", "test", "h"), ("c", "train", "h"))
    report = find_leaks(apart, [pair("a", "b")])
    assert len(report.leaks) == 2

    for silence in (None, "", " \n"):
        with pytest.raises(Leakage, match=r"2 pairs of images leak between splits: .*waive="):
            report.accepted(silence)

    waivers = report.accepted("told")
    again = find_leaks(apart, [pair("a", "b")], waivers)
    assert {(w.kind, w.images, w.reason) for w in waivers} == {
        (k.kind, k.images, "told") for k in report.leaks
    }
    assert again.leaks == ()
    assert again.accepted(None) == again.waived


def test_a_thousand_leaks_are_counted_and_ten_are_named(make_item):
    made = [
        make_item(1, image=f"{n:064x}", split="train" if n % 2 else "test", group=f"g{n // 2}")
        for n in range(2000)
    ]

    with pytest.raises(Leakage, match=r"^1000 pairs .*and 990 more") as caught:
        find_leaks({item.image: item for item in made}, []).accepted(None)

    assert len(str(caught.value)) < 2000


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_leak_means_that_no_group_and_no_picture_is_in_two_splits(make_item, data):
    drawn = data.draw(
        st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.sampled_from("ghij")), max_size=8)
    )
    placed = [make_item(1, image=f"{n:064x}", split=s, group=g) for n, (s, g) in enumerate(drawn)]
    items = {item.image: item for item in placed}
    digests = sorted(items)
    indices = st.integers(0, max(len(digests) - 1, 0))
    drawn_pairs = data.draw(st.lists(st.tuples(indices, indices), max_size=6)) if len(digests) > 1 else []
    pairs = [
        NearPair(digests[min(a, b)], digests[max(a, b)], 1, mirrored=False)
        for a, b in drawn_pairs
        if items[digests[a]].group != items[digests[b]].group
    ]

    leaks = find_leaks(items, pairs).leaks

    splits = {}
    for item in placed:
        splits.setdefault(item.group, set()).add(item.split)
    clean = all(len(s) == 1 for s in splits.values()) and all(
        items[p.first].split == items[p.second].split for p in pairs
    )
    assert (leaks == ()) == clean
