"""Which versions and released models saw an image, and what forgetting one says."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from retrain.config import RetrainConfig
from retrain.dataset.manager import DatasetManager
from retrain.serving.release import Lineage
from retrain.storage.digests import content_digest
from tasks.resources import Resources
from tests.unit.flows.dataset_lines import frames, png, run, write_coco

IMAGES = {name: content_digest(data) for name, data in frames(range(6)).items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two versions and their models: `first` of v1.0.0, `second` trained further from it on v1.1.0, `third` of neither.

    Odd frames test. v1.1.0 is of another recording alone, so that `second` knows the frames of v1.0.0 by descent only.
    """
    home = tmp_path_factory.mktemp("ledger")
    write_coco(home / "a", frames([0, 2]), split="train")
    write_coco(home / "a", frames([1, 3]), split="test")
    write_coco(home / "b", frames([4]), split="train")
    write_coco(home / "b", frames([5]), split="test")
    for line in ("v1.0.0 {}/a --group-by image", "v1.1.0 {}/b --parent none --waive 'one day'"):
        assert run(f"dataset import {line.format(home)}", home).code == 0
    return home


@pytest.fixture(scope="module")
def models(home):
    digests = {
        name: DatasetManager(home / "datasets").get_version(name).digest for name in ("v1.0.0", "v1.1.0")
    }
    first = release(home, "v1.0.0", digests["v1.0.0"], None, "first")
    second = release(home, "v1.1.0", digests["v1.1.0"], first, "second")
    # Of a version that only has the same name, in another folder.
    third = release(home, "v1.0.0", "0" * 64, None, "third")
    return {"first": first, "second": second, "third": third}


def release(home, version, digest, parent, made_by):
    folder = home / made_by
    folder.mkdir()
    save_file({"w": np.zeros(1)}, folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps({"classes": ["car", "truck"], "imgsz": 64}))
    resources = Resources(RetrainConfig(), home)
    return resources.releases.publish(folder, Lineage(version, digest, "job", parent, made_by))


@pytest.fixture
def retrain(home, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda line: run(line, home)


def test_who_saw_an_image_is_told_by_version_split_and_model(retrain, models):
    trained, tested = IMAGES["day0-0.png"], IMAGES["day0-1.png"]

    done = retrain(f"dataset seen {trained[:12]} {tested}")
    as_json = json.loads(retrain(f"dataset seen {tested} --json").out)

    assert f"{trained[:16]} v1.0.0 train" in done.lines
    assert f"{tested[:16]} v1.0.0 test" in done.lines
    assert f"{models['first'][:16]} v1.0.0 first trained on 1, tested on 1" in done.lines
    descent = f"descends from {models['first'][:12]}, which was trained on some"
    assert f"{models['second'][:16]} v1.1.0 second {descent}" in done.lines
    assert models["third"][:16] not in done.out
    assert as_json["images"] == {tested: {"v1.0.0": "test"}}
    assert [(one["release"], one["trained"], one["tested"]) for one in as_json["models"]] == [
        (models["first"], 0, 1)
    ]


def test_an_image_may_be_a_file_and_one_that_nobody_saw_is_said(retrain, models, tmp_path):
    (tmp_path / "known.png").write_bytes(png(4))
    (tmp_path / "other.png").write_bytes(png(99))

    known, other = retrain("dataset seen known.png"), retrain("dataset seen other.png")

    assert f"{models['second'][:16]} v1.1.0 second trained on 1" in known.lines
    assert other.lines == [f"no version has {content_digest(png(99))}", "no released model saw any of them"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seen nothing.png", "There is no file 'nothing.png'"),
        ("seen 0123456789", "No dataset version has an image 0123456789…"),
        ("forget --reason x", "No image was named"),
        ("forget --where split=test --reason x", "--where and --of belong together"),
        ("forget --of v1.0.0 --reason x", "--where and --of belong together"),
    ],
)
def test_an_image_that_is_not_said_clearly_is_one_line(retrain, line, said):
    done = retrain(f"dataset {line}")

    assert done.code == 1
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_a_release_that_cannot_be_read_is_not_taken_for_one_that_saw_nothing(retrain, home, models):
    described = home / "blobs" / "releases" / models["third"] / "release.json"
    content = described.read_bytes()
    described.write_bytes(b"damaged")

    done = retrain(f"dataset seen {IMAGES['day0-0.png']}")
    described.write_bytes(content)

    assert any(line.startswith(f"not known of release {models['third'][:16]}: ") for line in done.lines)


def test_forgetting_says_who_saw_the_images_and_keeps_them_out_from_now_on(retrain, home, models):
    write_coco(home / "c", frames([0, 3, 4]))
    retrain("dataset create v2.0.0 --parent none --classes car,truck")
    retrain(f"dataset add v2.0.0 {home}/c")
    where = "--where split=test --of v1.0.0 --reason 'request 7'"

    pages = [home / "cycles" / name / "dataset.html" for name in ("shows", "does-not")]
    for page, digest in zip(pages, (IMAGES["day0-0.png"], "0" * 64), strict=True):
        page.parent.mkdir(parents=True)
        page.write_text(f"<p>{digest[:12]}</p>")

    dry = retrain(f"dataset forget {IMAGES['day0-0.png']} {where} --dry-run")
    assert all(page.exists() for page in pages)
    done = retrain(f"dataset forget {IMAGES['day0-0.png']} {where}")
    again = retrain(f"dataset forget {IMAGES['day0-0.png']} --reason 'request 8'")
    retrain("dataset commit v2.0.0")

    assert dry.lines[-1] == "3 images would be forgotten"
    assert dry.lines[:-1] == done.lines[: len(dry.lines) - 1]
    assert done.lines[:2] == ["still in version train test", "v1.0.0 1 2"]
    assert f"{models['first'][:16]} v1.0.0 first trained on 1, tested on 2" in done.lines
    assert any(line.startswith("Versions never change") for line in done.lines)
    assert "3 images forgotten; future versions are made without them" in done.lines
    assert "2 images taken out of the draft v2.0.0" in done.lines
    assert [page.exists() for page in pages] == [False, True]
    assert "no images forgotten, 1 were before; future versions are made without them" in again.lines
    manager = DatasetManager(home / "datasets")
    assert set(manager.get_version("v2.0.0").by_image) == {IMAGES["day2-4.png"]}
    assert len(manager.verify("v1.0.0").items) == 4
