import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from retrain.errors import ConfigError, NotFound
from retrain.training.job import TrainingJob
from retrain.training.request import TrainingRequest


def make_data(root: Path) -> Path:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "images" / "1.png").write_bytes(b"pixels")
    (root / "labels" / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    return root


@pytest.fixture
def request_(tmp_path: Path) -> TrainingRequest:
    root = make_data(tmp_path / "data")
    return TrainingRequest.of({"train_data": [root], "val_data": root, "classes": ["x"]})


def key(request: TrainingRequest, work: str = "jobs", accumulation: int = 1, *, mixed: bool = False) -> str:
    return TrainingJob.of(request, Path(work), accumulation, mixed_precision=mixed).id


def test_same_data_at_another_place_is_the_same_job(request_: TrainingRequest, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(request_.val_data, moved)
    assert key(replace(request_, train_data=(moved,), val_data=moved), work="elsewhere") == key(request_)


def test_threads_are_fixed_at_the_start_by_the_machine_that_began(
    request_: TrainingRequest, tmp_path: Path
) -> None:
    job = TrainingJob.of(replace(request_, threads=3), tmp_path / "jobs", 1, mixed_precision=False)
    elsewhere = TrainingJob.of(replace(request_, threads=8), tmp_path / "jobs", 1, mixed_precision=False)
    assert (job.threads(), elsewhere.threads()) == (3, 3)
    assert (elsewhere.threads(begun_with=5), elsewhere.threads()) == (5, 5)


def test_whatever_changes_the_weights_changes_the_key(request_: TrainingRequest, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "weights.safetensors").write_bytes(b"w")
    (start / "model.json").write_bytes(b"{}")
    tuned = replace(request_, initial_weights=start)
    keys = {
        key(request_),
        key(replace(request_, seed=1)),
        key(request_, mixed=True),
        key(request_, accumulation=2),
    }
    keys |= {key(tuned)}
    (start / "weights.safetensors").write_bytes(b"v")
    keys |= {key(tuned)}
    (request_.val_data / "labels" / "1.txt").write_text("")
    keys |= {key(request_)}
    assert len(keys) == 7


def test_given_digest_names_the_data_without_reading_it(request_: TrainingRequest) -> None:
    known = replace(request_, data_digest="d", train_data=(Path("absent"),))
    assert key(known) == key(replace(request_, data_digest="d"))


def test_missing_data_and_weights_are_named(request_: TrainingRequest, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="absent"):
        key(replace(request_, val_data=tmp_path / "absent"))
    with pytest.raises(NotFound, match="initial_weights"):
        key(replace(request_, initial_weights=tmp_path))


def test_contradicting_accumulation_is_refused(request_: TrainingRequest) -> None:
    nominal = replace(request_, nominal_batch=64)
    assert TrainingJob.of(nominal, Path("j"), 1, mixed_precision=False).accumulate == 4
    assert TrainingJob.of(nominal, Path("j"), 4, mixed_precision=False).accumulate == 4
    with pytest.raises(ConfigError, match="mean 4"):
        key(nominal, accumulation=2)
