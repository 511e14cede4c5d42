import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from retrain.boxes import Detections
from retrain.data_collection.sample import DataSample, SampleKey
from retrain.data_collection.store.packs import pack_key
from retrain.data_collection.store.samples import Arrival, Draw, SampleStore
from retrain.duplicates.perceptual_hash import perceptual_hash
from retrain.errors import BadInput, NotFound, StorageFull, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.schema import likenesses, packs, samples
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import drawn, is_exact, stored

NOW = 100.0


def arrival(number, draw_id=None):
    """A frame with an image that no other number gives."""
    image = png_bytes(number)
    digest = content_digest(image)
    draw = Draw(draw_id or f"draw {number}", "m", "east", "r", 1.0, "all", "all frames", 1.0, False, "stored")
    sample = DataSample(
        digest, "m", "east", "east", 1.0, "all", 1.0, 0.5, "r", "", f"{digest}.png", 12, 12, Detections.empty(), {}
    )  # fmt: skip
    return Arrival(draw, sample, image)


def rejected(draw_id):
    return Arrival(replace(arrival(0, draw_id).draw, outcome="rejected", detail="no image"))


@pytest.fixture
def opened(state, blobs, tmp_path):
    """Makes a store for an owner with a cache of its own; another blob store may be given."""

    def make(owner="a", through=blobs):
        return SampleStore(state, through, tmp_path / f"cache {owner}", owner)

    return make


@pytest.fixture
def store(opened):
    return opened()


class Killed(BaseException):
    """What a kill at this point looks like from inside: nothing after it runs."""


class Deadly(LocalBlobs):
    """A store during whose work its user is killed, before or after the bytes have arrived."""

    def __init__(self, root, *, arrives):
        super().__init__(root)
        self._arrives = arrives

    def put_file(self, key, path):
        if self._arrives:
            super().put_file(key, path)
        raise Killed


class Refusing(LocalBlobs):
    """A store that does not take anything while it has an error to raise."""

    error: Exception | None = None

    def put_file(self, key, path):
        if self.error:
            raise self.error
        super().put_file(key, path)


class Meeting(LocalBlobs):
    """A store at whose door two wait for each other, once; so both have looked at the index before either wrote."""

    def __init__(self, root):
        super().__init__(root)
        self._door = threading.Barrier(2)
        self._came = threading.local()

    def put_file(self, key, path):
        if not hasattr(self._came, "before"):
            self._came.before = True
            self._door.wait(30)
        super().put_file(key, path)


def kill_in_put(opened, blobs, *arrivals, owner="a", arrives=True):
    with pytest.raises(Killed):
        opened(owner, Deadly(blobs.root, arrives=arrives)).add(arrivals, NOW)


def packs_there(blobs):
    return list(blobs.keys("packs/"))


def outcomes(draws):
    return [draw.outcome for draw in draws]


def test_what_was_added_is_in_the_index_and_its_images_come_back(store, state, blobs):
    draws = store.add([arrival(1), arrival(2), rejected("bad")], NOW)

    assert outcomes(draws) == ["stored", "stored", "rejected"]
    assert {store.image(sample) for sample in stored(state).values()} == {png_bytes(1), png_bytes(2)}
    assert is_exact(state, blobs)


def test_adding_the_same_again_changes_nothing(store, state):
    batch = [arrival(1), arrival(2), rejected("bad")]
    store.add(batch, NOW)
    before = drawn(state), [sample.pack for sample in stored(state).values()]

    assert store.add(batch, NOW + 1) == []
    assert (drawn(state), [sample.pack for sample in stored(state).values()]) == before


def test_of_equal_images_the_first_is_stored_and_every_draw_of_them(store, state):
    draws = store.add([arrival(1, "first"), arrival(1, "second")], NOW)
    later = store.add([arrival(1, "third")], NOW)

    assert outcomes(draws + later) == ["stored", "duplicate", "duplicate"]
    assert {draw.sample_id for draw in drawn(state)} == {content_digest(png_bytes(1))}
    assert len(stored(state)) == 1


def test_rejected_frames_alone_make_no_pack(store, blobs):
    store.add([rejected("bad")], NOW)

    assert packs_there(blobs) == []


