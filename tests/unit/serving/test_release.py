import errno
import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.boxes import Detections
from retrain.errors import BadInput, NotFound, PostConditionFailed, StorageFull
from retrain.serving.release import ReleaseStore, read_release
from retrain.storage.local_blobs import LocalBlobs

FILES = ["model.json", "release.json", "weights.safetensors"]


def flip(path: Path, position: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 0x01
    path.write_bytes(bytes(data))


def test_the_same_inputs_give_the_same_digest_wherever_they_are(model_folder, lineage, tmp_path):
    one = ReleaseStore(LocalBlobs(tmp_path / "one"), tmp_path / "cache-one")
    two = ReleaseStore(LocalBlobs(tmp_path / "two"), tmp_path / "cache-two")

    digests = {
        one.publish(model_folder(name="here"), lineage),
        one.publish(model_folder(name="here"), lineage),
        two.publish(model_folder(name="there"), lineage),
    }

    assert len(digests) == 1
    assert one.digests() == list(digests)


def test_every_ingredient_changes_the_digest(releases, model_folder, lineage):
    digests = [
        releases.publish(model_folder(0.9), lineage),
        releases.publish(model_folder(0.8), lineage),
        releases.publish(model_folder(0.9), lineage, thresholds=0.5),
        releases.publish(model_folder(0.9), lineage, thresholds={"car": 0.5, "bus": 0.4}),
        releases.publish(model_folder(0.9), replace(lineage, parent="e" * 64)),
        releases.publish(model_folder(0.9), replace(lineage, training_job="job-2")),
    ]

    assert len(set(digests)) == len(digests)
    assert releases.digests() == sorted(digests)


def test_a_fetched_release_tells_what_was_published(releases, model_folder, lineage):
    folder = model_folder(0.7)
    digest = releases.publish(folder, lineage, thresholds={"car": 0.5, "bus": 0.4})

    release = releases.open(digest)

    assert (release.digest, release.classes, release.imgsz) == (digest, ("car", "bus"), 32)
    assert release.thresholds == {"car": 0.5, "bus": 0.4}
    assert release.lineage == lineage
    assert sorted(path.name for path in release.folder.iterdir()) == FILES
    assert (release.folder / "weights.safetensors").read_bytes() == (
        folder / "weights.safetensors"
    ).read_bytes()


def export(folder, **exported):
    """Files in other formats, listed as training lists them."""
    for name, data in exported.items():
        (folder / f"model.{name}").write_bytes(data)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*")}
    (folder / "files.json").write_text(json.dumps({"sha256": digests}))


def test_a_release_has_the_exported_files_that_its_model_folder_has(releases, model_folder, lineage):
    plain = releases.publish(model_folder(), lineage)
    folder = model_folder(name="exported")
    export(folder, pt=b"torch", onnx=b"graph")

    digest = releases.publish(folder, lineage)

    fetched = releases.fetch(digest)
    assert digest != plain
    assert sorted(path.name for path in fetched.iterdir()) == sorted([*FILES, "model.onnx", "model.pt"])
    assert (fetched / "model.pt").read_bytes() == b"torch"
    (folder / "model.onnx").unlink()
    assert "model.onnx" not in {
        path.name for path in releases.fetch(releases.publish(folder, lineage)).iterdir()
    }


def test_measurements_beside_the_exported_files_do_not_name_the_release(releases, model_folder, lineage):
    folder = model_folder()
    export(folder, onnx=b"graph")
    digest = releases.publish(folder, lineage)
    listed = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps({**listed, "onnx_parity": 1e-7}))

    assert releases.publish(folder, lineage) == digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(folder / "model.pt"), r"model\.pt does not have the sha256"),
        (
            lambda folder: flip(folder / "weights.safetensors"),
            r"weights\.safetensors does not have the sha256",
        ),
        (lambda folder: (folder / "files.json").unlink(), r"has model\.pt, model\.onnx, but files\.json"),
        (lambda folder: (folder / "files.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "files.json").write_text('{"sha256": {}}'), r"model\.onnx does not have"),
        (lambda folder: (folder / "model.pt").write_bytes(b""), r"model\.pt is empty"),
    ],
)
def test_exported_files_that_are_not_proven_whole_are_not_released(
    releases, model_folder, lineage, damage, message
):
    folder = model_folder()
    export(folder, pt=b"torch", onnx=b"graph")
    damage(folder)

    with pytest.raises(BadInput, match=message):
        releases.publish(folder, lineage)
    assert releases.digests() == []


