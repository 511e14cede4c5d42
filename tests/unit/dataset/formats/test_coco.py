import json
import time

import pytest

from retrain.dataset.formats import coco
from retrain.errors import BadInput

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def document(images=(), annotations=(), categories=CATEGORIES, **more) -> str:
    return json.dumps(
        {"images": list(images), "annotations": list(annotations), "categories": list(categories), **more}
    )


def image(number=1, name="a.png", **more) -> dict:
    return {"id": number, "file_name": name, "width": 40, "height": 30, **more}


def annotation(number=1, image_id=1, category_id=3, bbox=(1, 2, 10, 5), **more) -> dict:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


@pytest.fixture
def read(build, tmp_path):
    """Read one COCO file beside one image, a.png of 40 x 30 pixels."""

    def read_one(content, **options):
        build.lay_out(tmp_path, {"instances_train.json": content, "a.png": build.image()})
        return coco.read(tmp_path, **options)

    return read_one


def test_categories_become_classes_in_the_order_of_their_ids(read):
    dataset = read(document([image()], [annotation(), annotation(2, category_id=7, bbox=[0, 0, 1.5, 2.25])]))

    assert dataset.classes == ("cat", "dog")
    (found,) = dataset.images
    assert found.split == "train"
    assert found.annotations.classes.tolist() == [0, 1]
    assert found.annotations.boxes.tolist() == [[1.0, 2.0, 11.0, 7.0], [0.0, 0.0, 1.5, 2.25]]
    assert dataset.problems == ()


def test_given_classes_decide_the_indices_and_other_categories_are_reported(read, build):
    both = [annotation(), annotation(2, category_id=7)]

    dataset = read(document([image()], both), classes=["horse", "dog"])

    assert dataset.classes == ("horse", "dog")
    assert dataset.images[0].annotations.classes.tolist() == [1]
    (problem,) = build.said(dataset)
    assert problem == (
        "instances_train.json",
        "annotation 0",
        "class 'cat' is not one of 'horse, dog'",
        "box",
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (annotation(iscrowd=1), "is a crowd region"),
        (annotation(bbox=[], segmentation=[[1, 2, 3, 4, 5, 6]]), "has no bbox, only a segmentation"),
        (annotation(bbox=[1, 2, 3]), "needs a bbox of four finite numbers"),
        (annotation(bbox=[1, 2, "3", 4]), "needs a bbox of four finite numbers"),
        (annotation(bbox=[1, 2, True, 4]), "needs a bbox of four finite numbers"),
        (annotation(bbox=[1, 2, 1e308, 10**25]), "needs a bbox of four finite numbers"),
        (annotation(bbox=[1, 2, 0, 4]), "has zero area: 1, 2, 1, 6"),
        (annotation(bbox=[5, 5, -2, 4]), "has its corners swapped"),
        (annotation(bbox=[50, 5, 10, 4]), "lies outside the image of 40 x 30 pixels"),
        (annotation(image_id=9), "is for image 9, which is not in the list"),
        (annotation(category_id=9), "has category 9, which is not in the list"),
        ({"bbox": [1, 2, 3, 4]}, "needs a whole number or text as image_id"),
        ("nonsense", "needs a whole number or text as image_id, got 'nonsense'"),
    ],
)
def test_a_bad_annotation_costs_one_box_and_is_reported(read, bad, message):
    dataset = read(document([image()], [annotation(5), bad]))

    assert dataset.images[0].annotations.boxes.tolist() == [[1.0, 2.0, 11.0, 7.0]]
    (problem,) = dataset.problems
    assert problem.where == "annotation 1"
    assert problem.lost == "box"
    assert message in problem.what


def test_a_box_that_sticks_out_is_clipped_and_reported_and_a_rounding_error_is_not(read):
    dataset = read(
        document([image()], [annotation(bbox=[-2, 0, 10, 5]), annotation(2, bbox=[30, 0, 10.01, 5])])
    )

    assert dataset.images[0].annotations.boxes.tolist() == [[0.0, 0.0, 8.0, 5.0], [30.0, 0.0, 40.0, 5.0]]
    (problem,) = dataset.problems
    assert problem.lost == "nothing"
    assert problem.what == "sticks out of the image of 40 x 30 pixels and was clipped: -2, 0, 8, 5"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (image(name="b.png"), "'b.png' is missing"),
        (image(name="../../etc/passwd"), "leads outside the imported folder"),
        (image(name="/etc/passwd"), "leads outside the imported folder"),
        (image(name=""), "needs a file_name"),
        (image(name=7), "needs a file_name"),
        (image(number=2.5), "needs a whole number or text as id"),
        (image(width=41), "is 40 x 30 pixels, but its labels are for 41 x 30"),
        (image(width=-1), "needs pixels as width"),
    ],
)
def test_a_bad_image_entry_is_refused_and_its_annotations_are_not_reported_again(read, entry, message):
    dataset = read(document([entry], [annotation()] if entry["id"] == 1 else []))

    assert dataset.images == ()
    (problem,) = dataset.losses
    assert problem.lost == "image"
    assert message in problem.what


