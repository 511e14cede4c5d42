import pytest

from retrain.dataset.formats.registry import detect, read_dataset, write_dataset
from retrain.errors import BadInput


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coco", {"annotations/instances_train.json": "{}"}),
        ("coco", {"train/_annotations.coco.json": "{}"}),
        ("coco", {"labels.json": "{}"}),
        ("yolo", {"data.yaml": "", "notes.json": "{}"}),
        ("yolo", {"coco8.yaml": ""}),
        ("yolo", {"classes.txt": "", "notes.json": "{}"}),
        ("voc", {"Annotations/a.xml": ""}),
        ("voc", {"train/a.xml": "", "dvc.yaml": ""}),
        ("folders", {"a.png": b""}),
    ],
)
def test_the_format_is_found_by_the_files_there_are(build, tmp_path, name, files):
    assert detect(build.lay_out(tmp_path, files)) == name


def test_an_unclear_format_must_be_said(build, tmp_path):
    build.lay_out(
        tmp_path, {"data.yaml": "names: [cat]", "Annotations/a.xml": "", "images/a.png": build.image()}
    )

    with pytest.raises(BadInput, match="may be yolo or voc; say which format it is"):
        read_dataset(tmp_path)

    assert len(read_dataset(tmp_path, "yolo").images) == 1


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("train/images/a.png", "train/labels/a.txt"),
        ("images/train/a.png", "labels/train/a.txt"),
        ("a.png", "a.txt"),
    ],
)
def test_labels_without_names_are_not_taken_for_none(build, tmp_path, image, labels):
    build.lay_out(tmp_path, {image: build.image(), labels: "\n1 0.5 0.5 1e-1 0.1\n"})

    for kind in (None, "yolo"):
        with pytest.raises(
            BadInput, match=f"has labels, such as {labels}, but no file with the names of their"
        ):
            read_dataset(tmp_path, kind)

    assert len(read_dataset(tmp_path, "folders").images) == 1


@pytest.mark.parametrize("text", ["", "a cat, sleeping", "2 cats", b"\xff"])
def test_other_text_beside_images_is_no_label(build, tmp_path, text):
    build.lay_out(tmp_path, {"a.png": build.image(), "a.txt": text})

    assert detect(tmp_path) == "folders"


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(
        BadInput, match=r"Looked for coco: instances_<split>.json.*yolo: data.yaml.*voc: .xml.*any image"
    ):
        read_dataset(tmp_path)


def test_a_folder_around_the_dataset_is_entered_unless_it_is_a_split(build, tmp_path):
    wrapped = build.lay_out(
        tmp_path / "1", {"bccd-master/v3/data.yaml": "names: [a]", "bccd-master/v3/a.png": build.image()}
    )
    split = build.lay_out(tmp_path / "2", {"train/a.png": build.image()})

    assert read_dataset(wrapped).classes == ("a",)
    assert read_dataset(split).images_by_split == {"train": 1}


def test_unknown_names_and_misplaced_options_are_refused(build, tmp_path):
    build.lay_out(tmp_path, {"a.png": build.image()})
    version, store = build.version([build.item(build.image())]), build.store([])

    with pytest.raises(BadInput, match=r"no format 'pascal'\. There are: coco, yolo, voc, folders"):
        read_dataset(tmp_path, "pascal")
    with pytest.raises(BadInput, match=r"one_based is about the corners in VOC, but .* is folders"):
        read_dataset(tmp_path, one_based=True)
    with pytest.raises(BadInput, match="can only be imported; export to coco, yolo or voc"):
        write_dataset(version, store, tmp_path / "out", "folders")
    with pytest.raises(BadInput, match="one_based is about the corners in VOC, not in coco"):
        write_dataset(version, store, tmp_path / "out", "coco", one_based=True)
