"""What people hand to the manager by mistake: said in words, and nothing of it stays."""

import io
import os
import shutil
import struct
import time
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from retrain.boxes import Annotations
from retrain.dataset.drafting.candidates import PackedImage
from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed, RetrainError
from retrain.storage.digests import content_digest
from retrain.storage.packs import write_pack

NONE = Annotations.empty()
COUNT = 100_000


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed, size=(24, 16), mode="RGB"):
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode=None if mode != "CMYK" else "CMYK")


def huge_png():
    """A valid head of 60000 x 60000 pixels in 57 bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def draft(manager):
    return manager.create_version("v1.1.0", parent="v1.0.0")


def add(manager, draft, images, labels=None, **options):
    return manager.add_images(draft, images, labels or [NONE] * len(images), **options)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": 0.5, "val": 0.2, "test": 0.1}, r"must be 1, got 0\.5 \+ 0\.2 \+ 0\.1 = 0\.8"),
        ({"train": 0.9, "val": 0.9, "test": -0.8}, r"test must be in \[0, 1\], got -0\.8"),
        ({"train": float("nan"), "val": 0.5, "test": 0.5}, r"train must be in \[0, 1\], got nan"),
        ({"train": float("inf"), "val": 0.5, "test": 0.5}, r"train must be in \[0, 1\], got inf"),
        ({"training": 0.8, "test": 0.2}, r"Unknown split 'training'"),
    ],
)
def test_fractions_that_cannot_be_are_refused_and_begin_no_draft(manager, splits, said):
    with pytest.raises(BadInput, match=said):
        manager.create_version("v2", parent="v1.0.0", splits=splits)
    with pytest.raises(NotFound, match="No draft 'v2'"):
        manager.commit("v2")


@pytest.mark.parametrize(
    "name", ["", " ", "../v1", "a/b", ".git", "v1..2", "v1.lock", "a" * 101, "v1\n", "vé"]
)
def test_a_name_that_is_no_tag_or_file_name_is_refused(manager, name):
    with pytest.raises(BadInput, match="A version name has up to 100 letters"):
        manager.create_version(name, parent="v1.0.0")


def test_an_empty_version_is_refused_and_its_draft_can_still_be_filled(manager, build):
    draft = manager.create_version("v2", classes=build.classes)
    with pytest.raises(BadInput, match="Draft 'v2' has no images; add some first"):
        manager.commit(draft)

    build.fill(manager, draft, [40])

    assert len(manager.commit(draft).items) == 1


def test_files_that_are_no_whole_image_are_named_one_by_one(manager, draft, tmp_path):
    jpeg = encoded(noise(1, (64, 64)), "JPEG")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "huge.png").write_bytes(huge_png())
    (tmp_path / "anim.gif").write_bytes(encoded(noise(2), "GIF"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ("empty.jpg", "cut.jpg", "huge.png", "anim.gif", "folder.png", "loop.png")

    report = add(manager, draft, [tmp_path / name for name in names], on_error="skip")

    reasons = {Path(path).name: reason for path, reason in report.rejected.items()}
    for name, reason in {
        "empty.jpg": "is not an image",
        "cut.jpg": "cannot be decoded",
        "huge.png": "pixels",
        "anim.gif": "is GIF; use PNG, JPEG, BMP, TIFF or WebP",
        "folder.png": "cannot be read: Is a directory",
        "loop.png": "cannot be read: Too many levels of symbolic links",
    }.items():
        assert reason in reasons[name]
    assert report.added == ()


def test_a_path_with_a_nul_is_named_like_any_other_bad_one(manager, draft, build):
    report = add(manager, draft, ["a\0b.png", build.image(70)], on_error="skip")

    assert "cannot be read" in report.rejected["a\0b.png"]
    assert len(report.added) == 1


def test_pictures_of_every_kind_come_back_byte_for_byte(manager, draft):
    deep = Image.fromarray(np.random.default_rng(3).integers(0, 65_535, (16, 24), dtype=np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [noise(seed) for seed in (10, 11)]
    given = {
        "cmyk": encoded(noise(4, mode="CMYK"), "JPEG"),
        "deep png": encoded(deep, "PNG"),
        "deep tiff": encoded(deep, "TIFF"),
        "turned": encoded(noise(5), "JPEG", exif=turned),
        "animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "animated png": encoded(frames[1], "PNG", save_all=True, append_images=frames[:1]),
        "one pixel": encoded(noise(6, (1, 1)), "PNG"),
        "a line": encoded(noise(7, (3000, 1)), "PNG"),
        "palette": encoded(noise(8).convert("P"), "PNG"),
        "one bit": encoded(noise(9).convert("1"), "PNG"),
        "see-through": encoded(noise(12).convert("RGBA"), "PNG"),
    }

    add(manager, draft, list(given.values()), [Annotations.of([[0, 0, 1, 1]], [0])] * len(given))
    version = manager.commit(draft, waive="flat pictures look alike")

    fresh = DatasetManager(manager.repository.folder)
    assert fresh.verify("v1.1.0") == version
    for name, data in given.items():
        item = version.by_image[content_digest(data)]
        assert fresh.image_bytes(version, item) == data, name
    sizes = {name: version.by_image[content_digest(data)] for name, data in given.items()}
    assert (sizes["turned"].width, sizes["turned"].height) == (16, 24)
    assert (sizes["one pixel"].width, sizes["one pixel"].height) == (1, 1)


def test_any_file_name_can_be_added_and_equal_names_are_no_clash(manager, draft, build, tmp_path):
    names = ["Straße 新.png", "a\u0301.png", "\u00e1.png", "-rf.png", "new\nline.png", "a" * 200 + ".png"]
    paths = []
    for seed, name in enumerate(names, start=50):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            paths.append(tmp_path / folder / name)
            paths[-1].write_bytes(build.image(seed if folder == "one" else seed + 100))

    report = add(manager, draft, paths)

    assert len(report.added) == len(paths)
    assert sorted(
        item.metadata["file"] for item in manager.commit(draft).items if "file" in item.metadata
    ) == sorted(names * 2)


def test_a_file_name_that_is_no_unicode_does_not_stop_the_import(manager, draft, build, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(build.image(70))

    report = add(manager, draft, [path])
    version = manager.commit(draft)

    (digest,) = report.added
    version.by_image[digest].metadata["file"].encode()


def nested(depth):
    deep = []
    for _ in range(depth):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "metadata",
    [{"at": float("nan")}, {"x": object()}, {"x": {1, 2}}, {"x": "\ud800"}, {"x": nested(100_000)}],
    ids=["nan", "object", "set", "half a character", "deep"],
)
def test_what_json_cannot_hold_is_refused_and_the_draft_stays_usable(manager, draft, build, metadata):
    with pytest.raises(BadInput, match="1 of 1 images cannot be added"):
        add(manager, draft, [build.image(70)], metadata=[metadata])

    fresh = DatasetManager(manager.repository.folder)
    report = add(fresh, "v1.1.0", [build.image(70)], metadata=[{"x": 2**70, "y": [None, "é"]}])
    assert len(report.added) == 1
    assert len(fresh.review("v1.1.0").leaks) == 0


@pytest.mark.parametrize(
    "options", [{"groups": [7]}, {"groups": ["\ud800"]}, {"sources": [None]}, {"sources": "\ud800"}]
)
def test_a_group_or_source_that_is_no_text_is_refused_and_the_draft_stays_usable(
    manager, draft, build, options
):
    with pytest.raises(BadInput, match="1 of 1 images cannot be added"):
        add(manager, draft, [build.image(70)], **options)

    fresh = DatasetManager(manager.repository.folder)
    build.fill(fresh, "v1.1.0", [71])
    assert len(fresh.review("v1.1.0").leaks) == 0


def test_an_empty_group_is_a_group_of_one(manager, draft, build):
    add(manager, draft, [build.image(70), build.image(71)], groups=["", ""])

    version = manager.commit(draft)

    for seed in (70, 71):
        digest = content_digest(build.image(seed))
        assert version.by_image[digest].group == digest


@pytest.mark.parametrize(
    ("boxes", "classes"),
    [
        ([[np.nan, 0, 5, 5]], [0]),
        ([[0.0, 0, 5, 5]], [-1]),
        ([[5.0, 5, 1, 1]], [0]),
        ([[30.0, 30, 40, 40]], [0]),
        ([[-9.0, 0, -1, 5]], [0]),
        ([[3.0, 3, 3, 9]], [0]),
        ([[3.0, 3, 9, 9]], [3]),
    ],
    ids=["nan", "class -1", "upside down", "beyond", "before", "flat", "unknown class"],
)
def test_boxes_that_cannot_be_are_refused_and_the_draft_stays_usable(manager, draft, build, boxes, classes):
    unchecked = Annotations(np.array(boxes), np.array(classes))

    with pytest.raises(BadInput, match="1 of 1 images cannot be added"):
        add(manager, draft, [build.image(70)], [unchecked])

    fresh = DatasetManager(manager.repository.folder)
    add(fresh, "v1.1.0", [build.image(70)], [Annotations.of([[-5, -5, 99, 99]], [0])])
    assert len(fresh.review("v1.1.0").leaks) == 0


def test_a_box_that_sticks_out_is_clipped_to_the_image(manager, draft, build):
    (image,) = add(manager, draft, [build.image(70)], [Annotations.of([[-5, -5, 99, 99]], [0])]).added

    assert manager.commit(draft).by_image[image].objects[0].box == (0.0, 0.0, 24.0, 24.0)


def test_a_hundred_thousand_boxes_in_one_image_take_seconds_also_when_they_are_corrected(
    manager, draft, build
):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 3990, (COUNT, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 9, (COUNT, 2))], axis=1)
    image = encoded(Image.new("L", (4000, 4000)), "PNG")
    classes = np.zeros(COUNT, np.int64)
    started = time.monotonic()

    add(manager, draft, [image], [Annotations.of(boxes, classes)])
    added = time.monotonic() - started
    first = manager.commit(draft)
    child = manager.create_version("v1.2.0", parent="v1.1.0")
    started = time.monotonic()
    add(manager, child, [image], [Annotations.of(boxes + 0.25, classes)], relabel=True)
    corrected = time.monotonic() - started

    before, item = (
        next(item for item in version.items if item.width == 4000)
        for version in (first, manager.commit(child))
    )
    assert len({o.id for o in item.objects}) == COUNT
    assert item.objects[7].id == before.objects[7].id
    assert max(added, corrected) < 15


def test_many_small_additions_read_each_earlier_one_at_most_once_more(manager, draft, build, monkeypatch):
    read = []
    plain = Path.read_bytes

    def counting(path):
        if path.parent.name == "batches" and path.suffix == ".json":
            read.append(path.name)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", counting)

    for seed in range(100, 160):
        build.fill(manager, draft, [seed])

    assert len(read) <= 3 * 60, "every addition reads all earlier ones: quadratic"
    monkeypatch.undo()
    packs = {item.pack for item in manager.commit(draft).items}
    assert len(packs) == 2, "small additions are put together at the commit"


def test_a_class_map_with_holes_makes_no_version(manager, build):
    other = manager.create_version("v9", classes=["cat", "dog"])
    build.fill(manager, other, [3 * n for n in range(20, 24)])
    manager.commit(other)

    for class_map, said in (
        ({"cat": "one"}, "says nothing of dog"),
        ({"cat": "one", "dog": "two", "cow": "one"}, "names 'cow', but v9 has cat, dog"),
        ({"cat": "one", "dog": " "}, "maps to an empty name"),
    ):
        with pytest.raises(BadInput, match=said):
            manager.merge("v10", "v1.0.0", "v9", class_map)

    assert manager.versions() == ["v1.0.0", "v9"]


def test_a_pack_that_is_not_what_its_name_says_never_becomes_a_tagged_version(
    manager, draft, build, tmp_path
):
    names = [f"{content_digest(build.image(seed))}.png" for seed in (70, 71)]
    pack = write_pack(tmp_path, zip(names, map(build.image, (70, 71)), strict=True))
    wrong = tmp_path / f"{'ab' * 32}.zip"
    shutil.copyfile(tmp_path / f"{pack}.zip", wrong)

    try:
        add(manager, draft, [PackedImage(wrong, name) for name in names])
        manager.commit(draft)
    except BadInput:
        assert DatasetManager(manager.repository.folder).versions() == ["v1.0.0"]
    else:
        assert len(DatasetManager(manager.repository.folder).verify("v1.1.0").items) == 26


def test_a_draft_damaged_on_disk_never_becomes_a_tagged_version(manager, draft, build):
    build.fill(manager, draft, range(70, 74))
    (pack,) = (manager.repository.scratch / "drafts" / "v1.1.0" / "packs").iterdir()
    flip(pack, 300)

    with pytest.raises((BadInput, PostConditionFailed), match="damaged"):
        manager.commit(draft)

    assert DatasetManager(manager.repository.folder).versions() == ["v1.0.0"]
    again = manager.create_version("v1.1.0", parent="v1.0.0")
    build.fill(manager, again, range(70, 74))
    assert len(manager.commit(again).items) == 28


@pytest.mark.parametrize("kind", ["packs", "manifest"])
def test_a_file_edited_in_the_folder_never_gets_into_the_next_version(manager, draft, build, kind):
    (shown,) = (manager.repository.folder / kind).iterdir()
    shown.unlink()
    shown.write_bytes(b"edited by hand")
    build.fill(manager, draft, range(70, 74))

    version = manager.commit(draft)

    fresh = DatasetManager(manager.repository.folder)
    assert fresh.verify("v1.1.0") == version
    assert fresh.verify("v1.0.0").name == "v1.0.0"
    assert fresh.repository.status() == {}


def test_folders_that_somebody_emptied_come_back_with_the_next_version(manager, draft, build):
    for name in ("packs", "manifest"):
        shutil.rmtree(manager.repository.folder / name)
    (manager.repository.folder / "dataset.json").unlink()
    build.fill(manager, draft, range(70, 74))

    version = manager.commit(draft)

    assert {path.stem for path in (manager.repository.folder / "packs").iterdir()} == {
        i.pack for i in version.items
    }
    assert manager.repository.status() == {}


def rewrite_header(manager, build, change):
    """What somebody does who edits dataset.json of a version and puts its tag on the result."""
    folder = manager.repository.folder
    header = msgspec.json.decode((folder / "dataset.json").read_bytes())
    change(header)
    (folder / "dataset.json").write_bytes(msgspec.json.encode(header))
    person = ("-c", "user.name=me", "-c", "user.email=me@here")
    build.git(folder, *person, "commit", "-q", "-a", "--amend", "-C", "HEAD")
    build.git(folder, "tag", "-f", "v1.0.0")


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored["header"].update(description="better than it is"),
        lambda stored: stored["header"].update(splits={"train": 1.0, "val": 0.0, "test": 0.0}),
        lambda stored: stored["header"].update(images=23),
        lambda stored: stored.update(digest="0" * 64),
        lambda stored: stored.update(segments=[]),
    ],
    ids=["description", "splits", "images", "digest", "segments"],
)
def test_a_header_edited_by_hand_is_named_by_verify(manager, build, change):
    rewrite_header(manager, build, change)

    with pytest.raises(BadInput, match=r"v1\.0\.0"):
        DatasetManager(manager.repository.folder).verify("v1.0.0")


def test_damage_to_a_segment_or_a_pack_or_what_lists_them_is_named_by_verify(manager):
    folder, version = manager.repository.folder, manager.get_version("v1.0.0")
    (pack,), (segment,) = (
        manager.repository.listing(kind, "v1.0.0").values() for kind in ("packs", "manifest")
    )
    lists = list((folder / ".dvc" / "cache" / "files" / "md5").rglob("*.dir"))
    assert len(lists) == 2

    for damaged, said in (
        (pack, f"Pack {version.items[0].pack} .*damaged"),
        (segment, "segment .* is damaged"),
    ):
        whole = damaged.read_bytes()
        flip(damaged, 200)
        with pytest.raises(BadInput, match=said):
            DatasetManager(folder).verify("v1.0.0")
        damaged.write_bytes(whole)
    for listed in lists:
        whole = listed.read_bytes()
        listed.chmod(0o644)
        listed.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadInput, match="damaged"):
            DatasetManager(folder).verify("v1.0.0")
        listed.write_bytes(whole)
    assert DatasetManager(folder).verify("v1.0.0") == version


def test_a_version_whose_tag_was_moved_by_hand_is_not_taken_for_another(manager, build):
    build.version(manager, "v1.1.0", range(40, 44), parent="v1.0.0")
    build.git(manager.repository.folder, "tag", "-f", "v1.0.0", "v1.1.0")

    with pytest.raises(BadInput, match=r"tag.*v1\.0\.0|v1\.0\.0.*tag"):
        DatasetManager(manager.repository.folder).verify("v1.0.0")


def test_a_version_whose_tag_was_deleted_by_hand_is_named_in_the_lineage_of_its_children(manager, build):
    build.version(manager, "v1.1.0", range(40, 44), parent="v1.0.0")
    build.git(manager.repository.folder, "tag", "-d", "v1.0.0")

    with pytest.raises(NotFound, match=r"'v1\.0\.0' not found"):
        manager.lineage("v1.1.0")


def test_a_repository_deleted_under_a_manager_is_said_and_can_be_begun_again(manager, draft, build):
    folder = manager.repository.folder
    shutil.rmtree(folder)

    for late in (
        lambda: build.fill(manager, draft, [70]),
        lambda: manager.commit(draft),
        lambda: manager.get_version("v1.0.0"),
        lambda: manager.verify("v1.0.0"),
        lambda: manager.checkout("v1.0.0"),
        manager.repository.push,
    ):
        with pytest.raises(RetrainError):
            late()

    assert manager.versions() == []
    assert len(build.version(manager, "v1.0.0", range(4)).items) == 4


def test_a_repository_deleted_in_the_middle_of_a_commit_is_said(manager, draft, build, monkeypatch):
    from retrain.dataset.repository.commands import Commands

    build.fill(manager, draft, [70])
    plain = Commands.dvc

    def deleting(commands, *arguments):
        shutil.rmtree(manager.repository.folder)
        return plain(commands, *arguments)

    monkeypatch.setattr(Commands, "dvc", deleting)

    with pytest.raises(RetrainError, match="does not exist"):
        manager.commit(draft)


@pytest.mark.parametrize("description", ["x" * 300_000, "two\0words", "half a sign \ud800"])
def test_a_description_that_git_cannot_keep_is_refused_before_anything_is_begun(manager, description):
    with pytest.raises(BadInput, match="description"):
        manager.create_version("v1.1.0", description, parent="v1.0.0")
    with pytest.raises(BadInput, match="description"):
        manager.subset("v1.1.0", "v1.0.0", "split=train", description)

    assert manager.versions() == ["v1.0.0"]


def test_a_description_that_looks_like_git_is_kept_as_it_is(manager, build):
    said = "# not a comment\n\n--amend\n\nDataset v9 is no version"
    draft = manager.create_version("v1.1.0", said, parent="v1.0.0")
    build.fill(manager, draft, [70])

    manager.commit(draft)

    assert DatasetManager(manager.repository.folder).log()[0].description == said


def test_a_name_taken_by_a_tag_is_a_conflict_that_leaves_the_draft(manager, draft, build):
    build.fill(manager, draft, [70])
    manager.tag("v1.1.0", "v1.0.0")

    with pytest.raises(Conflict, match=r"[Tt]ag v1\.1\.0"):
        manager.commit(draft)
    manager.untag("v1.1.0")

    assert len(manager.commit(draft).items) == 25


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
