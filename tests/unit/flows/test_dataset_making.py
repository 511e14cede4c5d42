"""`retrain dataset` commands that make versions, as a person runs them."""

import json
import shutil
from pathlib import Path

import pytest

from retrain.dataset.manager import DatasetManager
from retrain.storage.digests import content_digest
from tests.unit.flows.dataset_lines import frames, png, run, write_coco

BCCD = Path(__file__).parents[4] / "shared" / "data" / "bccd"
BY_DAY = '--group-by "file-regex=^(day[0-9]+)"'


@pytest.fixture
def retrain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda line: run(line, tmp_path / "home")


@pytest.fixture
def manager(tmp_path):
    return DatasetManager(tmp_path / "x")


def test_the_seeds_one_line_makes_a_version_of_the_newest_one(retrain, manager, tmp_path):
    write_coco(tmp_path / "first", frames(range(8)))
    write_coco(tmp_path / "annotations", frames(range(8, 14)))

    first = retrain("dataset --create-version v1.0.0 --add-data ./first --splits 0.5,0.25,0.25 --path x")
    second = retrain("dataset --create-version v1.1.0 --add-data ./annotations --splits 0.7,0.2,0.1 --path x")

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.lines[-1].startswith("v1.0.0: 8 images (train 4, val 2, test 2), 8 objects (car 4, truck 4)")
    assert "v1.0.0 → v1.1.0: 6 added, 0 removed, 0 relabelled" in second.lines
    made = manager.get_version("v1.1.0")
    assert (made.parent, len(made.items), made.description) == ("v1.0.0", 14, "from annotations")
    assert made.splits == {"train": 0.7, "val": 0.2, "test": 0.1}


def test_a_draft_is_made_step_by_step_and_seen_by_nobody_before(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(4)))
    write_coco(tmp_path / "b", frames(range(4, 8)), classes=["truck", "car", "bus"])

    begun = retrain(
        "dataset create v1.0.0 --classes car,truck --splits 1,0,0 --description 'two days' --path x"
    )
    retrain(f"dataset add v1.0.0 a {BY_DAY} --path x")
    added = retrain(f"dataset add v1.0.0 b {BY_DAY} --source-label auto --path x")
    before = manager.versions()
    done = retrain("dataset commit v1.0.0 --path x")

    assert "draft v1.0.0, empty: classes car, truck; train 1, val 0, test 0" in begun.lines
    assert "b: 4 images added" in added.lines
    assert any("bus" in line and "box left out" in line for line in added.lines)
    assert before == []
    assert done.code == 0
    version = manager.get_version("v1.0.0")
    assert version.description == "two days"
    assert version.objects_by_class() == {"car": 3, "truck": 4}
    assert {item.group for item in version.items} == {"day0", "day1", "day2", "day3"}
    assert {item.metadata["file"]: item.source for item in version.items}["day3-7.png"] == "auto"


def test_the_same_import_again_changes_nothing(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(4)))
    write_coco(tmp_path / "b", frames(range(4, 6)))
    retrain("dataset import v1.0.0 a --path x")
    retrain("dataset import v1.1.0 b --path x")

    again = [
        retrain(f"dataset import {name} {folder} --path x")
        for name, folder in (("v1.0.0", "a"), ("v1.1.0", "b"))
    ]
    other = retrain("dataset import v1.1.0 a --path x")

    assert [done.code for done in again] == [0, 0], again
    assert manager.versions() == ["v1.0.0", "v1.1.0"]
    assert other.code == 1
    assert "exists with other content" in other.err


def test_a_parent_may_be_named_or_be_none_and_new_classes_come_last(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(4)))
    write_coco(tmp_path / "b", frames(range(4, 8)), classes=["bus", "car"])
    retrain("dataset import v1.0.0 a --path x")
    retrain("dataset import side b --parent none --gold --path x")

    done = retrain("dataset import v1.1.0 b --parent v1.0.0 --path x")

    assert done.code == 0, done.err
    assert manager.get_version("side").parent is None
    version = manager.get_version("v1.1.0")
    assert (version.parent, version.classes) == ("v1.0.0", ("car", "truck", "bus"))
    assert version.objects_by_class() == {"car": 4, "truck": 2, "bus": 2}


