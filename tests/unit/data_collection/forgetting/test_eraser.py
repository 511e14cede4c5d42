import os
import random
import socket
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial

import pytest

from retrain.boxes import Detections
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, forget
from retrain.data_collection.forgetting.removal import remove_samples
from retrain.data_collection.forgetting.tombstones import bury
from retrain.data_collection.sample import DataSample, SampleKey
from retrain.data_collection.store.packs import SamplePacks, pack_key
from retrain.data_collection.store.samples import Arrival, Draw, SampleStore
from retrain.errors import BadInput, LeaseLost, NotFound, PostConditionFailed, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import drawn, files_with, is_exact, stored

NOW = 100.0
DEAD = 2**22 + 1
"""No process has this number: it is above the largest the kernel gives."""


def arrival(number, draw="", camera="gate"):
    data = png_bytes(number)
    taken = Draw(draw or f"draw-{number}", "m", camera, "r", 1.0, "all", "all", 1.0, False, "stored")
    sample = DataSample(
        content_digest(data), "m", camera, "r", 1.0, "all", 1.0, 0.5, "r", "", f"{content_digest(data)}.png", 12, 12,
        Detections.empty(), {},
    )  # fmt: skip
    return Arrival(taken, sample, data, taken_at=1.0)


@pytest.fixture
def store(state, blobs, tmp_path):
    return SampleStore(state, blobs, tmp_path / "cache", "spool")


@pytest.fixture
def eraser(state, blobs, tmp_path):
    return Eraser(state, blobs, tmp_path / "cache")


def sample_id(number):
    return content_digest(png_bytes(number))


def test_a_pack_that_a_killed_drainer_put_is_deleted_if_it_holds_a_forgotten_picture(
    state, blobs, eraser, tmp_path
):
    killed = SamplePacks(state, blobs, tmp_path / "elsewhere", "spool elsewhere")
    for number in (1, 2):
        killed.put({f"{sample_id(number)}.png": png_bytes(number)}, NOW)

    forget(eraser, Scope((sample_id(1),)), now=NOW)

    assert files_with(blobs.root, png_bytes(1)) == []
    assert files_with(blobs.root, png_bytes(2)) != []


class Meanwhile(LocalBlobs):
    """Lets something happen once, right after a pack was put."""

    then = None

    def put_file(self, key, path):
        super().put_file(key, path)
        if self.then is not None:
            then, self.then = self.then, None
            then()


@pytest.mark.parametrize("erases", [True, False], ids=["erased", "only buried"])
def test_a_picture_forgotten_while_it_is_stored_is_not_stored_and_the_others_are(
    state, blobs, eraser, tmp_path, erases
):
    def forget_now():
        if erases:
            forget(eraser, Scope((sample_id(1),)), now=NOW)
        else:
            with state.write() as connection:
                bury(connection, "sample", [sample_id(1)], NOW)

    slow = Meanwhile(blobs.root)
    slow.then = forget_now

    SampleStore(state, slow, tmp_path / "cache", "spool").add([arrival(1), arrival(2)], NOW)

    assert list(stored(state)) == [sample_id(2)]
    assert {draw.id: draw.outcome for draw in drawn(state)} == {"draw-1": "forgotten", "draw-2": "stored"}
    assert files_with(tmp_path, png_bytes(1)) == []
    assert is_exact(state, blobs)


def test_of_two_drainers_with_one_picture_neither_keeps_a_pack_with_a_picture_of_the_other(
    state, blobs, store, eraser, tmp_path
):
    slow = Meanwhile(blobs.root)
    slow.then = lambda: store.add([arrival(1, draw="first")], NOW)

    SampleStore(state, slow, tmp_path / "cache", "other").add([arrival(1, draw="second"), arrival(2)], NOW)

    assert is_exact(state, blobs)
    forget(eraser, Scope((sample_id(1),)), now=NOW)
    assert files_with(tmp_path, png_bytes(1)) == []


def test_a_repetition_of_a_picture_that_was_deleted_since_is_counted_as_rejected(state, store):
    repeats = replace(arrival(1).draw, outcome="near-duplicate", sample_id="f" * 64)

    [draw] = store.add([Arrival(repeats)], NOW)

    assert (draw.outcome, draw.sample_id) == ("rejected", None)
    assert "deleted since" in draw.detail


def test_a_pack_being_deleted_is_not_put_again_before_that_is_done(state, blobs, store, tmp_path):
    class Stuck(LocalBlobs):
        def delete(self, key):
            raise Unavailable("no answer")

    store.add([arrival(1)], NOW)
    retained = Eraser(state, Stuck(blobs.root), tmp_path / "cache")
    with pytest.raises(Unavailable):
        expire_all(retained)

    with pytest.raises(Unavailable, match="just being deleted"):
        store.add([arrival(1, draw="again")], NOW)
    expire_all(Eraser(state, blobs, tmp_path / "cache"))
    store.add([arrival(1, draw="again")], NOW)

    assert list(stored(state)) == [sample_id(1)]
    assert is_exact(state, blobs)


