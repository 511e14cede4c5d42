"""`retrain dataset` commands that show, check, name and bring away versions; one folder of versions for most tests."""

import io
import json
import shutil

import pytest
import yaml
from PIL import Image
from rich.console import Console

from flows.dataset_place import progress_bar
from retrain.dataset.formats.registry import read_dataset
from retrain.dataset.manager import DatasetManager
from tests.unit.flows.dataset_lines import frames, run, write_coco


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Versions v1.0.0 (with a waived leak) and v1.1.0, whose new images a camera took."""
    folder = tmp_path_factory.mktemp("versions")
    write_coco(folder / "a", frames([0, 2, 4]), split="train")
    write_coco(folder / "a", frames([1]), split="test")
    write_coco(folder / "b", frames(range(6, 9)))
    shown = "--group-by 'file-regex=^(day[0-9]+)' --waive 'as published'"
    lines = (
        f"dataset import v1.0.0 {folder}/a {shown} --path {folder}/x",
        f"dataset import v1.1.0 {folder}/b --description 'one [more] day' --path {folder}/x",
        f"dataset tag production v1.0.0 --path {folder}/x",
    )
    done = [run(line, folder / "home") for line in lines]
    assert [one.code for one in done] == [0, 0, 0], done
    return folder / "x"


@pytest.fixture
def own(made, tmp_path):
    """The same versions, to be changed."""
    shutil.copytree(made, tmp_path / "x", symlinks=True)
    return tmp_path / "x"


@pytest.fixture
def retrain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda line: run(line, tmp_path / "home")


def test_the_log_and_a_lineage_list_versions_newest_first(retrain, made):
    log = retrain(f"dataset log --path {made}")
    as_json = json.loads(retrain(f"dataset log --json --path {made}").out)
    lineage = json.loads(retrain(f"dataset lineage production --json --path {made}").out)

    assert log.lines[0] == "version made (UTC) images parent waived tags description"
    assert log.lines[1].startswith("v1.1.0 ")
    assert "one [more] day" in log.lines[1]
    assert [(row["name"], row["parent"], row["tags"]) for row in as_json] == [
        ("v1.1.0", "v1.0.0", []),
        ("v1.0.0", None, ["production"]),
    ]
    assert [row["name"] for row in lineage] == ["v1.0.0"]


def test_a_version_is_shown_with_its_waived_leaks_by_file_name(retrain, made):
    shown = retrain(f"dataset show production --path {made}")
    as_json = json.loads(retrain(f"dataset show v1.0.0 --json --path {made}").out)

    assert "images in train 3" in shown.lines
    assert "objects 4 objects (car 3, truck 1)" in shown.lines
    (waived,) = [line for line in shown.lines if line.startswith("leak waived")]
    assert all(part in waived for part in ("day0-0.png (train)", "day0-1.png (test)", "as published"))
    assert as_json["objects_by_class"] == {"car": 3, "truck": 1}
    assert as_json["waived"] == [waived.removeprefix("leak waived ")]


def test_statistics_and_changes_are_tables_json_and_pages(retrain, made, tmp_path):
    table = retrain(f"dataset stats v1.1.0 --html stats.html --path {made}")
    numbers = retrain(f"dataset stats v1.1.0 --json --path {made}")
    change = retrain(f"dataset diff v1.0.0 v1.1.0 --html diff.html --path {made}")
    as_json = retrain(f"dataset diff v1.0.0 v1.1.0 --json --html diff2.html --path {made}")

    assert "images 7" in table.lines
    assert table.lines[-1] == "written: stats.html"
    assert json.loads(numbers.out)["images"] == 7
    assert change.lines[0] == "v1.0.0 → v1.1.0: 3 added, 0 removed, 0 relabelled"
    assert len(json.loads(as_json.out)["added"]) == 3
    assert (tmp_path / "stats.html").read_text().count('href="data:image/') == 7
    assert (tmp_path / "diff.html").read_text().count('href="data:image/') == 3
    assert (tmp_path / "diff2.html").read_text() == (tmp_path / "diff.html").read_text()


def test_a_check_tells_issues_by_file_name_and_fails_only_on_errors(retrain, own):
    manager = DatasetManager(own)
    version = manager.get_version("v1.1.0")
    fine = retrain(f"dataset check v1.1.0 --path {own}")
    pack = next(item.pack for item in version.items if item.metadata["file"] == "day3-7.png")
    manager.pack_file(version, pack).unlink()

    broken = retrain(f"dataset check v1.1.0 --path {own}")
    as_json = retrain(f"dataset check v1.1.0 --json --path {own}")

    assert fine.code == 0
    assert fine.lines[0].startswith("v1.1.0: 7 images, 7 objects: no errors, ")
    assert fine.lines[-1].startswith("leak waived: day0-")
    assert broken.code == 1
    assert "error missing-image 3" in broken.lines
    assert any(line.startswith("day3-7.png: Its pack") for line in broken.lines)
    assert broken.err == "error: v1.1.0 has 3 errors.\n"
    assert json.loads(as_json.out)["counts"]["missing-image"] == 3


def test_verifying_names_each_damaged_and_missing_object(retrain, own):
    manager = DatasetManager(own)
    whole = retrain(f"dataset verify --path {own}")
    old, new = manager.get_version("v1.0.0"), manager.get_version("v1.1.0")
    damaged = manager.pack_file(old, old.items[0].pack)
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    (missing,) = {item.pack for item in new.items} - {item.pack for item in old.items}
    manager.pack_file(new, missing).unlink()

    every = retrain(f"dataset verify --path {own}")
    one = retrain(f"dataset verify production --path {own}")

    assert (whole.code, [line.split(":")[0] for line in whole.lines]) == (
        0,
        ["v1.0.0 is whole", "v1.1.0 is whole"],
    )
    assert (every.code, one.code) == (1, 1)
    assert any(damaged_line.startswith(f"Pack {old.items[0].pack}") for damaged_line in every.lines)
    assert any(missing in line and "not on this machine" in line for line in every.lines)
    assert "v1.0.0, v1.1.0" in every.err
    assert "production is damaged" in one.lines
    assert missing not in one.out


def test_an_export_reads_back_and_holds_only_the_splits_asked_for(retrain, made, tmp_path):
    done = retrain(f"dataset export v1.0.0 out/voc --format voc --split train --path {made}")
    again = retrain(f"dataset export v1.0.0 out/voc --format voc --path {made}")
    other = retrain(f"dataset export v1.0.0 out/coco --format coco --path {made}")

    assert done.lines == ["out/voc: 3 images of v1.0.0 as voc"]
    assert (again.code, other.code) == (1, 0)
    assert read_dataset(tmp_path / "out" / "voc").images_by_split == {"train": 3}
    assert read_dataset(tmp_path / "out" / "coco").images_by_split == {"train": 3, "test": 1}


def test_pixels_of_the_voc_devkit_are_written_and_read_where_asked_for(retrain, made, tmp_path):
    retrain(f"dataset export v1.0.0 plain --format voc --path {made}")
    retrain(f"dataset export v1.0.0 devkit --format voc --one-based --path {made}")
    done = retrain("dataset import again devkit --one-based --waive 'as published' --path y")

    first, again = (
        DatasetManager(made).get_version("v1.0.0"),
        DatasetManager(tmp_path / "y").get_version("again"),
    )
    texts = [next((tmp_path / name).rglob("*.xml")).read_text() for name in ("plain", "devkit")]
    assert done.code == 0, done.err
    assert ["<xmin>2</xmin>" in text for text in texts] == [True, False]
    assert [item.labels for item in again.items] == [item.labels for item in first.items]


def test_a_laid_out_version_is_one_printed_folder_with_data_yaml(retrain, made):
    whole = retrain(f"dataset materialise v1.0.0 laid --path {made}")
    part = retrain(f"dataset materialise v1.0.0 laid --split train --path {made}")

    (folder,), (other,) = whole.lines, part.lines
    with open(f"{folder}/data.yaml", encoding="utf-8") as file:
        assert yaml.safe_load(file)["names"] == {0: "car", 1: "truck"}
    assert folder != other


def test_a_checkout_shows_the_version_it_names(retrain, own):
    done = retrain(f"dataset checkout production --path {own}")

    assert done.lines == [f"{own} shows v1.0.0"]
    assert json.loads((own / "dataset.json").read_bytes())["header"]["name"] == "v1.0.0"


def test_tags_are_given_moved_and_taken_away(retrain, own):
    refused = retrain(f"dataset tag production v1.1.0 --path {own}")
    moved = retrain(f"dataset tag production v1.1.0 --move --path {own}")
    gone = retrain(f"dataset untag production --path {own}")
    version = retrain(f"dataset untag v1.1.0 --path {own}")

    assert "exists already" in refused.err
    assert moved.lines == ["production is v1.1.0"]
    assert (gone.code, version.code) == (0, 1)
    assert all(not info.tags for info in DatasetManager(own).log())


def test_garbage_is_deleted_and_named(retrain, own):
    retrain(f"dataset create v2.0.0 --path {own}")

    young = retrain(f"dataset gc --path {own}")
    old = retrain(f"dataset gc --drafts-older-than 0 --path {own}")

    assert young.lines == ["deleted: nothing"]
    assert old.lines == ["deleted: draft v2.0.0"]
    assert retrain(f"dataset commit v2.0.0 --path {own}").code == 1
    assert retrain(f"dataset verify --path {own}").code == 0


def test_versions_go_to_a_remote_and_come_to_a_clone(retrain, own, tmp_path):
    remote = retrain(f"dataset remote add {tmp_path}/store --path {own}")
    sent = retrain(f"dataset push --path {own}")
    cloned = retrain(f"dataset clone {own} --path copy")
    early = retrain("dataset stats production --path copy")
    pulled = retrain("dataset pull production --path copy")
    rest = retrain("dataset pull --path copy")

    assert [done.code for done in (remote, sent, cloned, pulled, rest)] == [0] * 5, (
        remote,
        sent,
        cloned,
        pulled,
        rest,
    )
    assert sent.lines == ["sent the data of 2 versions"]
    assert early.code == 1
    assert "not on this machine" in early.err
    assert pulled.lines == ["the data of production is here"]
    assert rest.lines == ["the data of v1.0.0, v1.1.0 is here"]
    assert (
        DatasetManager(tmp_path / "copy").verify("v1.1.0").digest
        == DatasetManager(own).get_version("v1.1.0").digest
    )


def test_an_augmentation_is_previewed_from_a_file_or_the_configuration(retrain, made, tmp_path):
    (tmp_path / "steps.yaml").write_text("[{step: flip, probability: 1.0}]", encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text("[{step: flop}]", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        "dataset: {augmentation_pipeline: [{step: blur}]}", encoding="utf-8"
    )
    line = f"dataset augment-preview v1.1.0 --output out.png --images 2 --variants 3 --path {made}"

    done = retrain(f"{line} --pipeline steps.yaml")
    width = Image.open(tmp_path / "out.png").width
    configured = retrain(f"{line} --config config.yaml --variants 1")
    missing, wrong = retrain(line), retrain(f"{line} --pipeline wrong.yaml")

    assert (done.code, configured.code) == (0, 0), configured.err
    assert done.lines == ["written: out.png"]
    assert Image.open(tmp_path / "out.png").width < width
    assert "dataset.augmentation_pipeline has no step" in missing.err
    assert "Did you mean 'flip'?" in wrong.err


def test_the_configured_folder_is_the_default(retrain, made, tmp_path):
    (tmp_path / "config.yaml").write_text(f"dataset: {{versions_path: {made}}}", encoding="utf-8")

    assert retrain("dataset lineage v1.0.0 --config config.yaml").code == 0
    assert "There are no datasets in" in retrain("dataset log").err


def test_progress_is_shown_on_a_terminal_and_nowhere_else():
    terminal, pipe = (Console(file=io.StringIO(), force_terminal=shown, width=100) for shown in (True, False))

    for console in (terminal, pipe):
        with progress_bar(console) as progress:
            if progress is not None:
                progress("reading labels", 0, 0)
                progress("reading images", 256, 1364)

    assert "256/1,364" in terminal.file.getvalue()
    assert pipe.file.getvalue() == ""
