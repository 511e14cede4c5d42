from collections.abc import Callable
from pathlib import Path

import pytest

from retrain.training.label_checks import check_labels, check_separation


@pytest.fixture
def splits(tmp_path: Path, encode: Callable[..., bytes]) -> tuple[Path, Path]:
    for split, numbers in (("train", (0, 1, 2)), ("val", (3, 4))):
        for part in ("images", "labels"):
            (tmp_path / split / part).mkdir(parents=True)
        for number in numbers:
            (tmp_path / split / "images" / f"{number}.png").write_bytes(encode(number))
            (tmp_path / split / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.2 0.2\n")
    return tmp_path / "train", tmp_path / "val"


def test_good_labels_pass_without_a_warning(splits: tuple[Path, Path]) -> None:
    train, val = splits
    check = check_labels([train], val, ["a", "b"])
    assert check.ok
    assert check.warning == ""
    assert (check.figures["training images"], check.figures["validation boxes"]) == (3, 2)
    assert check_separation([train], val).ok


def test_oddities_are_counted_for_each_split_and_warned_of(splits: tuple[Path, Path]) -> None:
    train, val = splits
    row = "0 0.5 0.5 0.2 0.2\n"
    (train / "labels" / "0.txt").write_text(row + row + "0 0.05 0.5 0.2 0.2\n" + "0 0.5 0.5 0.0 0.2\n")
    (train / "labels" / "1.txt").write_text("")
    check = check_labels([train], val, ["a", "b", "c"])
    assert check.ok
    figures = {name: check.figures[f"training {name}"] for name in (
        "repeated boxes", "boxes across the edge", "boxes without area", "share without labels")}  # fmt: skip
    assert figures == {
        "repeated boxes": 1,
        "boxes across the edge": 1,
        "boxes without area": 1,
        "share without labels": 0.3333,
    }
    assert check.figures["validation repeated boxes"] == 0
    assert "no training image shows b, c" in check.warning
    assert "no validation image shows c" in check.warning


def test_all_that_cannot_be_used_is_counted(splits: tuple[Path, Path]) -> None:
    train, val = splits
    (train / "labels" / "0.txt").write_text("7 0.5 0.5 0.2 0.2\n")
    (train / "labels" / "1.txt").write_text("0 1.5 0.5 0.2 0.2\n")
    check = check_labels([train], val, ["a", "b"])
    assert not check.ok
    assert "2 training images cannot be used" in check.said
    assert "class 7" in check.said


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_split_without_anything_fails(part: str, splits: tuple[Path, Path]) -> None:
    train, val = splits
    for path in (val / part).iterdir():
        path.unlink()
    check = check_labels([train], val, ["a", "b"])
    assert not check.ok
    assert f"none of the {0 if part == 'images' else 2} validation images has a label" in check.said


def test_an_image_under_another_name_in_both_splits_is_leakage(splits: tuple[Path, Path]) -> None:
    train, val = splits
    (val / "images" / "other.png").write_bytes((train / "images" / "1.png").read_bytes())
    check = check_separation([train], val)
    assert not check.ok
    assert "other.png" in check.said
    assert check.figures == {"shared images": 1}
