import pytest

from retrain.dataset.formats import export
from retrain.dataset.formats.registry import FORMATS, read_dataset, write_dataset
from retrain.dataset.version import LabelledObject
from retrain.errors import BadInput, PostConditionFailed

WRITTEN = [name for name, each in FORMATS.items() if each.write]


class Broken:
    def images(self, version, items):
        yield items[0], b"x"
        raise OSError("the disk is gone")


@pytest.fixture
def world(build):
    image = build.image()
    item = build.item(image, LabelledObject("o-1", 0, (1.0, 2.0, 9.0, 9.0)))
    return build.version([item]), build.store([image])


@pytest.mark.parametrize("name", WRITTEN)
def test_an_export_that_fails_leaves_nothing(world, tmp_path, name):
    with pytest.raises(OSError, match="the disk is gone"):
        write_dataset(world[0], Broken(), tmp_path / "out", name)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_an_export_that_does_not_read_back_leaves_nothing(build, world, tmp_path, name):
    class Wrong:
        def images(self, version, items):
            yield items[0], build.image(41, 30)

    with pytest.raises(
        PostConditionFailed, match=r"read back, is not the version, and was removed: .*41 x 30|boxes"
    ):
        write_dataset(world[0], Wrong(), tmp_path / "out", name)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_an_empty_folder_is_filled_and_one_in_use_is_left_alone(world, tmp_path, name):
    target = tmp_path / "out"
    target.mkdir()
    write_dataset(*world, target, name)
    before = sorted(target.rglob("*"))

    with pytest.raises(
        BadInput, match=r"is there already\. Export to a folder that does not exist or is empty"
    ):
        write_dataset(*world, target, name)

    assert sorted(target.rglob("*")) == before
    assert len(read_dataset(target).images) == 1


def test_a_target_that_is_filled_meanwhile_is_left_alone(tmp_path):
    with (
        pytest.raises(BadInput, match="was filled by somebody else meanwhile"),
        export.arriving(tmp_path / "out", lambda _: None) as folder,
    ):
        (folder / "mine").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").touch()

    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_a_file_or_a_link_is_no_target(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for name in ("file", "link"):
        with (
            pytest.raises(BadInput, match="is there already"),
            export.arriving(tmp_path / name, lambda _: None),
        ):
            pytest.fail("was begun")


def test_splits_that_are_not_there_or_cannot_be_file_names_are_refused(build, world, tmp_path):
    version, store = world
    taken = build.version([build.item(build.image(), split="names")], splits={"names": 1.0})
    odd = build.version([build.item(build.image(), split="../x")], splits={"../x": 1.0})

    with pytest.raises(BadInput, match=r"has no split gold\. It has: train, val, test"):
        write_dataset(version, store, tmp_path / "out", "coco", ["gold"])
    with pytest.raises(BadInput, match="has no image in val"):
        write_dataset(version, store, tmp_path / "out", "coco", ["val"])
    with pytest.raises(BadInput, match=r"Split '\.\./x' of v1.0.0 cannot be the name of a file"):
        write_dataset(odd, store, tmp_path / "out", "voc")
    with pytest.raises(BadInput, match=r"Split 'names' of v1\.0\.0 means something else in data\.yaml"):
        write_dataset(taken, store, tmp_path / "out", "yolo")


@pytest.mark.parametrize(
    "change",
    [{"split": "val"}, {"group": "other"}, {"source": "auto"}, {"metadata": {"camera": 1}}, {"objects": ()}],
)
def test_reading_back_compares_everything(build, world, tmp_path, change):
    import msgspec

    version, store = world
    write_dataset(version, store, tmp_path / "out", "coco")
    dataset = read_dataset(tmp_path / "out")
    export.check_read_back(dataset, version, version.items, 0.0)

    with pytest.raises(PostConditionFailed):
        export.check_read_back(dataset, version, [msgspec.structs.replace(version.items[0], **change)], 0.0)


def test_reading_back_compares_boxes_within_the_tolerance(build, world, tmp_path):
    import msgspec

    version, store = world
    write_dataset(version, store, tmp_path / "out", "coco")
    dataset = read_dataset(tmp_path / "out")
    moved = msgspec.structs.replace(
        version.items[0], objects=(LabelledObject("o-1", 0, (1.0, 2.0, 9.0, 9.001)),)
    )

    export.check_read_back(dataset, version, [moved], 0.01)
    with pytest.raises(PostConditionFailed, match="has boxes"):
        export.check_read_back(dataset, version, [moved], 0.0)
