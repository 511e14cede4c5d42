"""From which confidence each class of a trained model is served: as configured, or fitted on the val split."""

from collections.abc import Mapping
from typing import Any

from prefect import task

from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.run import evaluate
from retrain.evaluation.served_confidence import ServedConfidence, plain
from retrain.evaluation.thresholds import Rule, fit_thresholds
from tasks.cycle import CycleWork
from tasks.evaluation_data import evaluation_file, judged_items
from tasks.retrying import RETRYING
from tasks.serving import model_folder

ON_VAL = "challenger_on_val"
"""What the stored evaluation is called that thresholds were fitted on."""
FEWEST = 20
"""Objects in val that a class needs for a threshold of its own; of fewer it would be luck."""


@task(name="fit thresholds", timeout_seconds=24 * 3600, **RETRYING)
def fit_serving_thresholds(
    work: CycleWork, version: Mapping[str, Any], training: Mapping[str, Any]
) -> ServedConfidence:
    """By class from what the model finds in val, where `evaluation.thresholds` is a rule; else the configured one."""
    settings = work.resources.config.evaluation
    rule = settings.thresholds
    if rule == "fixed":
        return settings.confidence

    def run() -> dict[str, Any]:
        from retrain.detector import Detector

        resources = work.resources
        items = judged_items(resources, version["name"], "val")
        classes = resources.config.model.classes
        fitted, own = dict.fromkeys(classes, settings.confidence), set[str]()
        if items:
            detector = Detector.load(model_folder(resources, training))
            evaluation = evaluate(detector.predict, items, classes, confidence=settings.confidence)
            evaluation.save(evaluation_file(resources, work.cycle.id, ON_VAL))
            fitted, own = fitted_confidences(evaluation, rule, settings.confidence)
        return {
            "rule": rule,
            "otherwise": settings.confidence,
            "images": len(items),
            "confidences": fitted,
            "own": [name for name in classes if name in own],
        }

    inputs = {"version": version["name"], "job": training["job_id"], "rule": rule}
    return plain(work.cycle.stage("thresholds", inputs, run)["confidences"])


def fitted_confidences(
    evaluation: Evaluation, rule: Rule, otherwise: float
) -> tuple[dict[str, float], set[str]]:
    """By class, from an evaluation of val, and the classes that have one of their own.

    Args:
        otherwise: for all classes, where there is too little to fit on.
    """
    fitted = fit_thresholds(evaluation, "val")
    each = fitted.confidences(rule, fewest=FEWEST, otherwise=otherwise)
    return each, set(fitted.own(rule, fewest=FEWEST))
