import msgspec
import pytest

from retrain.dataset.committing.packing import names_in
from retrain.dataset.committing.pictures import picture_of
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.drafting.drafts import Drafts
from retrain.dataset.drafting.purging import delete_packs_with, purge_drafts
from retrain.storage.digests import file_digest
from retrain.storage.packs import pack_file_name, read_pack, write_pack

NAMES = ("one", "two")


@pytest.fixture
def drafts(tmp_path):
    return Drafts(tmp_path / "drafts")


@pytest.fixture
def fill(drafts, make_item, make_image):
    def make(name, *packs):
        """A draft with a pack for each tuple of seeds."""
        draft = Draft(name, "", ("a", "b", "c"), None, None, {"train": 1.0, "val": 0.0, "test": 0.0}, "")
        drafts.begin(draft)
        for seeds in packs:
            images = [(make_item(seed).file_name, make_image(seed)) for seed in seeds]
            pack = write_pack(drafts.packs(draft), images)
            items = [msgspec.structs.replace(make_item(seed), pack=pack) for seed in seeds]
            drafts.record(draft, items, (), {make_item(n).image: picture_of(make_image(n)) for n in seeds})
        return draft

    return make


def stored(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def assert_whole(drafts, draft, make_item, make_image, seeds):
    items = drafts.items(draft)
    assert items.keys() == {make_item(seed).image for seed in seeds}
    for seed in seeds:
        item = items[make_item(seed).image]
        path = drafts.packs(draft) / pack_file_name(item.pack)
        assert next(read_pack(path, [item.file_name])) == make_image(seed)
    assert drafts.pictures(draft).keys() == items.keys()


def test_a_picture_goes_from_every_draft_with_its_bytes_and_hash_and_the_rest_stays(
    drafts, fill, make_item, make_image, tmp_path
):
    one, two = fill("one", (1, 2), (3,)), fill("two", (1,), (4,))
    gone = make_item(1).image

    assert dict(purge_drafts(drafts, {gone})) == {"one": 1, "two": 1}

    later = Drafts(tmp_path / "drafts")
    assert_whole(later, one, make_item, make_image, (2, 3))
    assert_whole(later, two, make_item, make_image, (4,))
    everything = stored(tmp_path / "drafts")
    assert make_image(1) not in everything
    assert gone.encode() not in everything
    assert bytes.fromhex(gone) not in everything
    assert dict(purge_drafts(later, {gone})) == {}


def test_drafts_without_the_picture_are_not_touched(drafts, fill, tmp_path):
    fill("one", (1, 2))
    before = stored(tmp_path / "drafts")

    assert dict(purge_drafts(drafts, {"ab" * 32})) == {}
    assert stored(tmp_path / "drafts") == before


def test_what_a_killed_addition_left_goes_too(drafts, fill, make_item, make_image, tmp_path):
    draft = fill("one", (2,))
    name = make_item(1).file_name
    write_pack(drafts.packs(draft), [(name, make_image(1))])
    (drafts.packs(draft) / ".arriving.0123abcd").write_bytes(make_image(1))
    (tmp_path / "drafts" / "one" / "batches" / "000009.pictures").write_bytes(b"")

    assert dict(purge_drafts(drafts, {make_item(1).image})) == {"one": 1}

    assert make_image(1) not in stored(tmp_path / "drafts")
    assert_whole(drafts, draft, make_item, make_image, (2,))


def test_a_draft_that_was_half_discarded_is_discarded(drafts, fill, tmp_path):
    fill("one", (1,))
    (tmp_path / "drafts" / "one" / "draft.json").unlink()

    assert list(purge_drafts(drafts, {"ab" * 32})) == []
    assert drafts.names() == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(6))
def test_killed_at_any_write_or_deletion_and_called_again_it_completes(
    drafts, fill, make_item, make_image, tmp_path, monkeypatch, step
):
    draft = fill("one", (1, 2), (1, 3), (4,))
    steps = []
    plain = {name: getattr(type(tmp_path), name) for name in ("unlink", "replace")}

    def dying(name):
        def act(path, *arguments, **options):
            steps.append(name)
            if len(steps) > step:
                raise Killed
            return plain[name](path, *arguments, **options)

        return act

    for name in plain:
        monkeypatch.setattr(type(tmp_path), name, dying(name))
    try:
        list(purge_drafts(drafts, {make_item(1).image}))
        finished = True
    except Killed:
        finished = False
    monkeypatch.undo()

    list(purge_drafts(Drafts(tmp_path / "drafts"), {make_item(1).image}))

    assert not finished, "there were fewer steps; lower the range"
    assert_whole(Drafts(tmp_path / "drafts"), draft, make_item, make_image, (2, 3, 4))
    packs = [path for path in drafts.packs(draft).iterdir() if path.suffix == ".zip"]
    assert not [path for path in packs if make_item(1).file_name in names_in(path)]


def test_only_packs_of_no_version_are_deleted_and_other_files_never(tmp_path, make_item, make_image):
    place = tmp_path / "cache" / "files"
    place.mkdir(parents=True)
    both = [(make_item(seed).file_name, make_image(seed)) for seed in (1, 2)]
    committed, orphan = write_pack(place, both), write_pack(place, both[:1])
    innocent = write_pack(place, both[1:])
    (place / "list.dir").write_bytes(make_item(1).image.encode())
    (place / orphan).write_bytes((place / f"{orphan}.zip").read_bytes())

    count = delete_packs_with([tmp_path / "cache", tmp_path / "absent"], {make_item(1).image}, {committed})

    assert count == 2, "as DVC's cache names it, too"
    assert {file_digest(path) for path in place.iterdir() if path.suffix == ".zip"} == {committed, innocent}
    assert (place / "list.dir").exists()
