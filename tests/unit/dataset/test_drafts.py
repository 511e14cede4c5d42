import pytest

from retrain.dataset.drafts import Draft, Drafts, check_name
from retrain.errors import BadInput, Conflict, NotFound
from retrain.images import read_image


def new_draft(name="v1.0.0"):
    return Draft(name, "words", ("a",), None, None, {"train": 1.0, "val": 0.0, "test": 0.0}, "")


@pytest.fixture
def drafts(tmp_path):
    return Drafts(tmp_path / "drafts")


def test_a_draft_outlives_its_process(drafts, tmp_path, make_item):
    draft = new_draft()
    drafts.begin(draft)
    drafts.record(draft, [make_item(1), make_item(2)])

    later = Drafts(tmp_path / "drafts")

    assert later.read("v1.0.0") == later.read(draft.id) == draft
    assert later.items(draft) == {item.image: item for item in (make_item(1), make_item(2))}


def test_a_draft_begun_again_is_empty_and_its_old_handle_is_refused(drafts, make_item):
    old, new = new_draft(), new_draft()
    drafts.begin(old)
    drafts.record(old, [make_item(1)])

    drafts.begin(new)

    assert drafts.items(new) == {}
    with pytest.raises(Conflict, match="begun anew by somebody else"):
        drafts.read(old.id)


def test_only_images_without_a_pack_need_one(drafts, make_item, make_image):
    draft, image = new_draft(), read_image(make_image(1))
    drafts.begin(draft)
    drafts.keep_image(draft, image)

    drafts.record(draft, [make_item(1, pack=""), make_item(2)])

    assert [(name, path.read_bytes()) for name, path in drafts.files(draft)] == [
        (f"{image.digest}.png", image.data)
    ]


def test_a_half_written_image_is_written_again(drafts, make_item, make_image):
    draft, image = new_draft(), read_image(make_image(1))
    drafts.begin(draft)
    drafts.keep_image(draft, image)
    drafts.record(draft, [make_item(1, pack="")])
    drafts.files(draft)[0][1].write_bytes(b"half")

    drafts.keep_image(draft, image)

    assert drafts.files(draft)[0][1].read_bytes() == image.data


def test_a_missing_draft_is_named(drafts):
    with pytest.raises(NotFound, match=r"No draft 'v9'; begin one with create_version"):
        drafts.read("v9")
    drafts.discard("v9")


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", ".hidden", "v1..2", "v1.", "x.lock", "-f", "a b", "v1\n", "a@b"]
)
def test_a_name_that_cannot_be_a_tag_is_refused(name):
    with pytest.raises(BadInput, match="letters, digits"):
        check_name(name)


@pytest.mark.parametrize("name", ["v1.0.0", "v10.2.3-rc_1", "x"])
def test_ordinary_names_are_accepted(name):
    assert check_name(name) == name