def expire_all(eraser):
    from retrain.data_collection.forgetting.retention import RetentionPolicy, retain

    retain(eraser, RetentionPolicy(max_bytes=0), NOW)


def test_what_killed_processes_half_put_is_deleted_and_what_others_are_putting_is_not(state, blobs, eraser):
    incoming, host = blobs.root / ".incoming", socket.gethostname()
    for pid in (DEAD, os.getpid()):
        (incoming / f"{pid}-{host}-a").write_bytes(png_bytes(1))

    eraser.erase(NOW)

    assert [path.name for path in incoming.iterdir()] == [f"{os.getpid()}-{host}-a"]


def test_a_copy_half_fetched_by_a_killed_process_goes_with_its_pack(state, store, eraser, tmp_path):
    store.add([arrival(1)], NOW)
    pack = stored(state)[sample_id(1)].pack
    half = tmp_path / "cache" / "packs" / f".{pack}.zip.0123456789abcdef.partial"
    half.parent.mkdir(parents=True)
    half.write_bytes(png_bytes(1))

    forget(eraser, Scope((sample_id(1),)), now=NOW)

    assert files_with(tmp_path, png_bytes(1)) == []


def test_scratch_of_a_killed_process_goes(eraser, tmp_path):
    left = tmp_path / "cache" / "work" / "0123456789abcdef" / "pack.zip"
    left.parent.mkdir(parents=True)
    left.write_bytes(png_bytes(1))

    eraser.erase(NOW)

    assert files_with(tmp_path, png_bytes(1)) == []


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_pack_that_cannot_be_read_is_named_the_others_are_replaced_and_forgetting_its_rest_ends_it(
    state, blobs, store, eraser, damage, tmp_path
):
    store.add([arrival(1), arrival(2)], NOW)
    store.add([arrival(3), arrival(4)], NOW)
    bad = stored(state)[sample_id(1)].pack
    if damage == "gone":
        blobs.delete(pack_key(bad))
    else:
        blobs.put(pack_key(bad), blobs.get(pack_key(bad)).replace(png_bytes(2)[60:90], bytes(30)))

    with pytest.raises(PostConditionFailed, match=f"1 packs still hold.*{bad}"):
        forget(eraser, Scope((sample_id(1), sample_id(3))), now=NOW)

    assert files_with(blobs.root, png_bytes(3)) == []
    assert store.image(stored(state)[sample_id(4)]) == png_bytes(4)
    forget(eraser, Scope((sample_id(2),)), now=NOW)
    assert files_with(tmp_path, png_bytes(1)) == []
    assert is_exact(state, blobs)


def test_a_store_that_keeps_what_it_was_told_to_delete_is_found_out(state, blobs, store, tmp_path):
    class Keeping(LocalBlobs):
        def delete(self, key):
            pass

    store.add([arrival(1)], NOW)

    with pytest.raises(PostConditionFailed, match="still has the pack"):
        forget(Eraser(state, Keeping(blobs.root), tmp_path / "cache"), Scope((sample_id(1),)), now=NOW)


def test_a_store_that_garbles_a_new_pack_loses_no_sample(state, blobs, store, tmp_path):
    class Garbling(LocalBlobs):
        def put_file(self, key, path):
            self.put(key, path.read_bytes()[:-1] + b"?")

    store.add([arrival(1), arrival(2)], NOW)

    with pytest.raises(PostConditionFailed, match="other bytes"):
        forget(Eraser(state, Garbling(blobs.root), tmp_path / "cache"), Scope((sample_id(1),)), now=NOW)

    assert store.image(stored(state)[sample_id(2)]) == png_bytes(2)


def test_a_pack_that_is_put_and_not_used_is_found_by_its_owner_alone(state, blobs, store, tmp_path):
    other = SamplePacks(state, blobs, tmp_path / "cache", "other")
    left = SamplePacks(state, blobs, tmp_path / "cache", "spool").put(
        {f"{sample_id(1)}.png": png_bytes(1)}, NOW
    )

    assert other.delete_leftovers() == []
    assert store.forget_leftovers() == [left]
    assert list(blobs.keys()) == []


def test_equal_packs_of_two_owners_are_deleted_by_neither_while_the_other_uses_it(state, blobs, tmp_path):
    images = {f"{sample_id(1)}.png": png_bytes(1)}
    first, second = (SamplePacks(state, blobs, tmp_path / "cache", name) for name in ("one", "two"))
    pack = first.put(images, NOW)
    second.put(images, NOW)

    first.delete_leftovers()
    assert blobs.exists(pack_key(pack))
    second.delete_leftovers()

    assert not blobs.exists(pack_key(pack))
    with pytest.raises(Unavailable, match="deleted by another process"), state.write() as connection:
        first.keep(connection, pack)