def test_more_arrivals_than_one_query_can_name_are_added(store, state):
    many = [replace(arrival(1), draw=replace(arrival(1).draw, id=f"draw {number}")) for number in range(1201)]
    store.add(many, NOW)

    again = store.add([*many, arrival(2, "one more")], NOW)

    assert outcomes(again) == ["stored"]
    assert len(drawn(state)) == 1202


def test_only_what_is_there_is_known(store):
    store.add([arrival(1)], NOW)

    stored, other = (SampleKey("m", content_digest(png_bytes(number))) for number in (1, 2))
    assert store.known([stored, other, SampleKey("other", stored.id)]) == {stored}


@pytest.mark.parametrize("error", [StorageFull("disk is full"), Unavailable("no answer")])
def test_when_the_blob_store_refuses_nothing_is_added_and_the_next_time_everything(
    opened, state, blobs, error
):
    refusing = Refusing(blobs.root)
    store, refusing.error = opened(through=refusing), error

    with pytest.raises(type(error)):
        store.add([arrival(1), rejected("bad")], NOW)

    assert (stored(state), drawn(state)) == ({}, [])
    refusing.error = None
    assert outcomes(store.add([arrival(1), rejected("bad")], NOW)) == ["stored", "rejected"]
    assert is_exact(state, blobs)


@pytest.mark.parametrize("arrives", [False, True])
def test_the_pack_of_a_killed_run_is_removed(opened, state, blobs, arrives):
    kill_in_put(opened, blobs, arrival(1), arrives=arrives)
    assert len(packs_there(blobs)) == arrives

    left = opened().forget_leftovers()

    assert len(left) == 1
    assert packs_there(blobs) == []
    assert is_exact(state, blobs)


def test_the_pack_of_another_owner_that_is_just_arriving_stays(opened, blobs):
    kill_in_put(opened, blobs, arrival(1), owner="other")

    assert opened("a").forget_leftovers() == []

    assert len(packs_there(blobs)) == 1


def test_packs_in_use_are_no_leftovers(store, state, blobs):
    store.add([arrival(1)], NOW)

    assert store.forget_leftovers() == []
    assert is_exact(state, blobs)


def test_a_killed_run_that_is_repeated_stores_what_it_had_put(opened, state, blobs):
    kill_in_put(opened, blobs, arrival(1))

    store = opened()
    store.add([arrival(1)], NOW)

    assert store.forget_leftovers() == []
    assert is_exact(state, blobs)


def test_what_another_owner_put_and_was_killed_over_serves_whoever_adds_it_next(opened, state, blobs):
    kill_in_put(opened, blobs, arrival(1), owner="other")
    opened("a").add([arrival(1)], NOW)

    opened("other").forget_leftovers()

    [sample] = stored(state).values()
    assert opened("a").image(sample) == png_bytes(1)
    assert is_exact(state, blobs)


class Tidying(LocalBlobs):
    """A store that somebody tidies up right after a pack has arrived."""

    def __init__(self, root, tidy):
        super().__init__(root)
        self._tidy = tidy

    def put_file(self, key, path):
        super().put_file(key, path)
        self._tidy()


@pytest.mark.parametrize("owner", ["a", "other"])
def test_whoever_tidies_up_at_the_wrong_moment_no_row_is_left_without_its_image(opened, state, blobs, owner):
    kill_in_put(opened, blobs, arrival(1), owner=owner)
    tidied = Tidying(blobs.root, opened(owner).forget_leftovers)
    try:
        opened("a", tidied).add([arrival(1)], NOW)
    except Unavailable:
        opened("a").add([arrival(1)], NOW)

    [sample] = stored(state).values()
    assert opened("b").image(sample) == png_bytes(1)


