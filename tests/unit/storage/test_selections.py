import pytest

from retrain.errors import BadInput, NotFound
from retrain.storage.digests import content_digest
from retrain.storage.selections import SelectedImage, read_selection_file, write_selection_file

NAMES = [f"{character * 64}.png" for character in "abc"]


def selected(name: str = NAMES[0], **changes) -> SelectedImage:
    return SelectedImage(
        **{"name": name, "pack": 0, "width": 4, "height": 3, "labels": "0 0.5 0.5 0.1 0.1\n", **changes}
    )


def test_what_was_written_is_read(tmp_path):
    packs = [tmp_path / "store" / "one.zip", tmp_path / "other" / "two.zip"]
    images = [selected(NAMES[0], weight=0.1), selected(NAMES[1], pack=1, labels="", weight=1 / 3)]

    read = read_selection_file(write_selection_file(tmp_path / "selections", packs, images))

    assert read.packs == tuple(packs)
    assert read.images == tuple(images)


def test_equal_selections_are_one_file_and_others_another(tmp_path):
    first = write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected()])
    written = first.stat().st_mtime_ns

    assert write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected()]) == first
    assert write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected(weight=2.0)]) != first
    assert first.stat().st_mtime_ns == written
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ((None, None), "35b7bf78249f55f274856198e97f12d9bbdbc46e5964d642866c04f37a7b14aa"),
        ((0.5, 2.0), "fc7324c3191176372538167959a441a1e0525af1e61158b3bf93741c0d20dea1"),
    ],
)
def test_a_selection_without_slices_has_the_name_it_had_before_there_were_any(weights, name, tmp_path):
    images = [selected(image, weight=weight) for image, weight in zip(NAMES, weights, strict=False)]

    path = write_selection_file(tmp_path, [tmp_path / "p.zip"], images)

    assert path.stem == name
    assert [image.slice for image in read_selection_file(path).images] == [None, None]


def test_a_slice_is_read_as_written_and_part_of_the_name(tmp_path):
    plain = write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected()])
    sliced = write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected(slice="Tör 1")])

    assert sliced != plain
    assert [image.slice for image in read_selection_file(sliced).images] == ["Tör 1"]


def test_a_damaged_selection_is_refused_and_written_anew(tmp_path):
    path = write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected()])
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0.1", b"0.2"))

    with pytest.raises(BadInput, match="content is not what its name says"):
        read_selection_file(path)

    write_selection_file(tmp_path, [tmp_path / "p.zip"], [selected()])
    assert path.read_bytes() == whole


def test_packs_are_found_through_a_linked_folder(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")

    path = write_selection_file(tmp_path / "link", [tmp_path / "p.zip"], [selected()])

    assert read_selection_file(path).packs == (tmp_path.resolve() / "p.zip",)
    assert read_selection_file(path.resolve()).packs == (tmp_path.resolve() / "p.zip",)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one"),
        ([selected(NAMES[1]), selected(NAMES[0])], "sorted by name"),
        ([selected(), selected()], "occur once"),
        ([selected(pack=1)], "in pack 1, there are 1"),
        ([selected(weight=0.0)], "above 0"),
        ([selected(weight=float("inf"))], "finite"),
        ([selected(weight=1.0), selected(NAMES[1])], "or none needs a weight"),
        ([selected(slice="")], "slice of image a+.png is empty"),
    ],
)
def test_what_cannot_be_trained_on_is_not_written(images, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        write_selection_file(tmp_path / "selections", [tmp_path / "p.zip"], images)

    assert not (tmp_path / "selections").exists()


def test_another_file_or_none_says_so(tmp_path):
    with pytest.raises(NotFound, match="write it again"):
        read_selection_file(tmp_path / "none.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text('{"format":2}\n')
    with pytest.raises(BadInput, match="not what its name says"):
        read_selection_file(other)


@pytest.mark.parametrize("data", [b'{"format":2,"packs":[],"images":0}\n', b'{"format":1}\n', b"\n", b"\x00"])
def test_another_format_is_refused_even_under_its_right_name(data, tmp_path):
    path = tmp_path / f"{content_digest(data)}.jsonl"
    path.write_bytes(data)

    with pytest.raises(BadInput, match="is not a selection of format 1"):
        read_selection_file(path)
