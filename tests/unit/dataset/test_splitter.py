import hashlib
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from retrain.dataset.splitter import DEFAULT_FRACTIONS, DatasetSplitter, GroupContents, checked_fractions
from retrain.errors import BadInput

contents = st.builds(
    GroupContents, images=st.integers(1, 20), objects=st.dictionaries(st.integers(0, 6), st.integers(0, 30))
)
groups = st.dictionaries(st.text(max_size=12), contents, min_size=1, max_size=40)


@st.composite
def fractions(draw):
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2)))
    shares = (cuts[0], cuts[1] - cuts[0], 100 - cuts[1])
    return {name: share / 100 for name, share in zip(("train", "val", "test"), shares, strict=True)}


def skewed_groups(count, classes=40, seed=5):
    """Recordings of 1 to 5 images; the most frequent class occurs about a hundred times as often as the rarest."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, classes + 1) ** 1.3
    made = {}
    for number in range(count):
        drawn = rng.choice(classes, size=int(rng.integers(0, 9)), p=chance / chance.sum())
        objects = Counter(drawn.tolist())
        made[f"recording-{number}"] = GroupContents(int(rng.integers(1, 6)), objects)
    return made


def held(given_groups, assigned):
    """What each split holds after the assignment."""
    images, objects = Counter(), {}
    for group, split in assigned.items():
        images[split] += given_groups[group].images
        objects.setdefault(split, Counter()).update(given_groups[group].objects)
    return {split: GroupContents(images[split], objects[split]) for split in images}


def image_shares(splits):
    total = sum(split.images for split in splits.values())
    return {name: splits[name].images / total for name in DEFAULT_FRACTIONS if name in splits}


def class_errors(splits, wanted):
    """Mean over the classes of the greatest distance of a split's share from its fraction."""
    totals = sum((Counter(split.objects) for split in splits.values()), Counter())
    worst = [
        max(abs(splits[name].objects.get(index, 0) / total - share) for name, share in wanted.items())
        for index, total in totals.items()
    ]
    return float(np.mean(worst))


@settings(max_examples=40)
@given(groups=groups, splits=fractions(), salt=st.text(max_size=5))
def test_every_group_is_in_exactly_one_split_that_has_a_share(groups, splits, salt):
    assigned = DatasetSplitter(splits, salt).assign(groups)

    assert assigned.keys() == groups.keys()
    assert all(splits[split] > 0 for split in assigned.values())


@settings(max_examples=40)
@given(data=st.data(), groups=groups, splits=fractions())
def test_neither_the_order_of_groups_nor_of_classes_nor_of_fractions_changes_anything(data, groups, splits):
    names = data.draw(st.permutations(sorted(groups)))
    shuffled = {
        name: GroupContents(groups[name].images, dict(reversed(groups[name].objects.items())))
        for name in names
    }
    backwards = dict(reversed(splits.items()))

    assert DatasetSplitter(backwards).assign(shuffled) == DatasetSplitter(splits).assign(groups)


@settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    images=st.lists(st.integers(1, 50), min_size=12, max_size=60), splits=fractions(), objects=st.booleans()
)
def test_each_split_is_within_one_largest_group_of_its_share(images, splits, objects):
    # Where a share is worth less than a group, the rule that no split stays empty comes first.
    assume(all(fraction * sum(images) >= max(images) for fraction in splits.values() if fraction > 0))
    groups = {f"g{n}": GroupContents(count, {4: count} if objects else {}) for n, count in enumerate(images)}
    assigned = DatasetSplitter(splits).assign(groups)

    for name, fraction in splits.items():
        got = sum(groups[g].images for g, split in assigned.items() if split == name)
        assert abs(got - fraction * sum(images)) <= max(images)


@settings(max_examples=40)
@given(groups=groups, splits=fractions())
def test_no_split_with_a_share_stays_empty_while_there_are_groups_enough(groups, splits):
    wanted = [name for name in ("train", "test", "val") if splits[name] > 0]

    used = set(DatasetSplitter(splits).assign(groups).values())

    # Too few groups: train is served first, then test, then val.
    assert used == set(wanted[: len(groups)])


