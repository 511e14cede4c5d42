"""A real detector in each of its forms, on real files in each of theirs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ultralytics import YOLO

from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput, ConfigError, NotFound, Unavailable
from retrain.evaluation.evaluator import ModelEvaluator
from retrain.evaluation.labelled_data import open_data
from retrain.evaluation.models import open_model
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.speed import PARTS, SpeedPlan
from retrain.serving.release import Lineage, ReleaseStore
from retrain.storage.local_blobs import LocalBlobs
from tests.integration.evaluation.conftest import CLASSES, IMAGES, SIDE, Models

QUICK = SpeedPlan(images=2, warm_up=1, rounds=3, batch_sizes=(1, 2), batch_rounds=2)


def test_folder_pt_and_onnx_give_the_same_scores(models: Models, coco_folder: Path) -> None:
    results = [
        ModelEvaluator(path, coco_folder, ["map", "map50", "precision", "recall"]).evaluate()
        for path in (models.folder, models.pt, models.onnx)
    ]

    values = np.array([list(result.metrics.values()) for result in results])
    assert [list(result.metrics) for result in results] == [["map", "map50", "precision", "recall"]] * 3
    assert 0.05 < values[0, 0] < 0.95, "scores at the ends of their range prove nothing"
    assert np.array_equal(values[0], values[1])
    assert np.allclose(values[0], values[2], atol=0.01)
    assert [result.runtime for result in results] == ["torch", "torch", "onnxruntime"]
    assert [result.evaluation.protocol for result in results] == [
        EvaluationProtocol(runtime=runtime) for runtime in ("torch", "torch", "onnxruntime")
    ]


def test_the_boxes_of_onnx_are_those_of_torch(models: Models, coco_folder: Path) -> None:
    images = [item.load() for item in open_data(coco_folder).items]

    ours, theirs = (
        open_model(path).predict(images, confidence=0.1, iou=0.7, max_detections=300)
        for path in (models.folder, models.onnx)
    )

    assert sum(len(each) for each in ours) > IMAGES
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.boxes[:5] - other.boxes[:5]).max() < 0.05
        assert np.abs(one.scores[:5] - other.scores[:5]).max() < 1e-3
        assert one.classes[:5].tolist() == other.classes[:5].tolist()


def test_the_same_images_in_yolo_and_in_a_version_give_the_same_scores(
    models: Models, yolo_folder: Path, versions: DatasetManager
) -> None:
    yolo = ModelEvaluator(models.folder, yolo_folder).evaluate()
    version = ModelEvaluator(models.folder, "v1.0.0/test", datasets=versions).evaluate()

    assert yolo.data == f"{yolo_folder}/test"
    assert len(yolo.evaluation.truth.images) == IMAGES - 1
    assert version.data == "v1.0.0/test"
    assert len(version.evaluation.truth.images) == IMAGES - 2
    ids = [f"images/test/{index:04}.png" for index in range(2, IMAGES)]
    assert yolo.evaluation.only(ids).summary.map50_95 == pytest.approx(version.metrics["map"], abs=1e-6)


def test_evaluating_twice_gives_identical_json(models: Models, yolo_folder: Path) -> None:
    texts = [
        json.dumps(ModelEvaluator(models.pt, yolo_folder).evaluate().to_json(), allow_nan=False)
        for _ in range(2)
    ]

    assert texts[0] == texts[1]
    assert "speed" not in json.loads(texts[0])


def test_models_are_compared_with_the_first_on_the_same_images(
    models: Models, versions: DatasetManager
) -> None:
    evaluator = ModelEvaluator(models.folder, "v1.0.0/test", ["map50", "f1"], datasets=versions)

    compared = evaluator.compare_models([models.folder, models.onnx, models.other])

    same, other = compared.differences
    assert [same.model, other.model] == [str(models.onnx), str(models.other)]
    assert same.comparison.metric == "map50"
    assert same.comparison.verdict == "inconclusive"
    assert abs(same.comparison.difference) < 0.01
    # How surely it is worse depends on the few recordings there are.
    assert other.comparison.difference < -0.1
    assert other.comparison.low < other.comparison.difference < other.comparison.high
    rows = compared.table()
    assert [row["model"] for row in rows] == [str(models.folder), str(models.onnx), str(models.other)]
    assert rows[0]["differences"] == {}
    assert rows[2]["differences"] == {"map50": other.comparison}
    assert all("runtimes" in " ".join(result.notes) for result in compared.results)


def test_a_comparison_needs_two_different_models(models: Models, yolo_folder: Path) -> None:
    evaluator = ModelEvaluator(models.folder, yolo_folder)

    for asked in ([], [models.folder], [models.folder, models.folder]):
        with pytest.raises(ConfigError, match="two models or more, each once"):
            evaluator.compare_models(asked)


def test_a_release_is_scored_at_its_own_threshold(models: Models, yolo_folder: Path, tmp_path: Path) -> None:
    store = ReleaseStore(LocalBlobs(tmp_path / "blobs"), tmp_path / "cache")
    lineage = Lineage("v1.0.0", "d", "job", None, "test")
    one = store.fetch(store.publish(models.folder, lineage, 0.4))
    each = store.fetch(store.publish(models.folder, lineage, {"a": 0.3, "b": 0.2, "c": 0.5}))

    alike = ModelEvaluator(one, yolo_folder).evaluate()
    apart = ModelEvaluator(each, yolo_folder).evaluate()
    plain = ModelEvaluator(models.folder, yolo_folder).evaluate()
    asked = ModelEvaluator(one, yolo_folder, confidence=0.1).evaluate()

    assert (alike.served.confidence, alike.served.origin) == (0.4, "release")
    assert alike.evaluation.summary.confidence == 0.4
    assert apart.evaluation.confidence == {"a": 0.3, "b": 0.2, "c": 0.5}
    assert "at confidence 0.2 to 0.5 by class" in apart.sentence
    for name, confidence in apart.evaluation.confidence.items():
        alone = ModelEvaluator(models.folder, yolo_folder, confidence=confidence).evaluate()
        assert apart.evaluation.summary.classes[name] == alone.evaluation.summary.classes[name]
    assert (plain.served.confidence, plain.to_json()["confidence_from"]) == (0.25, "default")
    assert asked.served.confidence == 0.1
    assert alike.metrics["recall"] < asked.metrics["recall"]


def test_speed_is_measured_in_turns_when_it_is_asked_for(models: Models, yolo_folder: Path) -> None:
    evaluator = ModelEvaluator(models.folder, yolo_folder, ["map50", "speed"], speed_plan=QUICK)

    compared = evaluator.compare_models([models.folder, models.onnx])

    torch, onnx = (result.speed for result in compared.results)
    assert torch is not None
    assert onnx is not None
    assert (torch.runtime, onnx.runtime) == ("torch", "onnxruntime")
    assert torch.interleaved_with == (str(models.onnx),)
    for report in (torch, onnx):
        assert set(report.parts) == set(PARTS)
        assert sum(part.mean for part in report.parts.values()) == pytest.approx(report.latency.mean)
        assert report.latency.n == QUICK.rounds
        assert set(report.throughput) == {1, 2}
        assert min(report.throughput.values()) > 0
        assert report.peak_memory_mb is None or report.peak_memory_mb > 50
    document = compared.results[0].to_json()
    assert document["speed"]["machine"]["cores"] >= 1
    assert list(document["metrics"]) == ["map50"]
    json.dumps(document, allow_nan=False)


def test_classes_are_matched_by_name_and_others_of_the_model_do_not_count(
    models: Models, coco_folder: Path, tmp_path: Path
) -> None:
    file = coco_folder / "annotations" / "instances_test.json"
    content = json.loads(file.read_text())
    # The other way round, and without b.
    content["categories"] = [{"id": 1, "name": "c"}, {"id": 2, "name": "a"}]
    kept = {30: 1, 10: 2}
    content["annotations"] = [
        {**entry, "category_id": kept[entry["category_id"]]}
        for entry in content["annotations"]
        if entry["category_id"] in kept
    ]
    (tmp_path / "part.json").write_text(json.dumps(content))

    whole = ModelEvaluator(models.folder, file).evaluate()
    part = ModelEvaluator(models.folder, tmp_path / "part.json", images=coco_folder / "test").evaluate()

    for name in ("a", "c"):
        ours, theirs = whole.evaluation.summary.classes[name], part.evaluation.summary.classes[name]
        assert theirs.n_objects == ours.n_objects
        assert theirs.ap50 == pytest.approx(ours.ap50, nan_ok=True)
    assert part.dropped_classes == ("b",)
    assert part.to_json()["dropped_classes"] == ["b"]
    assert any("not in the data" in note and note.endswith("image: b.") for note in part.notes)
    # Nor is a threshold of theirs part of the operating point.
    store = ReleaseStore(LocalBlobs(tmp_path / "blobs"), tmp_path / "cache")
    thresholds = {"a": 0.3, "b": 0.9, "c": 0.5}
    release = store.fetch(
        store.publish(models.folder, Lineage("v1.0.0", "d", "job", None, "test"), thresholds)
    )
    served = ModelEvaluator(release, tmp_path / "part.json", images=coco_folder / "test").evaluate().served
    assert (served.confidence, str(served)) == ({"c": 0.5, "a": 0.3}, "0.3 to 0.5 by class")


def test_a_class_that_the_model_does_not_know_is_an_error_that_lists_both(
    models: Models, yolo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(yolo_folder, tmp_path / "data")
    text = (tmp_path / "data" / "data.yaml").read_text().replace("2: c", "2: truck")
    (tmp_path / "data" / "data.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"'truck'.*'a', 'b', 'c'.*'a', 'b', 'truck'"):
        ModelEvaluator(models.folder, tmp_path / "data").evaluate()


def torn(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[:-2000])
    return target


def test_damaged_and_wrong_models_are_named(models: Models, yolo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "model.bin").write_text("x")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(models.folder, broken)
    torn(models.folder / "weights.safetensors", broken / "weights.safetensors")
    cases: list[tuple[Path, type[Exception], str]] = [
        (
            torn(models.pt, tmp_path / "torn.pt"),
            BadInput,
            r"torn\.pt cannot be used as a model: it is damaged",
        ),
        (torn(models.onnx, tmp_path / "torn.onnx"), BadInput, r"torn\.onnx cannot be run as an ONNX model"),
        (tmp_path / "text.onnx", BadInput, r"text\.onnx cannot be run as an ONNX model"),
        (tmp_path / "model.bin", BadInput, r"model\.bin is no model; give a model folder"),
        (tmp_path / "empty", BadInput, r"empty is a folder without model\.json"),
        (broken, BadInput, "sha256"),
        (tmp_path / "none.pt", NotFound, r"no model '.*none\.pt'"),
        (tmp_path / "none.json", BadInput, r"no file of predictions"),
    ]
    for path, kind, said in cases:
        with pytest.raises(kind, match=said):
            ModelEvaluator(path, yolo_folder).evaluate()


def test_an_onnx_model_is_run_on_the_cpu_only(models: Models) -> None:
    with pytest.raises(Unavailable, match="CPU only, got device 'cuda'"):
        open_model(models.onnx, "cuda")


def test_unknown_metrics_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError, match=r"Unknown metrics 'mapp'\. Metrics are map, map50_95, map50"):
        ModelEvaluator("none.pt", "none", ["map", "mapp"])
    with pytest.raises(ConfigError, match="No metric"):
        ModelEvaluator("none.pt", "none", [])
    with pytest.raises(ConfigError, match=r"confidence must be in \[0, 1\], got 40"):
        ModelEvaluator("none.pt", "none", confidence=40)


@pytest.mark.parametrize("nms", [False, True])
def test_a_model_that_ultralytics_exported_gives_the_scores_of_the_pt(
    nms: bool, models: Models, yolo_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "exported.pt"
    source.write_bytes(models.pt.read_bytes())
    # As it exports unless told otherwise: one image of one size.
    exported = YOLO(source).export(
        format="onnx", imgsz=SIDE, device="cpu", **({"nms": True, "conf": 0.001, "iou": 0.7} if nms else {})
    )

    ours = ModelEvaluator(models.pt, yolo_folder).evaluate()
    theirs = ModelEvaluator(exported, yolo_folder).evaluate()

    assert theirs.metrics["map"] == pytest.approx(ours.metrics["map"], abs=0.01)
    assert theirs.metrics["recall"] == pytest.approx(ours.metrics["recall"], abs=0.03)


def test_official_weights_are_meant_by_their_name_where_there_is_no_such_file(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    kept = tmp_path / "home" / "cache" / "weights" / "yolov8n.pt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(models.pt.read_bytes())

    assert open_model("yolov8n.pt").classes == CLASSES
    with pytest.raises(NotFound, match=r"no model 'weights/yolov8n\.pt'"):
        open_model("weights/yolov8n.pt")
