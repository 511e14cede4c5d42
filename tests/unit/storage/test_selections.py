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
