from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrain.errors import BadInput, NotFound
from retrain.training.labelled_images import LabelledImages, read_labels
from retrain.training.ultralytics_parts import get_cfg


def dataset(*folders: Path, **changes: Any) -> LabelledImages:
    settings = {"imgsz": 64, "batch_size": 2, "augment": False, "hyp": get_cfg(), "cache": "ram", **changes}
    names = {"names": {0: "a", 1: "b"}, "channels": 3}
    return LabelledImages(img_path=[str(folder / "images") for folder in folders], data=names, **settings)


def add(root: Path, name: str, label: str | None) -> None:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 64, 3), 7, dtype=np.uint8)).save(root / "images" / f"{name}.png")
    if label is not None:
        (root / "labels" / f"{name}.txt").write_text(label)


def test_folders_are_joined_in_order_and_nothing_is_written(tmp_path: Path) -> None:
    add(tmp_path / "z-new", "2", "0 0.5 0.5 0.2 0.2\n")
    add(tmp_path / "z-new", "1", "1 0.5 0.5 0.2 0.2\n")
    add(tmp_path / "a-old", "3", None)
    before = sorted(tmp_path.rglob("*"))
    joined = dataset(tmp_path / "z-new", tmp_path / "a-old")
    assert [Path(path).stem for path in joined.im_files] == ["1", "2", "3"]
    assert [len(entry["cls"]) for entry in joined.labels] == [1, 1, 0]
    assert joined[0]["img"].shape == (3, 64, 64)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.1\n", "five"),
        ("0 0.5 0.5 0.1 0.1\n1 0.5\n", "five numbers"),
        ("cat 0.5 0.5 0.1 0.1\n", "five numbers"),
        ("0 nan 0.5 0.1 0.1\n", "finite"),
        ("2 0.5 0.5 0.1 0.1\n", "class 2; known are 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1\n", "class 0.5"),
        ("0 1.5 0.5 0.1 0.1\n", "outside the image"),
        ("0 0.5 0.5 -0.1 0.1\n", "outside the image"),
    ],
)
def test_label_that_cannot_be_used_names_its_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "frame.txt"
    path.write_text(text)
    with pytest.raises(BadInput, match=rf"frame\.txt.*{message}"):
        read_labels(path, classes=2)


def test_repeated_rows_count_once_and_order_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "frame.txt"
    path.write_text("1 0.5 0.5 0.1 0.1\n0 0.2 0.2 0.1 0.1\n\n1 0.5 0.5 0.1 0.1\n")
    assert read_labels(path, classes=2)[:, 0].tolist() == [1, 0]


def test_damaged_or_missing_images_are_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="images"):
        dataset(tmp_path)
    add(tmp_path, "1", None)
    (tmp_path / "images" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(BadInput, match=r"1\.png"):
        dataset(tmp_path)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(BadInput, match="no image"):
        dataset(tmp_path)


def test_image_cut_short_is_an_error_naming_it(tmp_path: Path) -> None:
    add(tmp_path, "1", None)
    path = tmp_path / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"1\.png"):
        dataset(tmp_path)


def test_an_empty_label_file_is_an_image_with_nothing_to_find(tmp_path):
    path = tmp_path / "background.txt"
    path.write_text("\n", encoding="utf-8")

    assert read_labels(path, classes=2).shape == (0, 5)


def test_progress_is_told_for_every_label_and_every_cached_image(tmp_path):
    for name in "abc":
        add(tmp_path, name, None)
    told = []

    images = dataset(tmp_path, on_progress=lambda: told.append(1))

    assert len(told) == 2 * len(images) == 6
