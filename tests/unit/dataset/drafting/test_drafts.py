import pytest

from retrain.dataset.drafting.draft import Draft, check_name
from retrain.dataset.drafting.drafts import Drafts
from retrain.errors import BadInput, Conflict, NotFound


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


def test_later_batches_win_and_what_is_left_out_is_gone(drafts, tmp_path, make_item):
    draft, changed = new_draft(), make_item(1, source="human")
    drafts.begin(draft)
    drafts.record(draft, [make_item(1), make_item(2)])
    drafts.record(draft, [changed])
    assert drafts.items(draft) == {changed.image: changed, make_item(2).image: make_item(2)}

    drafts.record(draft, (), [make_item(2).image, "of the parent"])

    for reader in (drafts, Drafts(tmp_path / "drafts")):
        assert reader.items(draft) == {changed.image: changed}
        assert reader.left_out(draft) == {make_item(2).image, "of the parent"}
    drafts.record(draft, [make_item(2)])
    assert drafts.left_out(draft) == {"of the parent"}


def test_a_batch_that_was_not_written_whole_is_not_there(drafts, make_item, tmp_path):
    draft = new_draft()
    drafts.begin(draft)
    drafts.record(draft, [make_item(1)])
    for leftover in (".000002.json.ab12", "000002.pictures"):
        (tmp_path / "drafts" / "v1.0.0" / "batches" / leftover).write_bytes(b"")

    drafts.record(draft, [make_item(2)], pictures={})

    assert len(drafts.items(draft)) == 2
    assert drafts.pictures(draft) == {}


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