@settings(max_examples=40)
@given(
    new=groups, splits=fractions(), held=st.dictionaries(st.sampled_from(list(DEFAULT_FRACTIONS)), contents)
)
def test_only_groups_without_a_split_get_one_whatever_is_settled(new, splits, held):
    assigned = DatasetSplitter(splits).assign(new, held)

    empty = [name for name in ("train", "test", "val") if splits[name] > 0 and name not in held]
    assert assigned.keys() == new.keys()
    assert all(splits[split] > 0 for split in assigned.values())
    assert set(empty[: len(new)]) <= set(assigned.values())


def test_the_last_group_goes_to_an_empty_split_although_another_lacks_more():
    settled = {"train": GroupContents(100, {}), "val": GroupContents(1, {})}

    assigned = DatasetSplitter(DEFAULT_FRACTIONS).assign({"g": GroupContents(10, {})}, settled)

    assert assigned == {"g": "test"}


def test_what_two_splits_lack_equally_goes_to_either_as_a_hash_says():
    half = DatasetSplitter({"train": 0.5, "test": 0.5})
    settled = {name: GroupContents(100, {0: 7}) for name in ("train", "test")}

    assigned = [half.assign({f"g{n}": GroupContents(1, {0: 1})}, settled)[f"g{n}"] for n in range(300)]

    assert 110 < assigned.count("train") < 190


def test_large_groups_are_dealt_out_while_small_ones_can_still_even_them_out():
    groups = {f"g{n}": GroupContents(30 if n == 0 else 1, {}) for n in range(71)}

    for salt in ("a", "b", "c"):
        splits = held(groups, DatasetSplitter(DEFAULT_FRACTIONS, salt).assign(groups))
        assert {name: split.images for name, split in splits.items()} == {"train": 70, "val": 20, "test": 10}


def test_the_few_groups_of_a_rare_class_are_shared_out_to_the_nearest_group():
    groups = {f"g{n}": GroupContents(1, {1: 1} if n < 4 else {}) for n in range(100)}

    assigned = DatasetSplitter(DEFAULT_FRACTIONS).assign(groups)

    # 2.8, 0.8 and 0.4 groups are wanted.
    assert Counter(assigned[f"g{n}"] for n in range(4)) == {"train": 3, "val": 1}


