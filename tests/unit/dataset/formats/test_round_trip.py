"""Export, then import: the identity, for each format."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.dataset.formats import coco, voc, yolo
from retrain.dataset.formats.registry import FORMATS, detect, read_dataset, write_dataset
from retrain.dataset.version import LabelledObject
from retrain.storage.digests import content_digest

SIZES = [(1, 1), (24, 16), (333, 1000), (4096, 3)]
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.1, "gold-2": 0.1}
# x1 + (x2 - x1) is not x2.
INEXACT = LabelledObject("inexact", 0, (4.209186792090759, 0.1, 12.63255026651838, 15.7))
plain_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp", "Cn")),
    min_size=1,
    max_size=8,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def edges(draw, length, thinnest):
    low = draw(st.floats(0, length - thinnest, exclude_max=True))
    high = draw(st.floats(low + thinnest, length).filter(lambda value: value > low))
    return low, high


@st.composite
def versions(draw, build, thinnest):
    """A version and the bytes of its images."""
    classes = draw(st.lists(plain_text, unique=True, min_size=1, max_size=4))
    images = [build.image(*draw(st.sampled_from(SIZES)), shade) for shade in range(draw(st.integers(1, 3)))]
    images.append(build.image(16, 24, kind="JPEG", orientation=6))
    items = []
    for data in images:
        size = build.item(data)
        objects = []
        for index in range(draw(st.integers(0, 3))):
            x1, x2 = draw(edges(size.width, thinnest))
            y1, y2 = draw(edges(size.height, thinnest))
            objects.append(
                LabelledObject(f"o-{index}", draw(st.integers(0, len(classes) - 1)), (x1, y1, x2, y2))
            )
        fields = {
            "split": draw(st.sampled_from(sorted(SPLITS))),
            "group": draw(st.text(st.characters(codec="utf-8"), min_size=1)),
            "source": draw(st.sampled_from(["human", "auto"])),
            "metadata": draw(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=3)),
        }
        items.append(build.item(data, *objects, **fields))
    return build.version(items, classes, SPLITS), images


def check_identity(build, name, version, images, tolerance_px, **options):
    with tempfile.TemporaryDirectory() as scratch:
        target = write_dataset(version, build.store(images), Path(scratch) / "export", name, **options)

        assert detect(target) == name
        dataset = read_dataset(target, **options)

        assert dataset.problems == ()
        assert dataset.classes == version.classes
        found = {content_digest(image.path.read_bytes()): image for image in dataset.images}
        assert found.keys() == version.by_image.keys()
        for item in version.items:
            image = found[item.image]
            assert (image.split, image.group, image.source) == (item.split, item.group, item.source)
            assert image.metadata == json.loads(json.dumps(item.metadata))
            assert image.object_ids == tuple(o.id for o in item.objects)
            assert image.annotations.classes.tolist() == [o.class_index for o in item.objects]
            for read, o in zip(image.annotations.boxes.tolist(), item.objects, strict=True):
                assert max(abs(a - b) for a, b in zip(read, o.box, strict=True)) <= tolerance_px


quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(data=st.data())
def test_coco_gives_back_every_box_exactly(build, data):
    version, images = data.draw(versions(build, thinnest=0.0))

    check_identity(build, "coco", version, images, 0.0)


@quick
@given(data=st.data(), one_based=st.booleans())
def test_voc_gives_back_every_box_exactly_in_both_conventions(build, data, one_based):
    version, images = data.draw(versions(build, thinnest=0.0))

    check_identity(build, "voc", version, images, 0.0, one_based=one_based)


@quick
@given(data=st.data())
def test_yolo_gives_back_every_box_within_1e_5_px(build, data):
    version, images = data.draw(versions(build, thinnest=1e-3))

    check_identity(build, "yolo", version, images, 1e-5)


@pytest.mark.parametrize(("name", "one_based"), [("coco", False), ("voc", False), ("voc", True)])
def test_a_box_whose_edges_do_not_add_up_in_floating_point_is_exact(build, name, one_based):
    image = build.image(24, 16)
    x1, y1, x2, _ = INEXACT.box
    assert x1 + (x2 - x1) != x2
    assert y1 + 1 - 1 != y1

    version = build.version([build.item(image, INEXACT)])
    options = {"one_based": True} if one_based else {}
    check_identity(build, name, version, [image], 0.0, **options)


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.write])
def test_only_the_splits_asked_for_are_exported(build, tmp_path, name):
    images = [build.image(shade=shade) for shade in range(3)]
    items = [
        build.item(data, split=split) for data, split in zip(images, ("train", "val", "test"), strict=True)
    ]

    write_dataset(build.version(items), build.store(images), tmp_path / "out", name, splits=["val", "test"])

    dataset = read_dataset(tmp_path / "out", classes=("cat", "dog"))
    assert {image.path.stem: image.split for image in dataset.images} == {
        items[1].image: "val",
        items[2].image: "test",
    }


@pytest.mark.parametrize("reader", [voc.read, yolo.read])
def test_labels_changed_after_the_export_get_no_old_object_ids(build, tmp_path, reader):
    image = build.image(40, 40)
    item = build.item(image, LabelledObject("o-1", 0, (1.0, 1.0, 9.0, 9.0)), group="road")
    name = "voc" if reader is voc.read else "yolo"
    write_dataset(build.version([item]), build.store([image]), tmp_path / "out", name)
    (labels,) = [p for p in (tmp_path / "out").rglob(f"{item.image}.*") if p.suffix in {".xml", ".txt"}]
    labels.write_text(labels.read_text() + "\n")

    dataset = reader(tmp_path / "out")

    assert dataset.images[0].group == "road"
    assert dataset.images[0].object_ids == ()
    assert [p.lost for p in dataset.problems] == ["nothing"]
    assert "was changed after retrain.jsonl" in dataset.problems[0].what


def test_a_coco_box_moved_by_somebody_wins_over_our_exact_one(build, tmp_path):
    image = build.image(24, 16)
    version = build.version([build.item(image, INEXACT)])
    coco.write(version, build.store([image]), tmp_path / "out")
    file = tmp_path / "out/annotations/instances_train.json"
    content = json.loads(file.read_text())
    assert content["annotations"][0]["retrain"]["box"] == list(INEXACT.box)
    content["annotations"][0]["bbox"] = [2, 2, 4, 4]
    file.write_text(json.dumps(content))

    assert coco.read(tmp_path / "out").images[0].annotations.boxes.tolist() == [[2.0, 2.0, 6.0, 6.0]]


def test_pycocotools_reads_our_export_as_we_do(build, tmp_path, capsys):
    from pycocotools.coco import COCO

    images = [build.image(40, 30, shade) for shade in range(2)]
    boxes = [(0.0, 0.0, 40.0, 30.0), (1.5, 2.25, 10.0, 12.5)]
    items = [
        build.item(data, *(LabelledObject(f"o-{n}", n, box) for n, box in enumerate(boxes)))
        for data in images
    ]
    coco.write(build.version(items), build.store(images), tmp_path / "out")

    oracle = COCO(tmp_path / "out/annotations/instances_train.json")

    assert {category["name"] for category in oracle.loadCats(oracle.getCatIds())} == {"cat", "dog"}
    for image in oracle.loadImgs(oracle.getImgIds()):
        found = oracle.loadAnns(oracle.getAnnIds(imgIds=image["id"]))
        corners = [(b[0], b[1], b[0] + b[2], b[1] + b[3]) for b in (each["bbox"] for each in found)]
        assert corners == boxes
        assert [oracle.loadCats(each["category_id"])[0]["name"] for each in found] == ["cat", "dog"]
        assert (tmp_path / "out/images" / image["file_name"]).read_bytes() in images
