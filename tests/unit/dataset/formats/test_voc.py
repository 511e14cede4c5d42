import time

import pytest

from retrain.dataset.formats import voc
from retrain.dataset.version import LabelledObject
from retrain.errors import BadInput


@pytest.fixture
def read(build, tmp_path):
    """Read one XML file of an image of 40 x 30 pixels."""

    def read_one(xml, **options):
        files = {"Annotations/a.xml": xml, "JPEGImages/a.png": build.image()}
        return voc.read(build.lay_out(tmp_path, files), **options)

    return read_one


def test_corners_are_edges_counted_from_0_unless_said_otherwise(read, build):
    xml = build.voc_xml("a.png", ("dog", 1, 2, 11, 7), ("cat", 0.25, 2, 40, 30))

    dataset = read(xml)

    assert dataset.classes == ("cat", "dog")
    assert dataset.images[0].annotations.classes.tolist() == [1, 0]
    assert dataset.images[0].annotations.boxes.tolist() == [[1.0, 2.0, 11.0, 7.0], [0.25, 2.0, 40.0, 30.0]]
    assert dataset.problems == ()


def test_corners_of_the_devkit_are_pixels_counted_from_1_and_included(read, build):
    xml = build.voc_xml("a.png", ("cat", 1, 1, 40, 30), ("cat", 5, 5, 5, 5))

    dataset = read(xml, one_based=True)

    assert dataset.images[0].annotations.boxes.tolist() == [[0.0, 0.0, 40.0, 30.0], [4.0, 4.0, 5.0, 5.0]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("dog", 4, 4, 4, 9), "has zero area: 4, 4, 4, 9"),
        (("dog", 9, 4, 4, 9), "has its corners swapped"),
        (("dog", 50, 4, 60, 9), "lies outside the image of 40 x 30 pixels"),
        (("dog", "nan", 4, 60, 9), "has an xmin that is none: 'nan' is not a number"),
        (("dog", 4, 4, "inf", 9), "has an xmax that is none: 'inf' is not a number"),
        (("dog", 4, 4, "1e999", 9), "has a corner that is not a finite number"),
        (("dog", 4, "", 9, 9), "has no ymin"),
        (("", 4, 4, 9, 9), "has no name"),
    ],
)
def test_a_bad_object_costs_one_box_and_is_reported_with_its_number(read, build, bad, message):
    dataset = read(build.voc_xml("a.png", ("dog", 2, 2, 9, 9), bad), classes=["dog"])

    assert len(dataset.images[0].annotations) == 1
    (problem,) = dataset.problems
    assert (problem.file, problem.lost) == ("Annotations/a.xml", "box")
    assert problem.where.startswith("object 2")
    assert message in problem.what


def test_an_object_without_a_box_is_reported(read):
    dataset = read("<annotation><object><name>dog</name><polygon/></object></annotation>", classes=["dog"])

    assert [(p.where, p.what) for p in dataset.problems] == [("object 1 (dog)", "has no bndbox")]


def test_boxes_of_the_parts_of_an_object_are_not_objects(read, build):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"

    dataset = read(build.voc_xml("a.png", ("dog", 2, 2, 9, 9)).replace("</object>", f"{part}</object>"))

    assert dataset.classes == ("dog",)
    assert dataset.images[0].annotations.boxes.tolist() == [[2.0, 2.0, 9.0, 9.0]]


def test_classes_that_were_not_asked_for_are_reported(read, build):
    dataset = read(build.voc_xml("a.png", ("dog", 2, 2, 9, 9), ("cat", 2, 2, 9, 9)), classes=["cat"])

    assert dataset.images[0].annotations.classes.tolist() == [0]
    assert build.said(dataset) == [
        ("Annotations/a.xml", "object 1 (dog)", "class 'dog' is not one of 'cat'", "box")
    ]


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (
            f'<!DOCTYPE a [<!ENTITY l0 "lol">{LAUGHS}]><annotation>&l11;</annotation>',
            "declares the XML entity 'l0'",
        ),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
            "XML entity 'x'",
        ),
        ('<!DOCTYPE a [<!ENTITY % x SYSTEM "http://localhost/x"> %x;]><annotation/>', "XML entity 'x'"),
        ("<annotation>&nothing;</annotation>", "is not valid XML: undefined entity"),
        ("<annotation><object>", "is not valid XML"),
        ("", "is empty (0 bytes)"),
        ("nonsense", "is not valid XML"),
        (b"<annotation>\xff</annotation>", "is not valid XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is not valid XML"),
        ("<html/>", "is not VOC: its root is <'html'>"),
        ("<annotation><size><width>x</width></size></annotation>", "states a width that is none"),
        (
            "<annotation><filename>../../etc/passwd</filename></annotation>",
            "leads outside the imported folder",
        ),
    ],
)
def test_a_file_that_cannot_be_used_costs_its_image(read, xml, message):
    dataset = read(xml, classes=["dog"])

    assert dataset.images == ()
    (problem,) = dataset.problems
    assert (problem.file, problem.lost) == ("Annotations/a.xml", "image")
    assert message in problem.what


def test_nesting_without_end_is_no_recursion(read):
    assert (
        len(read("<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>", classes=["x"]).images)
        == 1
    )