def test_each_class_has_its_own_threshold(releases, model_folder, lineage):
    release = releases.open(releases.publish(model_folder(), lineage, thresholds={"car": 0.5, "bus": 0.2}))
    boxes = [[0, 0, 1, 1]] * 4

    accepted = release.accepted(Detections.of(boxes, [0, 0, 1, 1], [0.5, 0.49, 0.3, 0.1]))

    assert accepted.scores.tolist() == [0.5, 0.3]
    assert len(release.accepted(Detections.empty())) == 0


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from([*FILES, "manifest.json"]), position=st.integers(0, 10_000))
def test_any_flipped_byte_in_the_store_is_found_and_named(publish, releases, blobs, tmp_path, name, position):
    digest = publish(0.9)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    flip(blobs.root / "releases" / digest / name, position)

    with pytest.raises(BadInput, match=name):
        releases.fetch(digest)

    assert not (tmp_path / "cache" / digest).exists()
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_missing_file_in_the_store_is_named(publish, releases, blobs):
    digest = publish(0.9)
    blobs.delete(f"releases/{digest}/model.json")

    with pytest.raises(BadInput, match=r"model\.json is missing"):
        releases.fetch(digest)


def test_publishing_again_repairs_a_damaged_store(publish, releases, blobs):
    digest = publish(0.9)
    flip(blobs.root / "releases" / digest / "weights.safetensors")

    assert publish(0.9) == digest
    assert releases.fetch(digest).is_dir()


@pytest.mark.parametrize("damage", ["flip", "delete", "extra", "folder", "empty"])
def test_a_damaged_local_copy_is_fetched_again(publish, releases, damage):
    digest = publish(0.9)
    folder = releases.fetch(digest)
    weights = folder / "weights.safetensors"
    good = weights.read_bytes()
    {
        "flip": partial(flip, weights),
        "delete": weights.unlink,
        "extra": partial((folder / "more").write_text, "x"),
        "folder": (folder / "more").mkdir,
        "empty": partial(weights.write_bytes, b""),
    }[damage]()

    assert releases.fetch(digest) == folder
    assert weights.read_bytes() == good
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_what_a_killed_download_left_is_replaced(publish, releases, tmp_path):
    digest = publish(0.9)
    partial = tmp_path / "cache" / f"{digest}.partial"
    partial.mkdir(parents=True)
    (partial / "weights.safetensors").write_text("half")

    releases.fetch(digest)

    assert not partial.exists()


def test_a_good_local_copy_needs_no_store(publish, releases, blobs):
    digest = publish(0.9)
    folder = releases.fetch(digest)
    shutil.rmtree(blobs.root)

    assert releases.fetch(digest) == folder


def test_many_fetching_at_once_get_one_good_folder(publish, releases):
    digest = publish(0.9)

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(releases.fetch, [digest] * 16))

    assert len(folders) == 1
    assert read_release(folders.pop()).digest == digest


def test_a_release_without_a_manifest_does_not_exist(publish, releases, blobs):
    digest = publish(0.9)
    blobs.delete(f"releases/{digest}/manifest.json")

    assert not releases.exists(digest)
    assert releases.digests() == []
    with pytest.raises(NotFound, match=digest):
        releases.fetch(digest)


def test_a_store_that_loses_bytes_is_caught_when_publishing(tmp_path, model_folder, lineage):
    class Forgetful(LocalBlobs):
        def put(self, key, data):
            super().put(key, data[:-1] if key.endswith("weights.safetensors") else data)

    releases = ReleaseStore(Forgetful(tmp_path / "bad"), tmp_path / "cache")

    with pytest.raises(PostConditionFailed, match="reads back differently"):
        releases.publish(model_folder(), lineage)


def test_a_full_disk_leaves_no_half_release(publish, releases, tmp_path, monkeypatch):
    digest = publish(0.9)

    def refuse(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)

    with pytest.raises(StorageFull, match="cache"):
        releases.fetch(digest)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize("name", ["../../etc", "", "A" * 64, "abc"])
def test_only_a_digest_names_a_release(releases, name):
    for use in (releases.fetch, releases.exists):
        with pytest.raises(BadInput, match="64 lower-case hex"):
            use(name)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"car": 0.5}, "bus"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        ({"car": 0.5, "bus": 0.5, "tram": 0.5}, "tram"),
    ],
)
def test_thresholds_must_fit_the_classes(releases, model_folder, lineage, thresholds, message):
    with pytest.raises(BadInput, match=message):
        releases.publish(model_folder(), lineage, thresholds)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_an_incomplete_model_folder_is_refused(releases, model_folder, lineage, name):
    folder = model_folder()
    (folder / name).unlink()

    with pytest.raises(BadInput, match=name):
        releases.publish(folder, lineage)
    assert releases.digests() == []


@pytest.mark.parametrize("text", ["not json", "[]", json.dumps({"classes": ["car"]})])
def test_an_unreadable_model_description_is_refused(releases, model_folder, lineage, text):
    folder = model_folder()
    (folder / "model.json").write_text(text)

    with pytest.raises(BadInput, match="classes and imgsz"):
        releases.publish(folder, lineage)


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"release\.json"):
        read_release(tmp_path)


def test_thresholds_apply_by_index_even_when_json_orders_names(releases, model_folder, lineage):
    release = releases.open(releases.publish(model_folder(), lineage, {"bus": 0.9, "car": 0.1}))

    kept = release.accepted(Detections.of([[0, 0, 1, 1]] * 2, [0, 1], [0.5, 0.5]))

    np.testing.assert_array_equal(kept.classes, [0])