def test_the_size_of_an_image_need_not_be_stated(read):
    assert len(read(document([{"id": 1, "file_name": "a.png"}], [annotation()])).images) == 1


def test_boxes_and_size_are_of_the_image_as_it_is_shown(build, tmp_path):
    turned = build.image(30, 40, kind="JPEG", orientation=6)
    content = document([image(name="a.jpg")], [annotation(bbox=[30, 0, 10, 30])])
    dataset = coco.read(build.lay_out(tmp_path, {"instances_val.json": content, "a.jpg": turned}))

    assert dataset.problems == ()
    assert dataset.images[0].annotations.boxes.tolist() == [[30.0, 0.0, 40.0, 30.0]]

    stored = document([image(name="a.jpg", width=30, height=40)])
    dataset = coco.read(build.lay_out(tmp_path, {"instances_val.json": stored}))
    assert "is 40 x 30 pixels (turned by its EXIF orientation), but its labels are for 30 x 40" in str(
        dataset.problems
    )


def test_an_image_listed_twice_keeps_its_first_labels(read, build):
    dataset = read(document([image(), image(2)], [annotation(), annotation(2, image_id=2)]))

    assert len(dataset.images) == 1
    assert build.said(dataset) == [
        ("instances_train.json", "image 1", "'a.png' has its labels in instances_train.json already", "image")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document().replace("[]", "[NaN]", 1), "is not valid JSON"),
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        ("[1, 2]", r"must be an object, got \[1, 2\]"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        (json.dumps({"images": []}), "has no list of annotations, categories"),
        (document(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "have the same id 1"),
        (
            document(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]),
            "two categories are called 'a'",
        ),
        (document(categories=[{"id": "1", "name": "a"}]), "category 0 needs a whole id and a name"),
        (document(categories=[]), "class names must be different and not empty"),
    ],
)
def test_a_file_that_is_not_coco_is_refused_as_a_whole(read, content, message):
    with pytest.raises(BadInput, match=message):
        read(content)


def test_the_layouts_of_coco_and_roboflow_are_found_with_their_splits(build, tmp_path):
    one, two = document([image()], [annotation()]), document([image()], [])
    picture = build.image()
    official = {"annotations/instances_train2017.json": one, "train2017/a.png": picture}
    official |= {"annotations/instances_val2017.json": two, "val2017/a.png": picture}
    # Not of boxes, and of the same images.
    official["annotations/captions_train2017.json"] = "{}"
    roboflow = {"train/_annotations.coco.json": one, "train/a.png": picture}
    roboflow |= {"valid/_annotations.coco.json": two, "valid/a.png": picture}

    for name, files in (("official", official), ("roboflow", roboflow)):
        dataset = coco.read(build.lay_out(tmp_path / name, files))

        assert dataset.problems == ()
        assert dataset.images_by_split == {"train": 1, "val": 1}
        assert dataset.background == 1
        assert [len(found.annotations) for found in dataset.images] == [1, 0]


def test_a_name_that_several_images_have_is_refused_unless_one_is_beside_the_file(build, tmp_path):
    picture = build.image()
    files = {"images/a.png": picture, "train/a.png": picture}

    unclear = coco.read(
        build.lay_out(tmp_path / "1", {**files, "annotations/instances_train.json": document([image()])})
    )
    beside = coco.read(
        build.lay_out(tmp_path / "2", {**files, "train/_annotations.coco.json": document([image()])})
    )

    assert "'a.png' may be any of images/a.png, train/a.png" in unclear.losses[0].what
    assert beside.images[0].path == (tmp_path / "2/train/a.png").resolve()
    assert beside.losses == ()


def test_unicode_names_match_composed_and_decomposed(build, tmp_path):
    composed, decomposed = "b\u00e4r \u718a.png", "ba\u0308r \u718a.png"
    files = {"train.json": document([image(name=composed)], [annotation()]), decomposed: build.image()}

    dataset = coco.read(build.lay_out(tmp_path, files))

    assert dataset.problems == ()
    assert dataset.images[0].path.name == decomposed


def test_images_in_no_file_are_noted_once_per_folder(read, build, tmp_path):
    build.lay_out(tmp_path, {f"more/{n}.png": build.image() for n in range(3)})

    dataset = read(document([image()]))

    assert build.said(dataset) == [
        ("more", "", "3 images are not imported, as they are in no COCO file, such as 0.png", "nothing")
    ]


def test_a_hundred_thousand_boxes_in_one_image_are_read_in_seconds(read):
    rows = [annotation(n, bbox=[n % 30, n % 20, 1 + n % 7, 0 if n == 500 else 2]) for n in range(100_000)]
    content = document([image()], rows)

    start = time.process_time()
    dataset = read(content)

    assert time.process_time() - start < 5
    assert len(dataset.images[0].annotations) == 99_999
    assert dataset.problems[0].where == "annotation 500"


def test_an_entry_of_ours_that_is_broken_is_reported(read):
    dataset = read(document([image(retrain={"group": 5})]))

    assert "has an entry `retrain` that is not ours" in dataset.losses[0].what
