"""Publishes champion and challenger beside each other, for whoever looks at a cycle's decision."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from prefect.artifacts import create_markdown_artifact

from retrain.evaluation.gate import GateDecision
from retrain.evaluation.result import EvaluationResult, Served
from retrain.storage.files import write_whole
from tasks.cycle import CycleWork
from tasks.evaluation_data import judged_items, saved_evaluation

_ORIGIN = {"champion": "its release", "challenger": "the cycle's configuration or val"}
_SHARED = "evaluation_without_pictures.html"


class HasIntervals(Protocol):
    """A policy, or the section `evaluation`."""

    @property
    def level(self) -> float: ...
    @property
    def resamples(self) -> int: ...


def publish_evaluation(
    work: CycleWork,
    decision: GateDecision,
    plan: Mapping[str, Any],
    version: Mapping[str, Any],
    training: Mapping[str, Any],
    intervals: HasIntervals,
) -> str:
    """A page under the cycle's folder, the same without pictures of images in MLflow, and a Prefect artifact.

    Pictures stay in the home folder, where `retrain collect forget` finds them.

    Returns:
        The page, as seen from the home folder.
    """
    # Drawing takes matplotlib, which most tasks do without.
    from retrain.evaluation.report.page import report_page

    resources = work.resources
    digests = {"champion": plan["champion"], "challenger": training["weights_sha256"]}
    pair = {who: saved_evaluation(resources, work.cycle.id, who) for who in digests}
    champion, challenger = (
        EvaluationResult(
            model=f"{who} {digests[who][:12]}",
            digest=digests[who],
            runtime=evaluation.protocol.runtime,
            imgsz=evaluation.protocol.image_size,
            data=f"{version['name']}/test",
            evaluation=evaluation,
            asked=(),
            served=Served(evaluation.confidence, _ORIGIN[who]),
        )
        for who, evaluation in pair.items()
    )
    load = {item.image_id: item.load for item in judged_items(resources, version["name"])}
    page = resources.evaluation_page(work.cycle.id)
    draw = partial(
        report_page,
        challenger,
        before=champion,
        decision=decision,
        resamples=intervals.resamples,
        level=intervals.level,
    )
    write_whole(page, draw(lambda image: load[image]()).encode())
    write_whole(page.with_name(_SHARED), draw(None).encode())
    resources.tracker.run(training["run_id"]).log_artifact(page.with_name(_SHARED))
    create_markdown_artifact(key="gate", markdown=_markdown(decision, str(page)))
    return str(page.relative_to(resources.home))


def _markdown(decision: GateDecision, page: str) -> str:
    rows = [
        f"| {_cell(rule.rule)} | {rule.verdict} | {_number(rule.value)} "
        f"| {_number(rule.low)} to {_number(rule.high)} | {_number(rule.limit)} |"
        for rule in decision.rules
    ]
    return "\n".join(
        [
            f"## {decision.verdict}",
            "",
            "| rule | outcome | value | interval | limit |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *(f"- {' '.join(reason.split())}" for reason in decision.reasons),
            "",
            f"The whole evaluation: `{page}`",
        ]
    )


def _cell(text: str) -> str:
    """In one cell, whatever a slice is called."""
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
