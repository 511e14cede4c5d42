"""Jobs as another process sees them: what became of each, stopping one, going on with it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrain.boxes import Annotations, yolo_to_xyxy
from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, Cancelled, ConfigError, Conflict, NotFound, PostConditionFailed
from retrain.training.jobs import JobState, TrainingJobs
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.result import EpochReport

CHILD = """
import json, sys
from retrain.training.orchestrator import TrainingOrchestrator
orchestrator = TrainingOrchestrator(sys.argv[1], num_processes=int(sys.argv[3]))
orchestrator.train(json.loads(sys.argv[2]), lambda report: print(report.epoch, flush=True))
"""


@pytest.fixture
def child(tmp_path: Path, rectangles: dict[str, Any]):
    """A process that trains for as long as nobody stops it; there once its first epoch is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(processes: int = 1) -> subprocess.Popen[bytes]:
        config = json.loads(json.dumps({**rectangles, "epochs": 500}, default=str))
        environment = {**os.environ, "RETRAIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", CHILD, str(tmp_path / "jobs"), json.dumps(config), str(processes)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def the_job(tmp_path: Path):
    (job,) = TrainingJobs(tmp_path / "jobs").list()
    return job


def test_a_running_job_is_seen_and_a_killed_one_is_interrupted(child, tmp_path: Path) -> None:
    process = child()
    running = the_job(tmp_path)
    assert running.state is JobState.RUNNING
    assert running.epochs == 500
    assert running.reports
    assert running.best_epoch is running.model_folder is running.error is None
    assert running.started_at == pytest.approx(time.time(), abs=120)

    process.send_signal(signal.SIGKILL)
    process.wait()

    killed = the_job(tmp_path)
    assert killed.state is JobState.INTERRUPTED
    assert killed.checkpoints[-1].is_file()


@pytest.mark.parametrize("processes", [1, 2])
def test_cancelling_stops_it_and_it_stays_stopped(child, processes: int, tmp_path: Path) -> None:
    process = child(processes)
    jobs = TrainingJobs(tmp_path / "jobs")
    job = the_job(tmp_path)

    stopped = jobs.cancel(job.id[:6])

    assert stopped.state is JobState.CANCELLED
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"Cancelled: Training job" in said
    config = json.loads((job.folder / "request.json").read_bytes())["config"]
    with pytest.raises(Conflict, match="was cancelled; resume it"):
        TrainingOrchestrator(tmp_path / "jobs").train(config)
    assert the_job(tmp_path).state is JobState.CANCELLED


def test_ctrl_c_in_a_training_is_not_an_exit(rectangles: dict[str, Any], tmp_path: Path) -> None:
    def press(_: EpochReport) -> None:
        signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            TrainingOrchestrator(tmp_path / "jobs").train(rectangles, press)

    assert the_job(tmp_path).state is JobState.INTERRUPTED


def test_a_resumed_job_ends_like_one_that_was_never_cancelled(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    jobs = TrainingJobs(tmp_path / "jobs")

    def cancel_after_two(report: EpochReport) -> None:
        if report.epoch == 2:
            (job,) = jobs.list()
            with pytest.raises(PostConditionFailed, match="asked to stop but still runs after 0 s"):
                jobs.cancel(job.id, wait_s=0)

    orchestrator = TrainingOrchestrator(tmp_path / "jobs", export=())
    with pytest.raises(Cancelled, match="goes on from its last checkpoint"):
        orchestrator.train(rectangles, cancel_after_two)
    (job,) = jobs.list()
    assert (job.state, len(job.reports)) == (JobState.CANCELLED, 2)

    seen: list[int] = []
    resumed = orchestrator.resume(job.id, lambda report: seen.append(report.epoch))

    assert seen == [2, 3]
    assert resumed.resumed_from_epoch == 2
    undisturbed = TrainingOrchestrator(tmp_path / "other", export=()).train(rectangles)
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    finished = jobs.get(job.id)
    assert finished.state is JobState.FINISHED
    assert [report.epoch for report in finished.reports] == [1, 2, 3]
    assert finished.best_epoch == resumed.best.epoch
    assert finished.model_folder == resumed.model_folder
    assert finished.checkpoints == []
    with pytest.raises(Conflict, match="is finished; there is nothing to cancel"):
        jobs.cancel(job.id)


def test_a_job_that_failed_says_why_until_it_is_begun_again(
    rectangles: dict[str, Any], tmp_path: Path
) -> None:
    def fail(_: EpochReport) -> None:
        raise PostConditionFailed("no more of it")

    orchestrator = TrainingOrchestrator(tmp_path / "jobs", export=())
    with pytest.raises(PostConditionFailed):
        orchestrator.train(rectangles, fail)

    assert (the_job(tmp_path).state, the_job(tmp_path).error) == (JobState.FAILED, "no more of it")
    seen: list[JobState] = []
    orchestrator.train(rectangles, lambda _: seen.append(the_job(tmp_path).state))
    assert set(seen) == {JobState.RUNNING}
    assert (the_job(tmp_path).state, the_job(tmp_path).error) == (JobState.FINISHED, None)


def test_watching_shows_every_epoch_and_ends_with_the_job(rectangles: dict[str, Any], tmp_path: Path) -> None:
    seen: list[tuple[JobState, int]] = []
    begun = threading.Event()

    def watch() -> None:
        assert begun.wait(60)
        jobs = TrainingJobs(tmp_path / "jobs")
        seen.extend((job.state, len(job.reports)) for job in jobs.watch(jobs.list()[0].id, poll_s=0.02))

    def wait_to_be_seen(report: EpochReport) -> None:
        begun.set()
        deadline = time.monotonic() + 60
        while (JobState.RUNNING, report.epoch) not in seen and time.monotonic() < deadline:
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    TrainingOrchestrator(tmp_path / "jobs", export=()).train({**rectangles, "epochs": 2}, wait_to_be_seen)
    watcher.join(60)

    assert [one for one in seen if one[0] is JobState.RUNNING][-1] == (JobState.RUNNING, 2)
    assert (JobState.RUNNING, 1) in seen
    assert seen[-1] == (JobState.FINISHED, 2)


def test_what_is_not_there_cannot_be_resumed_or_found(rectangles: dict[str, Any], tmp_path: Path) -> None:
    orchestrator, jobs = TrainingOrchestrator(tmp_path / "jobs"), TrainingJobs(tmp_path / "jobs")
    assert jobs.list() == []
    with pytest.raises(NotFound, match="nothing to resume"):
        orchestrator.train(rectangles, resume=True)
    assert jobs.list() == []
    for unknown in ("", "abc", "*"):
        with pytest.raises(NotFound, match="no training job"):
            jobs.get(unknown)
    with pytest.raises(NotFound, match="no training job"):
        orchestrator.resume("abc")


def test_the_beginning_of_an_id_must_mean_one_job(tmp_path: Path) -> None:
    for name in ("ab1", "ab2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text('{"epochs": 1}')
    with pytest.raises(BadInput, match=r"2 training jobs begin with ab; .*: ab1, ab2"):
        TrainingJobs(tmp_path).get("ab")
    assert TrainingJobs(tmp_path).get("ab2").id == "ab2"


@pytest.mark.parametrize(
    ("name", "content"),
    [("failure.json", ""), ("job.json", "{}"), ("job.json", "[1]"), ("result.json", '{"epochs": 1}')],
)
def test_a_folder_that_is_damaged_or_no_jobs_hides_no_other(
    name: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for job in ("good", "odd"):
        (tmp_path / job).mkdir()
        (tmp_path / job / "job.json").write_text('{"epochs": 1}')
    (tmp_path / "odd" / name).write_text(content)

    assert [job.id for job in TrainingJobs(tmp_path).list()] == ["good"]
    assert "odd holds no training job that can be read" in caplog.text
    with pytest.raises(BadInput, match="odd holds no training job"):
        TrainingJobs(tmp_path).get("odd")


@pytest.fixture(scope="module")
def versions(rectangles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with v1.0.0 made of the same pictures."""
    folder = tmp_path_factory.mktemp("versions") / "datasets"
    manager = DatasetManager(folder)
    draft = manager.create_version("v1.0.0", "rectangles", classes=("red", "blue"))
    for split, root in (("train", rectangles["train_data"][0]), ("val", rectangles["val_data"])):
        images = sorted((root / "images").iterdir())
        rows = [
            [row.split() for row in (root / "labels" / f"{image.stem}.txt").read_text().splitlines()]
            for image in images
        ]
        boxes = [yolo_to_xyxy(np.array([row[1:] for row in part], dtype=float), 64, 64) for part in rows]
        labels = [[int(row[0]) for row in part] for part in rows]
        manager.add_images(
            draft,
            images,
            [Annotations.of(*one) for one in zip(boxes, labels, strict=True)],
            groups=[f"{split}-{image.stem}" for image in images],
            splits=[split] * len(images),
            sources="human",
            metadata=[{"camera": f"camera-{number % 2}"} for number in range(len(images))],
        )
    manager.commit(draft)
    return folder


def test_a_dataset_version_stands_for_data_and_classes(
    rectangles: dict[str, Any], versions: Path, tmp_path: Path
) -> None:
    settings = {
        key: value for key, value in rectangles.items() if key not in {"train_data", "val_data", "classes"}
    }
    orchestrator = TrainingOrchestrator(tmp_path / "jobs", datasets=versions, export=())

    result = orchestrator.train({**settings, "dataset": "v1.0.0", "epochs": 2})

    version = DatasetManager(versions).get_version("v1.0.0")
    assert result.resolved["dataset"] == {"name": "v1.0.0", "digest": version.digest}
    assert result.resolved["images"] == 18
    assert result.resolved["classes"] == ["red", "blue"]
    assert the_job(tmp_path).dataset == result.resolved["dataset"]
    again = orchestrator.resume(result.job_id)
    assert again.reused
    assert again.resolved == result.resolved
    balanced = {**settings, "dataset": "v1.0.0", "sampling": "balanced"}
    assert orchestrator.job_id(balanced) != orchestrator.job_id({**settings, "dataset": "v1.0.0"})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dataset": "v9"}, NotFound, "v9"),
        ({"dataset": 1}, ConfigError, "dataset must be the name"),
        ({"dataset": "v1.0.0", "classes": ["a"]}, ConfigError, "dataset and classes both say"),
    ],
)
def test_a_dataset_that_cannot_be_is_refused(
    change: dict[str, Any], error: type[Exception], message: str, versions: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        TrainingOrchestrator(tmp_path / "jobs", datasets=versions).train(change)
    assert not (tmp_path / "jobs").exists()
