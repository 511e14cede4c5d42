import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.frame import Frame
from retrain.data_collection.strategies.balance import ClassCounts, rare_class
from retrain.errors import BadInput, ConfigError

RARE = 3
class_lists = st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=20)


@pytest.fixture
def eager_threads():
    """Threads change after every few instructions, so a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def showing(*classes, score=0.9):
    return Frame(score, [[0, 0, 9, 9]] * len(classes), classes, [score] * len(classes))


def test_a_class_is_counted_once_per_frame_that_shows_it():
    counts = ClassCounts()

    counts.kept(showing(RARE, RARE, 1))
    counts.kept(showing(1))
    counts.kept(showing())

    assert counts.share(RARE) == pytest.approx(1 / 3)
    assert counts.share(1) == pytest.approx(2 / 3)
    assert counts.share(0) == 0.0


def test_a_box_below_the_floor_shows_nothing():
    counts = ClassCounts(score_floor=0.25)

    counts.kept(showing(RARE, score=0.2))
    counts.kept(showing(RARE, score=0.25))

    assert counts.share(RARE) == 0.5


@given(before=class_lists, after=class_lists)
def test_counts_from_the_index_go_on_as_if_nothing_had_stopped(before, after):
    unbroken = ClassCounts()
    for classes in [*before, *after]:
        unbroken.kept(showing(*classes))

    restored = ClassCounts()
    restored.go_on_from(len(before), {c: sum(c in classes for classes in before) for c in range(5)})
    for classes in after:
        restored.kept(showing(*classes))

    assert [restored.share(c) for c in range(5)] == [unbroken.share(c) for c in range(5)]


def test_threads_lose_no_count_and_never_see_half_of_one(eager_threads):
    counts, frame, done = ClassCounts(), showing(RARE), threading.Event()
    counts.go_on_from(1, {RARE: 1})

    def write():
        for _ in range(2000):
            counts.kept(frame)

    def read():
        shares = {counts.share(RARE)}
        while not done.is_set():
            shares.add(counts.share(RARE))
        return shares

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for writer in [pool.submit(write) for _ in range(2)]:
            writer.result()
        done.set()
    counts.kept(showing())

    assert [reader.result() for reader in readers] == [{1.0}, {1.0}]
    assert counts.share(RARE) == 4001 / 4002


@pytest.mark.parametrize("count", [11, -1])
def test_counts_that_cannot_be_are_refused(count):
    with pytest.raises(BadInput, match=f"Class 3 cannot be in {count} of 10 kept frames"):
        ClassCounts().go_on_from(10, {RARE: count})


def test_a_class_below_its_target_is_wanted_until_it_is_there():
    counts = ClassCounts()
    counts.go_on_from(9, {RARE: 1})
    strategy = rare_class(targets={RARE: 0.2}, counts=counts, sample_rate=0.1)

    below = strategy(showing(1, RARE))
    counts.kept(showing(RARE))
    reached = strategy(showing(1, RARE))

    assert below == (1.0, "class 3 is below its target of 0.2")
    assert reached == (0.1, "no class below its target")
    assert strategy(showing(1)) == reached


def test_the_first_frame_ever_with_a_wanted_class_is_wanted():
    assert rare_class(targets={RARE: 0.2}, counts=ClassCounts())(showing(RARE)).probability == 1.0


def stored_share(prevalence, target, frames=20_000, rate=0.1):
    """Shares of rare frames among all offered and among those kept, and how often other ones were kept."""
    rng, counts = np.random.default_rng(4), ClassCounts()
    strategy = rare_class(targets={RARE: target}, counts=counts, sample_rate=rate)
    others_kept = 0
    for is_rare in rng.random(frames) < prevalence:
        frame = showing(RARE, 0) if is_rare else showing(0)
        if rng.random() < strategy(frame).probability:
            counts.kept(frame)
            others_kept += not is_rare
    return counts.share(RARE), others_kept / (frames * (1 - prevalence))


def test_the_share_kept_settles_at_the_target():
    share, others = stored_share(prevalence=0.04, target=0.25)

    assert share == pytest.approx(0.25, abs=0.01)
    # Five standard deviations of a binomial with n = 19200.
    assert others == pytest.approx(0.1, abs=5 * (0.1 * 0.9 / 19_200) ** 0.5)


def test_a_target_out_of_reach_keeps_every_frame_of_the_class():
    share, _ = stored_share(prevalence=0.01, target=0.5)

    # All of about 200 rare frames among 0.1 * 19800 others.
    assert share == pytest.approx(200 / (200 + 1980), abs=0.03)


@given(kept=class_lists, offered=st.lists(st.integers(0, 4), max_size=4), rate=st.floats(0, 1))
def test_the_probability_is_1_or_the_rate(kept, offered, rate):
    counts = ClassCounts()
    for classes in kept:
        counts.kept(showing(*classes))

    wish = rare_class(targets={0: 0.3, 1: 0.5}, counts=counts, sample_rate=rate)(showing(*offered))

    assert wish.probability in {1.0, rate}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": {}}, "targets is empty"),
        ({"targets": {3: 20}}, r"targets\[3\] must be in \(0, 1\], got 20\. Did you mean 0\.2\?"),
        ({"targets": {"car": 0.2}}, "targets needs class indices from 0 as keys, got 'car'"),
        ({"sample_rate": 2}, r"sample_rate must be in \[0, 1\], got 2\. Did you mean 0\.02\?"),
        ({"counts": {3: 1}}, r"counts must be a ClassCounts .*, got \{3: 1\}"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    good = {"targets": {RARE: 0.2}, "counts": ClassCounts()}

    with pytest.raises(ConfigError, match=message):
        rare_class(**{**good, **settings})
