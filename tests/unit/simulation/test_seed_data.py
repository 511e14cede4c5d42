import errno
import io
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import retrain
from retrain.boxes import Annotations, yolo_to_xyxy
from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed, StorageFull, Unavailable
from retrain.simulation import seed_data
from retrain.simulation.scenes import DigitPool
from retrain.simulation.seed_data import bmp, folder_hash, label_text, recorded_hash, restore, write_seed_data

CHECKOUT = Path(retrain.__file__).resolve().parents[1]
SMALL = {"seed": 3, "data": {"train": 7, "val": 2, "test": 2, "size": 160}}


def record(root, digest):
    (root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": digest, "path": "data"}]}))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def checkout(tmp_path):
    """A folder whose data.dvc records the small data set, which is not there yet."""
    record(tmp_path, write_seed_data(tmp_path / "made", SMALL))
    shutil.rmtree(tmp_path / "made")
    return tmp_path


def test_the_committed_record_is_what_restore_makes(tmp_path):
    shutil.copy(CHECKOUT / "data.dvc", tmp_path)
    params = yaml.safe_load((CHECKOUT / "params.yaml").read_text())

    digest = restore(tmp_path / "data", params)

    recorded = yaml.safe_load((CHECKOUT / "data.dvc").read_text())["outs"][0]
    files = contents(tmp_path / "data")
    assert digest == recorded["md5"] == folder_hash(tmp_path / "data")
    assert len(files) == recorded["nfiles"]
    assert sum(map(len, files.values())) == recorded["size"]
    for part in ("train", "val", "test"):
        assert sum(name.startswith(f"{part}/images/") for name in files) == params["data"][part]


def test_the_folder_hash_is_the_one_dvc_computes(tmp_path):
    hashing = pytest.importorskip("dvc_data.hashfile.build")
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    folder = tmp_path / "data"
    write_seed_data(folder, SMALL)
    files = LocalFileSystem()
    _, _, built = hashing.build(
        HashFileDB(files, str(tmp_path / "odb")), str(folder), files, "md5", dry_run=True
    )

    assert folder_hash(folder) == built.hash_info.value


def test_restoring_twice_gives_identical_bytes_and_leaves_nothing_beside_them(checkout):
    first = restore(checkout / "data", SMALL)
    before = contents(checkout / "data")
    shutil.rmtree(checkout / "data")

    assert restore(checkout / "data", SMALL) == first
    assert contents(checkout / "data") == before
    assert {p.name for p in checkout.iterdir()} == {"data", "data.dvc"}


def test_right_data_is_left_alone_even_with_label_caches_in_it(checkout):
    restore(checkout / "data", SMALL)
    (checkout / "data" / "train" / "labels.cache").write_bytes(b"from Ultralytics")
    before = (checkout / "data").stat().st_ino

    restore(checkout / "data", SMALL)

    assert (checkout / "data").stat().st_ino == before


def test_damaged_data_and_what_a_killed_run_left_are_replaced(checkout):
    restore(checkout / "data", SMALL)
    whole = contents(checkout / "data")
    victim = checkout / "data" / min(whole)
    victim.write_bytes(b"torn")
    for state in ("partial", "old"):
        (checkout / f".data.{state}" / "train").mkdir(parents=True)

    restore(checkout / "data", SMALL)

    assert contents(checkout / "data") == whole
    assert {p.name for p in checkout.iterdir()} == {"data", "data.dvc"}


def test_somebody_elses_files_are_never_replaced(checkout):
    (checkout / "data").mkdir()
    (checkout / "data" / "mine.csv").write_text("1,2")

    with pytest.raises(Conflict, match=r"mine\.csv"):
        restore(checkout / "data", SMALL)

    assert contents(checkout / "data") == {"mine.csv": b"1,2"}
    assert {p.name for p in checkout.iterdir()} == {"data", "data.dvc"}


def test_data_other_than_recorded_is_not_put_in_place(checkout):
    with pytest.raises(PostConditionFailed, match=r"params\.yaml"):
        restore(checkout / "data", {**SMALL, "seed": 4})

    assert {p.name for p in checkout.iterdir()} == {"data.dvc"}


def test_two_restores_at_once_both_succeed(checkout):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(restore(checkout / "data", SMALL))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [recorded_hash(checkout / "data.dvc")] * 2
    assert folder_hash(checkout / "data") == results[0]


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StorageFull), (errno.EROFS, Unavailable), (errno.EACCES, Unavailable)],
)
def test_a_file_system_that_refuses_is_reported_and_leaves_nothing(checkout, monkeypatch, number, error):
    written = []

    def refuse(path, data):
        if len(written) == 3:
            raise OSError(number, os.strerror(number))
        written.append(path)
        with path.open("wb") as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", refuse)

    with pytest.raises(error, match="data"):
        restore(checkout / "data", SMALL)

    assert {p.name for p in checkout.iterdir()} == {"data.dvc"}


def test_a_missing_or_empty_record_is_reported(tmp_path):
    with pytest.raises(NotFound, match=r"No data\.dvc"):
        restore(tmp_path / "data", SMALL)
    (tmp_path / "data.dvc").write_text("outs: []\n")
    with pytest.raises(NotFound, match="records no folder"):
        restore(tmp_path / "data", SMALL)


def test_missing_parameters_are_named(checkout):
    with pytest.raises(BadInput, match="val"):
        restore(checkout / "data", {"seed": 3, "data": {"train": 1, "size": 160}})


@pytest.mark.parametrize("width", [160, 161, 162, 163])
def test_any_reader_gets_the_same_pixels_back_from_a_bmp(width):
    image = np.random.RandomState(0).randint(0, 256, (20, width, 3)).astype(np.uint8)

    with Image.open(io.BytesIO(bmp(image))) as read:
        assert np.array_equal(np.asarray(read.convert("RGB")), image)


def test_labels_hold_the_boxes_to_a_thousandth_of_a_pixel():
    truth = Annotations.of([[1, 2, 30, 45], [100, 90, 133, 121]], [7, 0])

    rows = np.array([line.split() for line in label_text(truth, 160, 160).splitlines()], dtype=float)

    assert rows[:, 0].tolist() == [7, 0]
    assert np.abs(yolo_to_xyxy(rows[:, 1:], 160, 160) - truth.boxes).max() < 1e-3


def test_test_scenes_are_written_with_test_digits_only(tmp_path, monkeypatch):
    used = []
    original = DigitPool.field
    monkeypatch.setattr(
        DigitPool, "field", lambda self, index: used.append(self.rows[index]) or original(self, index)
    )

    list(seed_data._frames("test", "test", SMALL))
    tested = set(used)
    used.clear()
    for part in ("train", "val"):
        list(seed_data._frames(part, seed_data._POOLS[part], SMALL))

    assert tested
    assert tested <= set(DigitPool("test").rows)
    assert set(used) <= set(DigitPool("train").rows)