def test_a_pack_that_another_is_about_to_delete_is_not_used(state, blobs, tmp_path):
    packs = SamplePacks(state, blobs, tmp_path / "cache", "one")
    pack = packs.put({f"{sample_id(1)}.png": png_bytes(1)}, NOW)
    with state.write() as connection:
        assert packs.let_go(connection, pack, "arriving")

    with pytest.raises(Unavailable, match="deleted by another process"), state.write() as connection:
        packs.keep(connection, pack)


def test_a_sample_deleted_while_its_pack_is_replaced_is_not_in_the_new_pack(state, blobs, store, tmp_path):
    def delete_second():
        with state.write() as connection:
            remove_samples(connection, [SampleKey("m", sample_id(2))], "expired")

    store.add([arrival(1), arrival(2), arrival(3)], NOW)
    slow = Meanwhile(blobs.root)
    slow.then = delete_second

    forget(Eraser(state, slow, tmp_path / "cache"), Scope((sample_id(1),)), now=NOW)

    assert files_with(blobs.root, png_bytes(2)) == []
    assert store.image(stored(state)[sample_id(3)]) == png_bytes(3)
    assert is_exact(state, blobs)


def lost_after(checks):
    """A lease that is lost after so many transactions."""
    left = [checks]

    def guard(_connection):
        if not left[0]:
            raise LeaseLost("somebody else deletes")
        left[0] -= 1

    return guard


def test_who_lost_the_lease_replaces_no_pack(state, blobs, store, tmp_path):
    store.add([arrival(1), arrival(2)], NOW)
    pack = stored(state)[sample_id(2)].pack

    with pytest.raises(LeaseLost):
        forget(Eraser(state, blobs, tmp_path / "cache", lost_after(1)), Scope((sample_id(1),)), now=NOW)

    assert stored(state)[sample_id(2)].pack == pack
    assert blobs.exists(pack_key(pack))


def test_who_lost_the_lease_deletes_no_sample(state, blobs, store, tmp_path):
    store.add([arrival(1)], NOW)

    with pytest.raises(LeaseLost):
        expire_all(Eraser(state, blobs, tmp_path / "cache", lost_after(0)))

    assert list(stored(state)) == [sample_id(1)]


class Crew:
    """Threads whose first error is kept."""

    def __init__(self):
        self.errors, self.done, self._threads = [], threading.Event(), []

    def start(self, work, *arguments):
        self._threads.append(threading.Thread(target=self._run, args=(work, *arguments)))
        self._threads[-1].start()

    def join(self):
        for thread in self._threads:
            thread.join(120)
        self._threads = []

    def _run(self, work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            self.errors.append(error)


def until_it_works(work):
    """What every caller does about `Unavailable`: try again."""
    while True:
        try:
            return work()
        except Unavailable:
            time.sleep(0.001)


def test_drainers_readers_and_deletions_at_once_never_meet_a_row_without_its_picture(state, blobs, tmp_path):
    """Two drainers add the same pictures in other batches, one thread forgets, one reads everything all the time."""
    pictures, crew, reads = 60, Crew(), []
    forgotten = random.Random(1).sample(range(pictures), 20)
    eraser = Eraser(state, blobs, tmp_path / "one")

    def add(owner, seed):
        store, numbers = SampleStore(state, blobs, tmp_path / owner, owner), list(range(pictures))
        random.Random(seed).shuffle(numbers)
        for start in range(0, pictures, 4):
            batch = [arrival(number, draw=f"{owner}-{number}") for number in numbers[start : start + 4]]
            until_it_works(partial(store.add, batch, NOW))

    def forget_some():
        for number in forgotten:
            until_it_works(partial(forget, eraser, Scope((sample_id(number),)), now=NOW))

    def read():
        store = SampleStore(state, blobs, tmp_path / "one", "reader")
        while not crew.done.is_set():
            for name, sample in stored(state).items():
                try:
                    reads.append(content_digest(until_it_works(partial(store.image, sample))) == name)
                except NotFound:
                    # Only ever because it was forgotten since.
                    reads.append(name not in stored(state))

    reading = Crew()
    reading.start(read)
    for work, *arguments in ((add, "one", 1), (add, "two", 2), (forget_some,)):
        crew.start(work, *arguments)
    crew.join()
    crew.done.set()
    reading.join()

    assert crew.errors == reading.errors == []
    assert len(reads) > 100
    assert all(reads)
    assert [number for number in forgotten if files_with(tmp_path, png_bytes(number))] == []
    assert stored(state).keys() == {sample_id(number) for number in set(range(pictures)) - set(forgotten)}
    store = SampleStore(state, blobs, tmp_path / "last", "last")
    assert all(content_digest(store.image(sample)) == name for name, sample in stored(state).items())
    assert is_exact(state, blobs)


def test_a_zip_that_is_no_pack_of_images_is_not_taken_for_one(state, blobs, store, tmp_path):
    store.add([arrival(1)], NOW)
    sample = stored(state)[sample_id(1)]
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    blobs.put_file(pack_key(sample.pack), tmp_path / "other.zip")

    with pytest.raises(BadInput, match="damaged"):
        store.image(sample)