@pytest.mark.parametrize("size", [2, 3, 4])
def test_many_classes_of_few_groups_do_not_all_end_in_train(size):
    groups = {f"g{n}": GroupContents(1, {n // size: 1}) for n in range(600)}

    shares = image_shares(held(groups, DatasetSplitter(DEFAULT_FRACTIONS).assign(groups)))

    assert shares["train"] < 0.85


def test_new_groups_make_up_for_what_the_settled_splits_lack():
    settled = {"train": GroupContents(900, {0: 900}), "val": GroupContents(100, {0: 100})}
    new = {f"g{n}": GroupContents(1, {0: 1}) for n in range(500)}

    assigned = Counter(DatasetSplitter(DEFAULT_FRACTIONS).assign(new, settled).values())

    # 1500 images in all: 1050, 300 and 150 are wanted.
    assert assigned == {"train": 150, "val": 200, "test": 150}


def test_a_class_that_is_new_is_shared_out_although_train_has_too_many_images():
    settled = {
        name: GroupContents(1000 * part, {0: 1000 * part}) for name, part in (("train", 9), ("val", 1))
    }
    new = {f"g{n}": GroupContents(1, {1: 1}) for n in range(100)}

    assigned = Counter(DatasetSplitter(DEFAULT_FRACTIONS).assign(new, settled).values())

    assert assigned["train"] >= 45
    assert min(assigned.values()) >= 10


def test_data_that_comes_in_ten_parts_is_split_as_well_as_data_that_comes_at_once():
    everything = skewed_groups(2000)
    splitter, assigned = DatasetSplitter(DEFAULT_FRACTIONS), {}

    for part in range(10):
        new = {name: group for name, group in everything.items() if int(name[10:]) % 10 == part}
        assigned |= splitter.assign(new, held(everything, assigned))

    splits = held(everything, assigned)
    assert image_shares(splits) == pytest.approx(DEFAULT_FRACTIONS, abs=0.005)
    assert class_errors(splits, DEFAULT_FRACTIONS) < 0.03


def test_class_shares_are_at_least_three_times_as_exact_as_by_a_hash_alone():
    groups = skewed_groups(3000)
    by_hash = {
        name: ("train", "val", "test")[np.searchsorted([179, 230], hashlib.sha256(name.encode()).digest()[0])]
        for name in groups
    }

    stratified = held(groups, DatasetSplitter(DEFAULT_FRACTIONS).assign(groups))

    baseline = class_errors(held(groups, by_hash), DEFAULT_FRACTIONS)
    assert class_errors(stratified, DEFAULT_FRACTIONS) < baseline / 3
    assert image_shares(stratified) == pytest.approx(DEFAULT_FRACTIONS, abs=0.002)


def test_crowded_groups_are_in_every_split_as_often_as_sparse_ones():
    groups = {f"g{n}": GroupContents(1, {0: 1 + n % 20}) for n in range(2000)}

    splits = held(groups, DatasetSplitter(DEFAULT_FRACTIONS).assign(groups))

    density = {name: split.objects[0] / split.images for name, split in splits.items()}
    assert density == pytest.approx(dict.fromkeys(DEFAULT_FRACTIONS, 10.5), rel=0.02)


def test_another_salt_is_another_assignment():
    groups = {f"g{n}": GroupContents(1, {0: 1}) for n in range(2000)}
    half = {"train": 0.5, "test": 0.5}

    first, second = (DatasetSplitter(half, salt).assign(groups) for salt in ("a", "b"))

    assert 850 < sum(first[name] == second[name] for name in groups) < 1150


def test_the_assignment_is_the_same_in_every_process():
    code = """if True:
        import json
        from retrain.dataset.splitter import DatasetSplitter, GroupContents

        names = {f"g{n}" for n in range(60)}
        groups = {n: GroupContents(1, {c: 1 for c in {len(n), int(n[1:]) % 5}}) for n in names}
        print(json.dumps(DatasetSplitter({"train": 0.5, "test": 0.5}, "salt").assign(groups)))
    """

    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]

    assert said[0] == said[1]
    assert Counter(json.loads(said[0]).values()).keys() == {"train", "test"}


def test_no_groups_need_no_split():
    assert DatasetSplitter(DEFAULT_FRACTIONS).assign({}) == {}


@pytest.mark.parametrize(
    ("groups", "settled", "sentence"),
    [
        ({"a": GroupContents(0, {})}, {}, r"Group 'a' must hold at least 1 images, got 0\."),
        (
            {"a": GroupContents(1, {2: -1})},
            {},
            r"Group 'a' must hold 0 or more objects of each class, got -1\.",
        ),
        ({}, {"val": GroupContents(-1, {})}, r"Split 'val' must hold at least 0 images, got -1\."),
        (
            {},
            {"dev": GroupContents(1, {})},
            r"Unknown split 'dev' in settled\. Splits are train, val and test\.",
        ),
    ],
)
def test_contents_that_cannot_be_are_refused(groups, settled, sentence):
    with pytest.raises(BadInput, match=sentence):
        DatasetSplitter(DEFAULT_FRACTIONS).assign(groups, settled)


@settings(max_examples=30)
@given(splits=fractions())
def test_fractions_come_back_in_one_order(splits):
    assert list(checked_fractions(dict(reversed(splits.items())))) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (
            {"train": 0.7, "val": 0.2, "test": 0.2},
            r"train \+ val \+ test must be 1, got 0.7 \+ 0.2 \+ 0.2 = 1.1\.",
        ),
        ({"train": 1.5, "val": -0.5}, r"train must be in \[0, 1\], got 1.5\."),
        ({"train": 0.9, "dev": 0.1}, r"Unknown split 'dev'\. Splits are train, val and test\."),
        ({"train": float("nan"), "val": 1.0}, r"train must be in \[0, 1\], got nan\."),
        ({}, r"= 0\."),
    ],
)
def test_fractions_that_are_not_shares_of_one_are_refused(splits, sentence):
    with pytest.raises(BadInput, match=sentence):
        checked_fractions(splits)