@pytest.mark.parametrize("other", [(1, 2), (2, 3), (2,)])
def test_two_who_add_the_same_image_at_once_store_it_once(opened, state, blobs, other):
    meeting = Meeting(blobs.root)
    batches = {"a": (1, 2), "b": other}

    def add(owner):
        batch = [arrival(number, f"{owner} {number}") for number in batches[owner]]
        return opened(owner, meeting).add(batch, NOW)

    with ThreadPoolExecutor(2) as pool:
        draws = [draw for found in pool.map(add, batches) for draw in found]

    samples = stored(state)
    assert sorted(samples) == sorted({content_digest(png_bytes(n)) for n in (1, 2, *other)})
    assert outcomes(draws).count("stored") == len(samples)
    assert outcomes(draws).count("duplicate") == 2 + len(other) - len(samples)
    assert {content_digest(opened("c").image(sample)) for sample in samples.values()} == set(samples)
    assert is_exact(state, blobs)


def test_a_pack_that_is_gone_is_not_found(store, state, blobs):
    store.add([arrival(1)], NOW)
    [sample] = stored(state).values()
    blobs.delete(pack_key(sample.pack))

    with pytest.raises(NotFound, match=f"pack {sample.pack} .* is gone from the blob store"):
        store.image(sample)


def test_a_sample_that_is_not_stored_is_not_found(store):
    with pytest.raises(NotFound, match="is not stored"):
        store.image(arrival(1).sample)


def gives_the_image_or_says_it_is_damaged(store, sample, image):
    try:
        return store.image(sample) == image
    except BadInput as error:
        return "is damaged" in str(error)


def test_a_pack_that_is_damaged_anywhere_gives_the_right_image_or_says_so(opened, state, blobs):
    opened().add([arrival(1)], NOW)
    [sample] = stored(state).values()
    whole = blobs.get(pack_key(sample.pack))

    safe = []
    # Everywhere, and more closely where the zip's own directory says how it is to be read.
    for place in [*range(0, len(whole), 60), *range(len(whole) - 140, len(whole) - 100, 2)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        blobs.put(pack_key(sample.pack), bytes(damaged))
        safe.append(gives_the_image_or_says_it_is_damaged(opened(f"{place}"), sample, png_bytes(1)))

    assert all(safe)


def test_a_pack_cut_short_is_damaged(store, state, blobs):
    store.add([arrival(1)], NOW)
    [sample] = stored(state).values()
    data = blobs.get(pack_key(sample.pack))
    blobs.put(pack_key(sample.pack), data[: len(data) // 2])

    with pytest.raises(BadInput, match="is damaged"):
        store.image(sample)


def test_a_pack_that_is_whole_again_is_read_again(store, state, blobs):
    store.add([arrival(1)], NOW)
    [sample] = stored(state).values()
    whole = blobs.get(pack_key(sample.pack))
    blobs.put(pack_key(sample.pack), whole[: len(whole) // 2])
    assert gives_the_image_or_says_it_is_damaged(store, sample, png_bytes(1))

    blobs.put(pack_key(sample.pack), whole)

    assert store.image(sample) == png_bytes(1)


def test_a_pack_is_fetched_once_for_all_its_images(opened, state, blobs):
    opened().add([arrival(1), arrival(2)], NOW)
    first, second = stored(state).values()
    reader = opened("reader")
    reader.image(first)
    blobs.delete(pack_key(first.pack))

    assert content_digest(reader.image(second)) == second.id


def test_copies_of_packs_that_were_deleted_elsewhere_go(opened, state, blobs, tmp_path):
    opened("a").add([arrival(1)], NOW)
    [sample] = stored(state).values()
    reader = opened("reader")
    reader.image(sample)
    with state.write() as connection:
        connection.execute(samples.delete())
        connection.execute(packs.delete())

    reader.forget_leftovers()

    assert [path for path in (tmp_path / "cache reader").rglob("*") if path.is_file()] == []


def test_nothing_is_left_in_the_cache_by_adding(store, tmp_path):
    store.add([arrival(1)], NOW)

    assert [path for path in (tmp_path / "cache a").rglob("*") if path.is_file()] == []


def test_the_likeness_of_a_sample_is_stored_with_it(store, state):
    one = arrival(1)
    picture = perceptual_hash(one.image)

    store.add([replace(one, picture=picture), arrival(2)], NOW)

    with state.read() as connection:
        [row] = connection.execute(likenesses.select()).all()
    assert (row.sample_id, row.camera, row.model) == (one.sample.id, "east", one.sample.model)
    assert row.picture == picture.to_bytes()
