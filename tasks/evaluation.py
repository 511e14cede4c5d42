"""Evaluates champion and challenger on the same images and asks the gate."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from prefect import task
from prefect.artifacts import create_image_artifact, create_table_artifact

from retrain.boxes import IntArray
from retrain.evaluation.comparator import Comparison, compare
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.gate import decide
from retrain.evaluation.run import EvaluationItem, evaluate
from retrain.evaluation.served_confidence import ServedConfidence, lowest, plain
from retrain.serving.release import read_release
from tasks.costs import measure_costs
from tasks.cycle import CycleWork
from tasks.evaluation_data import COSTS, evaluation_file, judged_items, test_slices
from tasks.evaluation_report import show_decision
from tasks.gate_evidence import EvaluatedCycle
from tasks.gate_rules import NEW, gate_policy, own_policy
from tasks.retrying import RETRYING
from tasks.serving import model_folder

_DRAWN = 0.25


@task(name="evaluate", timeout_seconds=24 * 3600, **RETRYING)
def evaluate_models(
    work: CycleWork,
    plan: Mapping[str, Any],
    version: Mapping[str, Any],
    training: Mapping[str, Any],
    confidence: ServedConfidence,
) -> Mapping[str, Any]:
    """Both models on the version's test split, compared per slice with an interval; and what a policy limits.

    Args:
        confidence: from which the challenger would be served; that of the champion is in its release.
    """
    policy = own_policy(work.resources.config)

    def run() -> dict[str, Any]:
        resources, settings = work.resources, work.resources.config.evaluation
        slices = test_slices(resources, version["name"], plan["known_version"])
        items = judged_items(resources, version["name"])
        folders = {
            "champion": resources.releases.fetch(plan["champion"]),
            "challenger": model_folder(resources, training),
        }
        served = {"champion": plain(read_release(folders["champion"]).thresholds), "challenger": confidence}
        results = {name: _evaluate(work, folder, items, served[name]) for name, folder in folders.items()}
        for name, result in results.items():
            result.save(evaluation_file(resources, work.cycle.id, name))
        comparisons = {
            name: compare(
                results["champion"].only(ids),
                results["challenger"].only(ids),
                resamples=settings.resamples,
                level=settings.level,
            )
            for name, ids in slices.items()
            if ids  # the gate calls a missing slice what it is: nothing to judge by
        }
        _show(comparisons)
        told_apart = _most_different(results, slices[NEW])
        _show_example([item for item in items if item.image_id == told_apart], folders)
        output: dict[str, Any] = {name: one.to_json() for name, one in comparisons.items()}
        if policy is not None and policy.asked_limits:
            costs = measure_costs(folders, items, policy, min(map(lowest, served.values())))
            output[COSTS] = costs.to_json(policy.level)
        return output

    inputs: dict[str, Any] = {
        "version": version["name"],
        "champion": plan["champion"],
        "job": training["job_id"],
    }
    if isinstance(confidence, Mapping):
        inputs["served"] = dict(confidence)
    if policy is not None and policy.asked_limits:
        inputs["limits"] = list(policy.asked_limits)
    return work.cycle.stage("evaluate", inputs, run)


@task(name="gate", timeout_seconds=1800, **RETRYING)
def gate(
    work: CycleWork,
    plan: Mapping[str, Any],
    version: Mapping[str, Any],
    comparisons: Mapping[str, Any],
) -> Mapping[str, Any]:
    """May the challenger become champion, by the policy of the user or our own two rules?"""
    policy, settings = own_policy(work.resources.config), work.resources.config.evaluation
    rules = {"margin": settings.margin} if policy is None else {"policy": policy.to_json()}

    def run() -> dict[str, Any]:
        cycle = EvaluatedCycle(
            work.resources, work.cycle.id, version["name"], plan["known_version"], comparisons
        )
        if policy is None:
            decision = decide(cycle.compared(), gate_policy(settings.margin))
        else:
            decision = decide(cycle.gathered(policy), policy)
        show_decision(decision)
        return {**decision.to_json(), **rules, "learnt_images": len(cycle.learnt.ids)}

    # The margin is part of the cycle's configuration, which may not change; what is in the policy's file may.
    inputs = {"comparisons": dict(comparisons)} | ({} if policy is None else rules)
    return work.cycle.stage("gate", inputs, run)


def _evaluate(
    work: CycleWork, folder: Any, items: list[EvaluationItem], confidence: ServedConfidence
) -> Evaluation:
    from retrain.detector import Detector

    classes = work.resources.config.model.classes
    return evaluate(Detector.load(folder).predict, items, classes, confidence=confidence)


def _most_different(results: Mapping[str, Evaluation], ids: list[str]) -> str | None:
    """The image on which the challenger finds most that the champion does not; None without images."""
    if not ids:
        return None
    found = {
        who: dict(zip(one.truth.images, _found(one).tolist(), strict=True)) for who, one in results.items()
    }
    return max(ids, key=lambda image: found["challenger"][image] - found["champion"][image])


def _found(evaluation: Evaluation) -> IntArray:
    """Objects of each image found at IoU 0.5 by the boxes that are drawn, shape (images,)."""
    predictions = evaluation.predictions
    right = evaluation.matches.hits[:, 0] & (predictions.scores >= _DRAWN)
    return np.bincount(predictions.image[right], minlength=len(evaluation.truth.images))


def _show_example(items: list[EvaluationItem], folders: Mapping[str, Any]) -> None:
    """One new frame as champion (left) and challenger (right) see it, as a Prefect artifact."""
    from retrain.detector import Detector

    for item in items:
        pixels = item.load()
        height, width = pixels.shape[:2]
        sheet = Image.new("RGB", (2 * width, height))
        for column, folder in enumerate(folders.values()):
            frame = Image.fromarray(pixels)
            draw = ImageDraw.Draw(frame)
            found = Detector.load(folder).predict([pixels], confidence=_DRAWN)[0]
            for box, label in zip(found.boxes.tolist(), found.classes.tolist(), strict=True):
                draw.rectangle(box, outline=(64, 220, 120))
                draw.text((box[0] + 2, box[1]), str(label), fill=(64, 220, 120))
            sheet.paste(frame, (column * width, 0))
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        create_image_artifact(
            address, key="champion-and-challenger-frame", description="champion left, challenger right"
        )


def _show(comparisons: Mapping[str, Comparison]) -> None:
    create_table_artifact(
        key="champion-and-challenger",
        table=[
            {
                "slice": name,
                "champion mAP50": round(c.champion, 4),
                "challenger mAP50": round(c.challenger, 4),
                "difference": round(c.difference, 4),
                "interval": f"[{c.low:.4f}, {c.high:.4f}]",
                "images": c.n_images,
                "recordings": c.n_groups,
                "verdict": c.verdict,
            }
            for name, c in comparisons.items()
        ],
        description="Paired bootstrap over recordings.",
    )
