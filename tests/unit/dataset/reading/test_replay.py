import hashlib
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.dataset.reading.replay import BACKGROUND, ReplayRatios, Stratum, choose_replay
from retrain.dataset.version import DatasetItem, LabelledObject
from retrain.errors import ConfigError

CLASSES = ("car", "truck", "person")
CAMERAS = ("north", "gate", None)
BOX = (1.0, 1.0, 2.0, 2.0)


def image(number, labels, camera) -> DatasetItem:
    return DatasetItem(
        image=hashlib.sha256(str(number).encode()).hexdigest(),
        pack="ab" * 32,
        format="png",
        width=4,
        height=4,
        objects=tuple(LabelledObject(f"o-{n}", label, BOX) for n, label in enumerate(labels)),
        split="train",
        group=f"g-{number}",
        source="seed",
        metadata={} if camera is None else {"camera": camera},
    )


def numbered(contents):
    return [image(number, labels, camera) for number, (labels, camera) in enumerate(contents)]


def strata_of(item):
    labels = {CLASSES[o.class_index] for o in item.objects} or {BACKGROUND}
    return {(label, item.metadata.get("camera")) for label in labels}


def replayed(items, ratios, known=None):
    """Digests of the replayed ones, all images being old unless said otherwise."""
    known = {item.image for item in items} if known is None else known
    return {item.image for item in choose_replay(items, known, CLASSES, ratios).replayed}


cameras = st.sampled_from(CAMERAS)
single = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=1), cameras), max_size=40).map(numbered)
several = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=4), cameras), max_size=40).map(numbered)
fractions = st.floats(0, 1)
some_ratios = st.builds(
    ReplayRatios,
    fractions,
    st.dictionaries(st.sampled_from((*CLASSES, BACKGROUND)), fractions),
    st.dictionaries(st.sampled_from(("north", "gate")), fractions),
)


def quota(ratios, stratum, size):
    return math.ceil(ratios.of(*stratum) * size)


@given(items=several, ratios=some_ratios)
def test_every_stratum_keeps_at_least_its_share_and_all_together_no_more_than_the_sum(items, ratios):
    sizes = Counter(stratum for item in items for stratum in strata_of(item))
    chosen = replayed(items, ratios)
    kept = Counter(stratum for item in items if item.image in chosen for stratum in strata_of(item))

    assert all(kept[stratum] >= quota(ratios, stratum, size) for stratum, size in sizes.items())
    assert len(chosen) <= sum(quota(ratios, stratum, size) for stratum, size in sizes.items())


@given(items=single, ratios=some_ratios)
def test_where_an_image_shows_one_class_exactly_the_shares_are_replayed(items, ratios):
    sizes = Counter(stratum for item in items for stratum in strata_of(item))

    assert len(replayed(items, ratios)) == sum(quota(ratios, one, size) for one, size in sizes.items())


@given(items=several, ratios=some_ratios, more=st.tuples(fractions, fractions, fractions))
def test_greater_ratios_only_add(items, ratios, more):
    fraction, *others = (max(a, b) for a, b in zip((ratios.fraction, *more[1:]), more, strict=True))
    raised = ReplayRatios(
        fraction,
        {name: max(ratio, others[0]) for name, ratio in ratios.by_class.items()},
        {name: max(ratio, others[1]) for name, ratio in ratios.by_camera.items()},
    )

    assert replayed(items, ratios) <= replayed(items, raised)


@given(items=several, ratios=some_ratios, data=st.data())
def test_the_choice_depends_on_the_images_alone_not_on_their_order(items, ratios, data):
    assert replayed(data.draw(st.permutations(items)), ratios) == replayed(items, ratios)


@given(items=single, ratios=some_ratios, added=st.lists(st.integers(0, 2), max_size=10))
def test_images_of_other_strata_change_nothing_within_one(items, ratios, added):
    at_north = {item.image for item in items if item.metadata.get("camera") == "north"}
    more = [*items, *(image(1000 + n, [label], "gate") for n, label in enumerate(added))]

    assert replayed(more, ratios) & at_north == replayed(items, ratios) & at_north


@given(items=several, ratios=some_ratios, labels=st.sets(st.integers(0, 2)), camera=cameras)
def test_one_more_image_takes_at_most_one_from_each_of_its_strata(items, ratios, labels, camera):
    added = image(1000, labels, camera)

    lost = replayed(items, ratios) - replayed([*items, added], ratios)

    assert len(lost) <= len(strata_of(added))
    assert all(strata_of(item) & strata_of(added) for item in items if item.image in lost)


@given(items=several, ratios=some_ratios, known=st.sets(st.integers(0, 39)))
def test_new_images_are_all_kept_and_never_replayed(items, ratios, known):
    old = {item.image for number, item in enumerate(items) if number in known}

    choice = choose_replay(items, old, CLASSES, ratios)

    assert {item.image for item in choice.new} == {item.image for item in items} - old
    assert {item.image for item in choice.replayed} <= old
    assert sum(one.old for one in choice.strata) == sum(len(strata_of(i)) for i in items if i.image in old)


def test_a_rare_class_of_a_quiet_camera_is_replayed_however_small_the_fraction():
    items = numbered([([0], "north")] * 500 + [([2], "gate")])

    choice = choose_replay(items, {item.image for item in items}, CLASSES, ReplayRatios(0.001))

    assert choice.strata == (Stratum("person", "gate", 1, 1), Stratum("car", "north", 500, 1))
    assert replayed(items, ReplayRatios(0.0)) == set()


def test_a_ratio_of_a_class_or_camera_takes_the_place_of_the_fraction_and_the_greater_of_two_holds():
    ratios = ReplayRatios(0.5, {"car": 0.1, BACKGROUND: 0.9}, {"north": 0.3})

    assert ratios.of("car", "gate") == 0.1
    assert ratios.of("car", "north") == 0.3
    assert ratios.of("person", "north") == 0.3
    assert ratios.of("person", "gate") == ratios.of("person", None) == 0.5
    assert ratios.of(BACKGROUND, "north") == 0.9


def test_what_images_of_several_classes_ask_for_mostly_coincides():
    contents = [([n % 3, n * 7 % 3, n % 2], CAMERAS[n % 3]) for n in range(3000)]
    items = numbered(contents)
    sizes = Counter(stratum for item in items for stratum in strata_of(item))

    chosen = len(replayed(items, ReplayRatios(0.3)))

    assert chosen <= 0.3 * 3000 + sum(1 + math.sqrt(size) / 4 for size in sizes.values())
    assert chosen < 0.7 * sum(math.ceil(0.3 * size) for size in sizes.values())


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (
            ReplayRatios(0.5, {"trcuk": 1.0}),
            r"Unknown class in replay_by_class 'trcuk'\. Did you mean 'truck'\?",
        ),
        (ReplayRatios(0.5, {"xyz": 1.0}), r"'xyz'\. Known: car, truck, person, no object\."),
        (ReplayRatios(1.5), r"must be in \[0, 1\], got replay_fraction=1\.5"),
        (ReplayRatios(math.nan), "got replay_fraction=nan"),
        (ReplayRatios(0.5, {"car": -1}, {"car": 2}), "got replay_by_class.car=-1, replay_by_camera.car=2"),
    ],
)
def test_ratios_that_cannot_be_are_refused(ratios, message):
    with pytest.raises(ConfigError, match=message):
        choose_replay([], set(), CLASSES, ratios)
