import zipfile

import msgspec
import pytest

from retrain.dataset.committing import packing
from retrain.dataset.committing.packing import arrange_packs, names_in, repack
from retrain.errors import BadInput
from retrain.storage.packs import pack_file_name, write_pack


@pytest.fixture
def pack_of(tmp_path, make_item, make_image):
    def make(*seeds):
        """A pack file of these images and the items that are in it, by image."""
        folder = tmp_path / "draft"
        folder.mkdir(exist_ok=True)
        items = {item.image: item for item in map(make_item, seeds)}
        pack = write_pack(folder, [(make_item(seed).file_name, make_image(seed)) for seed in seeds])
        return folder / pack_file_name(pack), {
            image: msgspec.structs.replace(item, pack=pack) for image, item in items.items()
        }

    return make


@pytest.fixture
def incoming(tmp_path):
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def contents(folder):
    return {path.stem: set(names_in(path)) for path in folder.iterdir()}


def test_the_only_pack_is_taken_as_it_is_without_a_copy(pack_of, incoming):
    path, items = pack_of(1, 2)

    assert arrange_packs(items, {path.stem: path}, incoming) == {}

    assert (incoming / path.name).samefile(path)


def test_small_packs_are_put_together_and_every_image_is_told_its_new_one(pack_of, incoming):
    (one, first), (two, second) = pack_of(1, 2), pack_of(3)
    items = first | second

    moved = arrange_packs(items, {one.stem: one, two.stem: two}, incoming)

    (new,) = set(moved.values())
    assert moved.keys() == items.keys()
    assert contents(incoming) == {new: {item.file_name for item in items.values()}}


def test_a_large_pack_stays_beside_small_ones(pack_of, incoming, monkeypatch):
    (one, first), (two, second) = pack_of(1, 2, 3), pack_of(4)
    monkeypatch.setattr(packing, "_WORTH_KEEPING", one.stat().st_size)

    moved = arrange_packs(first | second, {one.stem: one, two.stem: two}, incoming)

    assert moved.keys() == second.keys()
    assert contents(incoming).keys() == {one.stem, *moved.values()}


def test_a_pack_with_an_image_that_the_version_does_not_show_is_written_without_it(pack_of, incoming):
    path, items = pack_of(1, 2, 3)
    left_out = items.pop(next(iter(items)))

    moved = arrange_packs(items, {path.stem: path}, incoming)

    assert moved.keys() == items.keys()
    assert contents(incoming) == {next(iter(moved.values())): {item.file_name for item in items.values()}}
    assert left_out.file_name in names_in(path), "the pack of older versions is not touched"


def test_images_in_packs_of_nobody_are_left_where_they_are(pack_of, incoming, make_item):
    path, items = pack_of(1)
    elsewhere = make_item(9)

    assert arrange_packs({**items, elsewhere.image: elsewhere}, {path.stem: path}, incoming) == {}
    assert contents(incoming).keys() == {path.stem}


def test_more_than_fits_into_memory_is_written_in_parts_that_lose_nothing(pack_of, incoming, monkeypatch):
    path, items = pack_of(*range(8))
    monkeypatch.setattr(packing, "_AT_ONCE", 3000)

    moved = repack(items, dict.fromkeys(items, path), incoming)

    assert len(set(moved.values())) > 1
    assert moved.keys() == items.keys()
    assert set().union(*contents(incoming).values()) == {item.file_name for item in items.values()}
    assert all(items[image].file_name in contents(incoming)[pack] for image, pack in moved.items())


def test_the_same_images_give_the_same_packs_in_whatever_packs_they_came(pack_of, incoming, tmp_path):
    (one, first), (two, second), (both, together) = pack_of(1), pack_of(2), pack_of(1, 2)

    apart = repack(first | second, dict.fromkeys(first, one) | dict.fromkeys(second, two), incoming)

    assert apart == repack(together, dict.fromkeys(together, both), incoming)


def test_a_damaged_image_is_never_packed_anew(pack_of, incoming):
    path, items = pack_of(1, 2)
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)

    with pytest.raises(BadInput, match="damaged"):
        repack(items, dict.fromkeys(items, path), incoming)

    assert contents(incoming) == {}


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 99])
def test_what_is_no_pack_is_named(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)

    with pytest.raises(BadInput, match=r"x\.zip is no pack, or a damaged one"):
        names_in(tmp_path / "x.zip")


def test_an_empty_pack_has_no_names(tmp_path):
    zipfile.ZipFile(tmp_path / "x.zip", "w").close()

    assert names_in(tmp_path / "x.zip") == []
