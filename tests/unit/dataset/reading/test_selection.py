from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.dataset.reading.materialise import materialise
from retrain.dataset.reading.selection import write_selection
from retrain.dataset.version import LabelledObject
from retrain.errors import BadInput
from retrain.storage.selections import read_selection_file

PACKS = ["ab" * 32, "cd" * 32]


@pytest.fixture
def version(make_item, make_version):
    return make_version(
        [make_item(seed, pack=PACKS[seed % 2], split="train" if seed else "val") for seed in range(6)]
    )


def place(pack: str) -> Path:
    return Path("packs").absolute() / f"{pack}.zip"


def test_a_selection_says_what_the_folder_of_the_same_items_holds(version, images_in_memory, tmp_path):
    folder = materialise(version, images_in_memory(range(6)), "train", tmp_path / "folders")

    chosen = read_selection_file(write_selection(version, version.in_split("train"), place, tmp_path))

    assert [image.name for image in chosen.images] == sorted(
        path.name for path in (folder / "images").iterdir()
    )
    for image in chosen.images:
        assert image.labels == (folder / "labels" / f"{Path(image.name).stem}.txt").read_text()
        assert chosen.packs[image.pack] == place(version.by_image[image.digest].pack)
        assert (image.width, image.height, image.weight) == (24, 16, None)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    box=st.tuples(st.floats(0, 11), st.floats(0, 7), st.floats(11.5, 24), st.floats(7.5, 16)),
    order=st.permutations(range(3)),
)
def test_any_order_of_the_items_gives_the_same_file(box, order, make_item, make_version, tmp_path):
    objects = (LabelledObject("a", 1, box),)
    version = make_version([make_item(seed, objects=objects) for seed in range(3)])
    items, weights = list(version.items), [0.5, 1.5, 2.5]

    plain = write_selection(version, items, place, tmp_path, weights)
    shuffled = write_selection(
        version, [items[i] for i in order], place, tmp_path, [weights[i] for i in order]
    )

    assert shuffled == plain
    assert [image.weight for image in read_selection_file(plain).images] == weights


def test_the_camera_of_an_image_becomes_its_slice_only_where_that_is_asked_for(
    make_item, make_version, tmp_path
):
    cameras = [{"camera": "north"}, {"camera_id": 7}, {}]
    version = make_version([make_item(seed, metadata=camera) for seed, camera in enumerate(cameras)])

    plain = write_selection(version, version.items, place, tmp_path)
    sliced = write_selection(version, version.items, place, tmp_path, by_camera=True)

    named = {image.digest: image.slice for image in read_selection_file(sliced).images}
    assert named == {make_item(0).image: "north", make_item(1).image: "7", make_item(2).image: None}
    assert {image.slice for image in read_selection_file(plain).images} == {None}


def test_what_cannot_be_selected_is_refused(version, make_item, tmp_path):
    def write(items, weights=None):
        return write_selection(version, items, place, tmp_path / "selections", weights)

    with pytest.raises(BadInput, match=r"v1\.0\.0 has no image in the selection"):
        write([])
    with pytest.raises(BadInput, match="got 6 images and 1 weights"):
        write(version.items, [1.0])
    with pytest.raises(BadInput, match="in no pack yet; commit"):
        write([make_item(1, pack="")])
    with pytest.raises(BadInput, match="occur once"):
        write([version.items[0], version.items[0]])
    assert not (tmp_path / "selections").exists()