def test_a_size_that_is_not_the_images_costs_it_and_a_size_of_0_is_none(read, build):
    wrong = read(build.voc_xml("a.png", ("dog", 2, 2, 9, 9), width=41))
    unknown = read(build.voc_xml("a.png", ("dog", 2, 2, 9, 9), width=0, height=0))

    assert build.said(wrong) == [
        ("JPEGImages/a.png", "", "is 40 x 30 pixels, but its labels are for 41 x 30", "image")
    ]
    assert unknown.boxes == 1


def test_lists_say_the_split_and_trainval_only_what_the_others_do_not(build, tmp_path):
    names = ["a", "b", "c", "d", "e"]
    files = {f"JPEGImages/{name}.png": build.image() for name in names}
    files |= {f"Annotations/{name}.xml": build.voc_xml(f"{name}.png", ("dog", 2, 2, 9, 9)) for name in "abcd"}
    files |= {
        "ImageSets/Main/train.txt": "a\n",
        "ImageSets/Main/val.txt": "b\n\n",
        "ImageSets/Main/trainval.txt": "a\nb\nc\ngone\n",
        "ImageSets/Main/test.txt": "d\nb\n",
        "ImageSets/Main/dog_train.txt": "a 1\n",
    }

    dataset = voc.read(build.lay_out(tmp_path, files))

    found = {image.path.stem: image.split for image in dataset.images}
    assert found == {"a": "train", "b": "val", "c": "train", "d": "test", "e": None}
    assert dataset.background == 1
    assert build.said(dataset) == [
        ("ImageSets/Main/test.txt", "line 2", "'b' is in val already, where it stays", "nothing"),
        ("ImageSets/Main/trainval.txt", "line 4", "there is no image 'gone'", "image"),
    ]


def test_a_list_that_is_no_text_is_reported(read, build, tmp_path):
    build.lay_out(tmp_path, {"ImageSets/Main/val.txt": b"\xff"})

    dataset = read(build.voc_xml("a.png", ("dog", 2, 2, 9, 9)))

    assert dataset.images[0].split is None
    assert [(p.file, p.lost) for p in dataset.problems] == [("ImageSets/Main/val.txt", "nothing")]


def test_xml_beside_the_images_takes_the_split_from_the_folder(build, tmp_path):
    files = {}
    for folder in ("train", "valid"):
        files |= {
            f"{folder}/a.png": build.image(),
            f"{folder}/a.xml": build.voc_xml("a.png", ("dog", 2, 2, 9, 9)),
        }

    dataset = voc.read(build.lay_out(tmp_path, files))

    assert dataset.images_by_split == {"train": 1, "val": 1}
    assert dataset.problems == ()


def test_an_image_is_found_by_its_stem_or_its_stated_name_but_not_by_two(build, tmp_path):
    box = ("dog", 2, 2, 9, 9)
    files = {f"JPEGImages/{name}.png": build.image() for name in ("stem", "named", "one", "two")}
    files |= {
        "Annotations/stem.xml": build.voc_xml("gone.jpg", box),
        "Annotations/7.xml": build.voc_xml("named.png", box),
        "Annotations/one.xml": build.voc_xml("two.png", box),
        "Annotations/gone.xml": build.voc_xml("", box),
    }

    dataset = voc.read(build.lay_out(tmp_path, files))

    assert {image.path.stem for image in dataset.images} == {"stem", "named"}
    assert build.said(dataset) == [
        ("Annotations/gone.xml", "", "has no image 'gone'", "image"),
        ("Annotations/one.xml", "", "may mean any of JPEGImages/one.png, JPEGImages/two.png", "image"),
    ]


def test_a_second_file_for_one_image_is_reported(build, tmp_path):
    box = ("dog", 2, 2, 9, 9)
    files = {"JPEGImages/a.png": build.image(), "Annotations/a.xml": build.voc_xml("a.png", box)}

    dataset = voc.read(build.lay_out(tmp_path, {**files, "Annotations/b.xml": build.voc_xml("a.png", box)}))

    assert build.said(dataset) == [
        ("Annotations/b.xml", "", "JPEGImages/a.png has its labels in Annotations/a.xml already", "image")
    ]


def test_a_class_name_that_xml_would_change_is_refused_before_anything_is_there(build, tmp_path):
    image = build.image()
    item = build.item(image, LabelledObject("o", 0, (1.0, 1.0, 2.0, 2.0)))

    with pytest.raises(BadInput, match=r"Class ' cat' cannot be written as VOC"):
        voc.write(build.version([item], [" cat"]), build.store([image]), tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_whole_corners_are_written_as_whole_numbers(build, tmp_path):
    image = build.image()
    item = build.item(image, LabelledObject("o", 0, (1.0, 2.5, 10.0, 20.0)))
    voc.write(build.version([item]), build.store([image]), tmp_path / "out")

    text = (tmp_path / f"out/Annotations/{item.image}.xml").read_text()

    assert "<xmin>1</xmin>" in text
    assert "<ymin>2.5</ymin>" in text


def test_a_hundred_thousand_boxes_in_one_image_are_read_in_seconds(read, build):
    xml = build.voc_xml("a.png", *(("dog", 1 + n % 20, 1, 22 + n % 7, 9) for n in range(100_000)))

    start = time.process_time()
    dataset = read(xml, one_based=True)

    assert time.process_time() - start < 8
    assert dataset.boxes == 100_000
