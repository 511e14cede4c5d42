import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from retrain.errors import BadInput, ConfigError, Conflict, NotFound, PostConditionFailed, Unavailable
from retrain.mlflow_integration.tracker import MLflowTracker


@pytest.fixture
def tracker(tracking_uri, name):
    return MLflowTracker(tracking_uri, name)


@pytest.fixture
def client(tracking_uri):
    return MlflowClient(tracking_uri)


def test_a_run_written_through_the_seeds_api_reads_back_from_mlflow(tracker, client, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"w" * 1000)

    with tracker.start_run(run_name="yolov8n_v1") as run:
        tracker.log_params({"learning_rate": 0.001, "epochs": 2})
        for epoch in range(2):
            tracker.log_metrics({"train_loss": 1.0 - epoch / 2, "map50": 0.5 + epoch / 10}, step=epoch)
        address = tracker.log_model(model_path=tmp_path / "weights.bin", artifact_path="model")

    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "yolov8n_v1"
    assert stored.data.params == {"learning_rate": "0.001", "epochs": "2"}
    assert [metric.value for metric in client.get_metric_history(run.id, "map50")] == [0.5, 0.6]
    assert address == f"runs:/{run.id}/model"
    fetched = Path(client.download_artifacts(run.id, "model/weights.bin", str(tmp_path)))
    assert fetched.read_bytes() == b"w" * 1000


def test_a_killed_stage_continues_its_run_and_logs_nothing_twice(tracker, client, tmp_path):
    first = tracker.run_for("cycle-7:train", run_name="train")
    first.log_params({"epochs": 3})
    for epoch in range(2):
        first.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch)
    # Killed here: the run is still RUNNING. A new process knows only the key.
    again = MLflowTracker(tracker.tracking_uri, tracker.experiment_name).run_for("cycle-7:train")
    again.log_params({"epochs": 3})
    for epoch in range(3):
        again.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch)
    again.finish()

    assert again.id == first.id
    history = client.get_metric_history(first.id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]
    assert client.get_run(first.id).info.status == "FINISHED"


def test_a_finished_run_is_running_again_when_its_stage_is_repeated(tracker):
    with tracker.start_run("evaluate", key="cycle-8:evaluate") as first:
        pass
    assert first.status == "FINISHED"

    with tracker.start_run("evaluate", key="cycle-8:evaluate") as second:
        assert second.status == "RUNNING"

    assert second.id == first.id


def test_of_two_runs_with_one_key_everybody_takes_the_older(tracker, client):
    older = client.create_run(tracker.experiment_id, start_time=1000, tags={"retrain.key": "k"})
    client.create_run(tracker.experiment_id, start_time=2000, tags={"retrain.key": "k"})

    assert tracker.run_for("k").id == older.info.run_id


def test_threads_that_ask_for_one_key_get_one_run(tracker, client):
    ids = []
    threads = [threading.Thread(target=lambda: ids.append(tracker.run_for("shared").id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert len(client.search_runs([tracker.experiment_id])) == 1


def test_each_thread_logs_to_its_own_current_run(tracker, client):
    barrier, runs = threading.Barrier(2), {}

    def work(who):
        with tracker.start_run(run_name=who) as run:
            barrier.wait()
            tracker.log_params({"who": who})
            runs[who] = run.id

    threads = [threading.Thread(target=work, args=(who,)) for who in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {who: client.get_run(run_id).data.params["who"] for who, run_id in runs.items()} == {
        "a": "a",
        "b": "b",
    }


def test_a_run_whose_block_raises_is_failed(tracker):
    with pytest.raises(ZeroDivisionError), tracker.start_run("broken") as run:
        raise ZeroDivisionError

    assert run.status == "FAILED"


def test_a_changed_setting_does_not_slip_into_an_old_run(tracker):
    run = tracker.run_for("k")
    run.log_params({"epochs": 9})

    with pytest.raises(Conflict, match="begun with epochs=9, now 10"):
        run.log_params({"epochs": 10})


def test_hundreds_of_params_and_metrics_arrive(tracker, client):
    run = tracker.run_for("many")
    run.log_params({f"p{i}": i for i in range(250)})
    run.log_metrics({f"m{i}": float(i) for i in range(250)})

    stored = client.get_run(run.id).data
    assert stored.params["p249"] == "249"
    assert len(stored.params) == len(stored.metrics) == 250


def test_a_folder_and_a_dataset_are_tied_to_the_run(tracker, client, tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "model.json").write_text("{}")
    run = tracker.run_for("k")

    assert run.log_model(tmp_path / "model") == f"runs:/{run.id}/model"
    run.log_dataset("digits", "d" * 64, "v1.0.0")

    stored = client.get_run(run.id)
    assert client.list_artifacts(run.id, "model/deep")[0].path == "model/deep/model.json"
    asked = ("model/deep/model.json", "model/model.json", "model/deep", "model.json")
    assert [run.has_file(path) for path in asked] == [True, False, False, False]
    assert stored.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert stored.data.tags["retrain.dataset.training"] == "d" * 64


def test_files_that_do_not_arrive_whole_are_noticed(tracker, client, tmp_path, monkeypatch):
    (tmp_path / "weights.bin").write_bytes(b"whole")
    run = tracker.run_for("k")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(b"hal")

    def cut_short(run_id, _path, artifact_path):
        client.log_artifact(run_id, str(tmp_path / "elsewhere" / "weights.bin"), artifact_path)

    monkeypatch.setattr(run._client, "log_artifact", cut_short)
    with pytest.raises(PostConditionFailed, match="reading back"):
        run.log_model(tmp_path / "weights.bin")


def test_what_cannot_be_logged_is_refused_in_words(tracker):
    run = tracker.run_for("k")

    with pytest.raises(NotFound, match="no file or folder"):
        run.log_artifact("nowhere.bin")
    with pytest.raises(BadInput, match="refused"):
        run.log_metrics({"mAP50(B)": 1.0})
    with pytest.raises(BadInput, match="exceed 6000"):
        run.log_params({"long": "x" * 6001})
    with pytest.raises(BadInput, match="No run is open"):
        tracker.log_metrics({"loss": 1.0})
    with pytest.raises(BadInput, match="run's key"):
        tracker.run_for("it's")


def test_a_run_has_a_page_only_on_a_server(tracker):
    run = tracker.run_for("k")

    if tracker.tracking_uri.startswith("http"):
        assert run.url == f"{tracker.tracking_uri}/#/experiments/{tracker.experiment_id}/runs/{run.id}"
    else:
        assert run.url is None


def test_sqlite_artifacts_lie_beside_the_database_whatever_the_working_directory(
    sqlite_uri, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("n")

    MLflowTracker(sqlite_uri, name).run_for("k").log_artifact("note.txt")

    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    folder = Path(sqlite_uri.removeprefix("sqlite:///")).parent
    assert list((folder / "artifacts").rglob("note.txt"))


def test_a_server_that_is_down_is_named_within_seconds(name):
    began = time.monotonic()

    with pytest.raises(Unavailable, match=r"http://127.0.0.1:9 does not answer"):
        MLflowTracker("http://user:secret@127.0.0.1:9", name)

    assert time.monotonic() - began < 5


def test_a_folder_as_store_is_refused_with_what_to_write_instead(name, tmp_path):
    with pytest.raises(ConfigError, match="sqlite:///"):
        MLflowTracker(str(tmp_path), name)
