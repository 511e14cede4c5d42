"""COCO results in the place of a model, against pycocotools on the same files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retrain.detector import Detector
from retrain.errors import BadInput, ConfigError
from retrain.evaluation.coco import NUMBERS
from retrain.evaluation.evaluator import ModelEvaluator
from retrain.evaluation.labelled_data import open_data
from retrain.evaluation.matching import IOU_THRESHOLDS
from tests.integration.evaluation.conftest import Models


def by_pycocotools(truth: Path, predictions: Path) -> np.ndarray:
    """Its twelve numbers; NaN where it says -1."""
    labels = COCO(truth)
    run = COCOeval(labels, labels.loadRes(str(predictions)), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return np.where(run.stats > -1, run.stats, np.nan)


def write_exact(folder: Path, seed: int) -> tuple[Path, Path]:
    """Labels and results whose boxes have one to three decimals, and whose overlaps are thresholds or nearly so.

    One of the two boxes of a pair is the share `t` of the other in one direction, so that their IoU is `t` but for
    rounding.
    """
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image in range(1, 9):
        name = f"{image:04}.png"
        images.append({"id": image, "file_name": name, "width": 400, "height": 400})
        Image.new("L", (400, 400)).save(folder / name)
        for _ in range(rng.integers(1, 6)):
            corner = rng.integers(0, 2000, 2) / 10
            whole = rng.integers(20, rng.choice([300, 2000]), 2) / 10
            share = whole.copy()
            share[rng.integers(2)] *= rng.choice(IOU_THRESHOLDS)
            pair = [[*corner.tolist(), *size.round(3).tolist()] for size in (whole, share)]
            true, found = pair if rng.random() < 0.5 else pair[::-1]
            label = int(rng.integers(1, 4))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": true,
                    "area": true[2] * true[3],
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            made = (found, true)[: rng.integers(1, 3)]
            results += [{"image_id": image, "category_id": label, "bbox": each} for each in made]
    # Equal scores would be put in an order of our own.
    for result, score in zip(results, rng.permutation(len(results)), strict=True):
        result["score"] = (1 + int(score)) / (1 + len(results))
    categories = [{"id": index, "name": str(index)} for index in range(1, 4)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "found.json").write_text(json.dumps(results))
    return folder / "truth.json", folder / "found.json"


@pytest.mark.parametrize("seed", range(12))
def test_overlaps_that_meet_a_threshold_to_the_last_bit_fall_on_the_side_they_do_in_pycocotools(
    seed: int, tmp_path: Path
) -> None:
    truth, found = write_exact(tmp_path, seed)

    coco = ModelEvaluator(found, truth).evaluate().evaluation.summary.coco

    expected = dict(zip(NUMBERS, by_pycocotools(truth, found), strict=True))
    assert coco == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 0.2 < coco["map50_95"] < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_in_several_images_count_in_the_order_of_the_files_ids(
    seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    # Ids count to two digits, and the names go the other way.
    images = [{"id": number, "file_name": f"{50 - number}.png"} for number in range(1, 25)]
    for image in images:
        Image.new("L", (100, 100)).save(tmp_path / str(image["file_name"]))
    box, elsewhere = [10, 10, 30, 30], [60, 60, 30, 30]
    keys = [image["id"] for image in images]
    annotations = [
        {"id": key, "image_id": key, "category_id": 1, "bbox": box, "area": 900, "iscrowd": 0} for key in keys
    ]
    results = [
        {"image_id": key, "category_id": 1, "bbox": box if right else elsewhere, "score": score}
        for key, right, score in zip(keys, rng.random(24) < 0.5, rng.choice([0.4, 0.5], 24), strict=True)
    ]
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    categories = [{"id": 1, "name": "a"}]
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    found.write_text(json.dumps(results))

    one = ModelEvaluator(found, truth).evaluate()
    found.write_text(json.dumps(results[::-1]))
    again = ModelEvaluator(found, truth).evaluate()

    expected = dict(zip(NUMBERS, by_pycocotools(truth, found), strict=True))
    assert one.evaluation.summary.coco == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert again.evaluation.summary.to_json() == one.evaluation.summary.to_json()


def test_it_is_pycocotools_own_number_crowds_and_stated_areas_included(
    models: Models, coco_folder: Path, tmp_path: Path
) -> None:
    file = coco_folder / "annotations" / "instances_test.json"
    result = ModelEvaluator(models.folder, file, ["map", "map_small"]).evaluate()
    truth = COCO(file)
    by_name = {entry["file_name"]: entry["id"] for entry in truth.imgs.values()}
    entries = []
    for item in open_data(file).items:
        found = Detector.load(models.folder).predict([item.load()])[0]
        for box, label, score in zip(found.boxes, found.classes, found.scores, strict=True):
            bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            entries.append(
                {
                    "image_id": by_name[Path(item.image_id).name],
                    "category_id": 10 * (int(label) + 1),
                    "bbox": bbox,
                    "score": float(score),
                }
            )
    (tmp_path / "predictions.json").write_text(json.dumps(entries))
    stats = by_pycocotools(file, tmp_path / "predictions.json")
    assert any(entry["iscrowd"] for entry in truth.anns.values())

    of_file = ModelEvaluator(tmp_path / "predictions.json", file, ["map", "map_small"]).evaluate()

    for each in (result, of_file):
        assert each.metrics["map"] == pytest.approx(stats[0], abs=1e-9)
        assert each.metrics["map_small"] == pytest.approx(stats[3], abs=1e-9)


def test_data_without_any_class_is_refused(coco_folder: Path, tmp_path: Path) -> None:
    content = json.loads((coco_folder / "annotations" / "instances_test.json").read_text())
    (tmp_path / "truth.json").write_text(json.dumps({**content, "annotations": [], "categories": []}))
    (tmp_path / "found.json").write_text("[]")

    with pytest.raises(BadInput, match="There are no classes"):
        ModelEvaluator(
            tmp_path / "found.json", tmp_path / "truth.json", images=coco_folder / "test"
        ).evaluate()


def test_predictions_of_unknown_images_and_categories_are_named(
    models: Models, coco_folder: Path, tmp_path: Path
) -> None:
    entry = {"image_id": 100, "category_id": 10, "bbox": [0, 0, 5, 5], "score": 0.5}
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps([entry, {**entry, "image_id": 7}, {**entry, "category_id": 99}]))

    with pytest.raises(BadInput, match=r"1 images that are not in .*: 7; and 1 unknown categories: 99"):
        ModelEvaluator(file, coco_folder).evaluate()
    for text in ("[", "{}", json.dumps([{**entry, "score": "high"}])):
        file.write_text(text)
        with pytest.raises(BadInput, match="COCO results"):
            ModelEvaluator(file, coco_folder).evaluate()
    with pytest.raises(ConfigError, match="has no speed"):
        ModelEvaluator(models.folder, coco_folder, ["speed"]).compare_models([models.folder, file])
    file.write_text(json.dumps([{**entry, "score": 1.5}]))
    with pytest.raises(BadInput, match=r"entry 0 needs a bbox .* and 1\.5"):
        ModelEvaluator(file, coco_folder).evaluate()