def test_an_archive_is_imported_as_its_folder_would_be(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(4)))
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "a")

    done = retrain("dataset import v1.0.0 packed.zip --path x")

    assert done.code == 0, done.err
    version = manager.get_version("v1.0.0")
    assert set(version.by_image) == {content_digest(png(number)) for number in range(4)}
    assert version.objects_by_class() == {"car": 2, "truck": 2}


def test_unusable_images_stop_an_import_unless_they_are_skipped(retrain, manager, tmp_path):
    broken = {f"broken-{number:02}.png": b"not an image" for number in range(25)}
    write_coco(tmp_path / "a", {**frames(range(4)), **broken})

    stopped = retrain("dataset import v1.0.0 a --path x --report problems.txt")
    skipped = retrain("dataset import v1.0.0 a --path x --on-error skip")

    assert stopped.code == 1
    assert stopped.err.startswith("error: 25 images of a cannot be used, so none was added.")
    assert "--on-error skip" in stopped.err
    assert sum("broken-" in line for line in stopped.lines) == 20
    assert stopped.lines[-1] == "and 5 more; see problems.txt"
    assert len((tmp_path / "problems.txt").read_text().splitlines()) == 25
    assert "and 5 more; --report FILE writes all" in skipped.lines
    assert "a: 4 images added, 25 images left out" in skipped.lines
    assert len(manager.get_version("v1.0.0").items) == 4


def test_a_damaged_image_that_only_decoding_finds_is_told_too(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", {**frames(range(4)), "cut.png": png(9)[:-40]})
    write_coco(tmp_path / "a", {"flat.png": png(8)}, split="test", box=(2, 2, 0, 8))

    stopped = retrain("dataset import v1.0.0 a --path x")
    skipped = retrain("dataset import v1.0.0 a --path x --on-error skip --report problems.txt")

    assert (stopped.code, skipped.code) == (1, 0)
    assert "cut.png" in stopped.err
    assert any("has zero area" in line for line in stopped.lines), "problems of the labels are told, too"
    assert "cut.png: cannot be decoded" in (tmp_path / "problems.txt").read_text()
    assert "a: 5 images added, 1 image left out" in skipped.lines


def test_other_labels_of_a_known_image_need_to_be_wanted(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(8)))
    retrain("dataset import v1.0.0 a --splits 1,0,0 --path x")
    write_coco(tmp_path / "a", frames(range(8)), box=(3, 3, 10, 8))

    refused = retrain("dataset import v1.1.0 a --path x")
    done = retrain("dataset import v1.1.0 a --relabel --path x")

    assert refused.code == 1
    assert "other labels" in refused.err
    assert refused.err.endswith(" Here: --relabel or --on-error skip.\n")
    assert "a: 8 images relabelled" in done.lines


def test_official_splits_hold_unless_they_are_ignored(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(4)), split="test")

    retrain("dataset import kept a --path x")
    retrain("dataset import ignored a --parent none --ignore-splits --splits 1,0,0 --path x")

    assert manager.get_version("kept").images_by_split()["test"] == 4
    assert manager.get_version("ignored").images_by_split()["train"] == 4


def test_a_leak_is_refused_by_name_and_committed_with_a_waiver(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames([0, 2]), split="train")
    write_coco(tmp_path / "a", frames([1]), split="test")

    refused = retrain(f"dataset import v1.0.0 a {BY_DAY} --path x")
    done = retrain("dataset commit v1.0.0 --waive 'as published' --path x")

    assert refused.code == 1
    assert all(name in refused.err for name in ("day0-0.png (train)", "day0-1.png (test)"))
    assert f"`retrain dataset commit v1.0.0 --waive REASON --path {manager.repository.folder}`" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert done.code == 0
    assert any(line.startswith("leak waived: ") and line.endswith("as published") for line in done.lines)
    assert [waiver.reason for waiver in manager.get_version("v1.0.0").waivers] == ["as published"]


