import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.dataset.splitter import DatasetSplitter, checked_fractions
from retrain.errors import BadInput

groups = st.sets(st.text(max_size=20), min_size=1, max_size=60)


@st.composite
def fractions(draw):
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2)))
    shares = (cuts[0], cuts[1] - cuts[0], 100 - cuts[1])
    return {name: share / 100 for name, share in zip(("train", "val", "test"), shares, strict=True)}


@given(groups=groups, splits=fractions(), salt=st.text(max_size=5))
def test_every_group_is_in_exactly_one_split_that_has_a_share(groups, splits, salt):
    splitter = DatasetSplitter(splits, salt)

    assert all(splits[splitter.split_of(group)] > 0 for group in groups)


@given(before=groups, extra=groups, splits=fractions())
def test_adding_groups_moves_none_between_splits(before, extra, splits):
    first, grown = DatasetSplitter(splits), DatasetSplitter(splits)

    assigned = {group: first.split_of(group) for group in before}
    for group in sorted(before | extra):
        grown.split_of(group)

    assert {group: grown.split_of(group) for group in before} == assigned


@given(groups=groups, splits=fractions())
def test_the_order_in_which_fractions_are_given_changes_nothing(groups, splits):
    backwards = dict(reversed(splits.items()))

    assert all(DatasetSplitter(splits).split_of(g) == DatasetSplitter(backwards).split_of(g) for g in groups)


def test_fractions_hold_over_many_groups():
    splitter = DatasetSplitter({"train": 0.65, "val": 0.15, "test": 0.2})

    assigned = [splitter.split_of(f"camera-{n}") for n in range(20_000)]

    shares = {name: assigned.count(name) / len(assigned) for name in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.65, "val": 0.15, "test": 0.2}, abs=0.015)


def test_another_salt_is_an_independent_assignment():
    names = [f"g{n}" for n in range(2000)]
    half = {"train": 0.5, "test": 0.5}

    agreed = sum(
        DatasetSplitter(half, "a").split_of(n) == DatasetSplitter(half, "b").split_of(n) for n in names
    )

    assert 850 < agreed < 1150


def test_the_assignment_is_the_same_in_every_process():
    code = "from retrain.dataset.splitter import DatasetSplitter as D;"
    code += "print([D({'train': .5, 'test': .5}).split_of(str(n)) for n in range(40)])"

    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        for seed in ("1", "2")
    ]

    assert said[0].stdout == said[1].stdout
    assert b"train" in said[0].stdout


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
