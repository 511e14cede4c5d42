import errno
import os

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from retrain.boxes import yolo_to_xyxy
from retrain.dataset.reading.materialise import materialise, yolo_labels
from retrain.dataset.version import DatasetItem, LabelledObject
from retrain.errors import BadInput, StorageFull


@pytest.fixture
def version(make_item, make_version):
    return make_version(
        [*(make_item(n) for n in range(4)), make_item(4, split="val"), make_item(5, objects=())]
    )


def parsed(folder, item):
    rows = [line.split() for line in (folder / "labels" / f"{item.image}.txt").read_text().splitlines()]
    return [(int(row[0]), [float(v) for v in row[1:]]) for row in rows]


def test_each_image_has_its_bytes_and_its_labels(version, images_in_memory, make_image, tmp_path):
    folder = materialise(version, images_in_memory(range(6)), "train", tmp_path)

    assert {path.name for path in (folder / "images").iterdir()} == {
        i.file_name for i in version.in_split("train")
    }
    item = next(item for item in version.items if item.objects and item.split == "train")
    assert (folder / "images" / item.file_name).read_bytes() in [make_image(n) for n in range(6)]
    (index, numbers), *_ = parsed(folder, item)
    assert index == item.objects[0].class_index
    assert numbers == pytest.approx([5.5 / 24, 7.375 / 16, 9 / 24, 9.75 / 16], abs=1e-9)
    empty = next(item for item in version.items if not item.objects)
    assert parsed(folder, empty) == []


def test_a_second_call_reads_no_image_and_needs_no_write_permission(
    version, images_in_memory, tmp_path, monkeypatch
):
    first = materialise(version, images_in_memory(range(6)), "train", tmp_path)
    again = images_in_memory(range(6))
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("took the lock"))

    assert materialise(version, again, "train", tmp_path) == first
    assert again.given == 0


def test_equal_content_of_two_versions_is_one_folder_and_other_labels_are_another(
    version, images_in_memory, make_item, make_version, tmp_path
):
    images = images_in_memory(range(8))
    grown = make_version([*version.items, make_item(7)], name="v1.1.0")
    item = version.in_split("val")[0]
    moved = msgspec.structs.replace(item, objects=(LabelledObject("a-0", 0, (1.0, 2.5, 10.0, 12.5)),))
    relabelled = make_version([i for i in version.items if i != item] + [moved])

    val = materialise(version, images, "val", tmp_path)

    assert materialise(grown, images, "val", tmp_path) == val
    assert materialise(grown, images, "train", tmp_path) != materialise(version, images, "train", tmp_path)
    assert materialise(relabelled, images, "val", tmp_path) != val


def test_a_predicate_selects_items(version, images_in_memory, tmp_path):
    wanted = version.items[2]

    folder = materialise(version, images_in_memory(range(6)), lambda item: item == wanted, tmp_path)

    assert [path.name for path in (folder / "images").iterdir()] == [wanted.file_name]


def test_an_empty_selection_says_what_to_do(version, images_in_memory, tmp_path):
    with pytest.raises(BadInput, match=r"Version v1.0.0 has no image in split 'test'; add recordings"):
        materialise(version, images_in_memory(range(6)), "test", tmp_path)


@pytest.mark.parametrize("spoil", ["image", "marker"])
def test_a_folder_that_lost_something_is_made_again(version, images_in_memory, tmp_path, spoil):
    folder = materialise(version, images_in_memory(range(6)), "train", tmp_path)
    item = version.in_split("train")[0]
    whole = (folder / "images" / item.file_name).read_bytes()
    if spoil == "image":
        (folder / "images" / item.file_name).write_bytes(b"")
    else:
        (folder / "complete.json").unlink()

    assert materialise(version, images_in_memory(range(6)), "train", tmp_path) == folder
    assert (folder / "images" / item.file_name).read_bytes() == whole


def test_a_full_disk_leaves_nothing_and_the_next_call_completes(version, images_in_memory, tmp_path):
    images = images_in_memory(range(6))
    images.fail_after, images.error = 2, OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull, match=f"No space left in {tmp_path}"):
        materialise(version, images, "train", tmp_path)

    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "objects"}
    images.fail_after = None
    assert len(list((materialise(version, images, "train", tmp_path) / "images").iterdir())) == 5


def test_what_a_killed_process_left_is_removed(version, images_in_memory, tmp_path):
    (tmp_path / ".lock").write_text("4242\n")
    (tmp_path / ".arriving-old").mkdir()

    folder = materialise(version, images_in_memory(range(6)), "train", tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {".lock", "objects", folder.name}


def test_the_next_version_reads_only_what_is_new_and_shares_the_files(
    version, images_in_memory, make_item, make_version, tmp_path
):
    first = materialise(version, images_in_memory(range(6)), "train", tmp_path)
    grown, later = make_version([*version.items, make_item(7)], name="v1.1.0"), images_in_memory([7])

    second = materialise(grown, later, "train", tmp_path)

    assert later.given == 1
    for item in version.in_split("train"):
        one, two = (folder / "images" / item.file_name for folder in (first, second))
        assert one.samefile(two)
        assert not one.stat().st_mode & 0o222


def test_all_splits_together_are_laid_out_as_ultralytics_reads_them(version, images_in_memory, tmp_path):
    folder = materialise(version, images_in_memory(range(6)), None, tmp_path)

    described = yaml.safe_load((folder / "data.yaml").read_text())
    assert described == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "zero", 1: "one", 2: "two"},
    }
    for split in ("train", "val"):
        for kind, suffixes in (("images", {i.file_name for i in version.in_split(split)}), ("labels", None)):
            names = {path.name for path in (folder / kind / split).iterdir()}
            assert names == (suffixes or {f"{item.image}.txt" for item in version.in_split(split)})


@given(
    size=st.tuples(st.integers(8, 5000), st.integers(8, 5000)),
    shares=st.tuples(*[st.floats(0, 0.45), st.floats(0, 0.45), st.floats(0.5, 1), st.floats(0.5, 1)]),
)
def test_label_text_keeps_boxes_to_a_thousandth_of_a_pixel(size, shares):
    box = tuple(share * edge for share, edge in zip(shares, (*size, *size), strict=True))
    objects = (LabelledObject("a-0", 0, box),)
    item = DatasetItem("a" * 64, "b" * 64, "png", *size, objects, "train", "group", "seed")

    numbers = [float(value) for value in yolo_labels(item).split()[1:]]

    assert yolo_to_xyxy(np.array([numbers]), *size)[0] == pytest.approx(box, abs=1e-3)