def test_versions_are_made_of_versions(retrain, manager, tmp_path):
    write_coco(tmp_path / "a", frames(range(4)))
    write_coco(tmp_path / "b", frames(range(4, 8)), classes=["lorry", "bird"])
    retrain("dataset import a a --path x")
    retrain("dataset import b b --parent none --path x")

    merged = retrain("dataset merge both a b --class-map lorry=truck --class-map bird= --path x")
    part = retrain("dataset subset part both --where class=car --where split=train --path x")
    back = retrain("dataset revert back --to a --path x")

    assert [done.code for done in (merged, part, back)] == [0, 0, 0], (merged, part, back)
    assert manager.get_version("both").objects_by_class() == {"car": 2, "truck": 4}
    assert {item.split for item in manager.get_version("part").items} == {"train"}
    assert manager.get_version("back").by_image.keys() == manager.get_version("a").by_image.keys()
    assert manager.get_version("back").parent == "both"
    assert "both → back:" in back.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dataset import v1.0.0 a --splits 0.7,0.2 --path x", "--splits must be three numbers"),
        ("dataset import v1.0.0 a --splits 0.7,0.2,0.2 --path x", "train + val + test must be 1"),
        ("dataset import v1.0.0 nowhere --path x", "nowhere"),
        ("dataset import v1.0.0 images --path x", "--classes car,truck"),
        (
            "dataset import v1.0.0 a --group-by camera --path x",
            "--group-by camera says nothing of 4 images: day0-0.png",
        ),
        ("dataset import v1.0.0 a --parent v9 --path x", "'v9'"),
        ("dataset --create-version v1.0.0 --path x", "--add-data"),
        ("dataset --path x log", "Give --path after `log`"),
        ("dataset add v1.0.0 a --path x", "There are no datasets in"),
        ("dataset log --path x", "There are no datasets in"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_makes_no_version(retrain, manager, tmp_path, line, said):
    write_coco(tmp_path / "a", frames(range(4)))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(png(0))

    done = retrain(line)

    assert done.code == 1
    assert done.err.startswith("error: ")
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert manager.versions() == []


def test_bccd_is_refused_for_its_leaking_split_and_imported_with_a_waiver(retrain, manager):
    if not BCCD.is_dir():
        pytest.skip("needs ../shared/data/bccd")

    refused = retrain(f"dataset import v1.0.0 {BCCD} --path x")
    done = retrain(f"dataset import v1.0.0 {BCCD} --path x --waive 'official split'")
    log = retrain("dataset log --path x --json")
    statistics = retrain("dataset stats v1.0.0 --path x")
    retrain("dataset subset small v1.0.0 --where split=val --path x")
    change = retrain("dataset diff small v1.0.0 --path x")

    pairs = [("00037", "00038"), ("00386", "00391")]
    assert refused.code == 1
    assert "2 pairs of images leak between splits" in refused.err
    assert all(f"BloodImage_{number}.jpg" in refused.err for pair in pairs for number in pair)
    assert done.code == 0
    assert sum("has zero area" in line for line in done.lines) == 2
    assert (
        sum(line.startswith("leak waived: ") and line.endswith(": official split") for line in done.lines)
        == 2
    )
    version = manager.get_version("v1.0.0")
    assert sum(version.objects_by_class().values()) == 4888 - 2
    assert version.images_by_split() == {"train": 205, "val": 87, "test": 72}
    assert [(row["images"], row["waivers"]) for row in json.loads(log.out)] == [(364, 2)]
    assert "leaks waived 2" in statistics.lines
    assert "leaks waived anew: 2" in change.lines
