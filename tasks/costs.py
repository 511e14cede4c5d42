"""Measures what a policy limits: how large the weights of champion and challenger are, and how long they take."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from retrain.evaluation.costs import LATENCY_RATIO, Costs
from retrain.evaluation.policy import GatePolicy
from retrain.evaluation.run import EvaluationItem
from retrain.evaluation.speed import SpeedPlan, Stepwise, measure_speed

PLAN = SpeedPlan(batch_sizes=(1,), batch_rounds=1)
"""Throughput of batches is no part of a limit."""


def measure_costs(
    folders: Mapping[str, Path], items: Sequence[EvaluationItem], policy: GatePolicy, confidence: float
) -> Costs:
    """Of the models in the folders `champion` and `challenger`; times only where the policy limits them.

    Args:
        confidence: from which boxes are served; fewer cost less.
    """
    sizes = (weights_bytes(folders["champion"]), weights_bytes(folders["challenger"]))
    if LATENCY_RATIO not in policy.asked_limits:
        return Costs(sizes)
    from retrain.detector import Detector

    plan = replace(PLAN, confidence=confidence)
    models: dict[str, Stepwise] = {who: Detector.load(folder) for who, folder in folders.items()}
    # Reading and decoding cost both the same, and would hide how much slower the challenger is.
    images = [item.load() for item in islice(items, plan.images)]
    loads = [lambda image=image: image for image in images]  # type: ignore[misc]
    reports = measure_speed(models, loads, plan, runtimes=dict.fromkeys(models, "torch"))
    champion, challenger = reports["champion"], reports["challenger"]
    conditions = {
        "device": champion.device,
        "imgsz": {"champion": champion.imgsz, "challenger": challenger.imgsz},
        "plan": asdict(plan),
        "machine": asdict(champion.machine),
    }
    return Costs(sizes, (champion.each_ms, challenger.each_ms), conditions)


def weights_bytes(model_folder: Path) -> int:
    return (model_folder / "weights.safetensors").stat().st_size
