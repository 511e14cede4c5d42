"""Publishes champion and challenger beside each other, for whoever looks at a cycle's decision."""

from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from retrain.errors import StorageFull, Unavailable
from retrain.evaluation.gate import GateDecision
from retrain.evaluation.policy import GatePolicy
from retrain.evaluation.result import EvaluationResult, Served
from retrain.storage.files import write_whole
from tasks.cycle import CycleWork
from tasks.evaluation_data import judged_items, saved_evaluation
from tasks.retrying import RETRYING

SHARED_PAGE = "evaluation_without_pictures.html"
"""What the page is called in MLflow. Pictures stay in the home folder, where `retrain collect forget` finds them."""
_DIGEST_OF = {"champion": "release", "challenger": "weights"}


@task(name="report", timeout_seconds=1800, **RETRYING)
def report_evaluation(
    work: CycleWork,
    plan: Mapping[str, Any],
    version: Mapping[str, Any],
    training: Mapping[str, Any],
    decided: Mapping[str, Any],
) -> Mapping[str, Any]:
    """A page under the cycle's folder, and the same without pictures of images in MLflow.

    A page that cannot be drawn stops no cycle: the reason is logged, recorded, and shown with the gate's verdict.

    Args:
        decided: what the stage `gate` recorded.
    """

    def run() -> dict[str, Any]:
        resources, decision = work.resources, GateDecision.from_json(decided)
        page = resources.evaluation_page(work.cycle.id)
        try:
            with_pictures, without = _drawn(work, plan, version, training, decided)
        except (Unavailable, StorageFull):
            # Of the surroundings, not of the drawing: the next attempt may find them mended.
            raise
        except Exception as error:
            get_run_logger().exception("The page of cycle %s could not be drawn.", work.cycle.id)
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            show_decision(decision, f"The page could not be drawn: {problem}")
            return {"page": None, "problem": problem}
        write_whole(page, with_pictures)
        write_whole(page.with_name(SHARED_PAGE), without)
        resources.tracker.run(training["run_id"]).log_artifact(page.with_name(SHARED_PAGE))
        show_decision(decision, f"The whole evaluation: `{page}`")
        return {"page": str(page.relative_to(resources.home)), "problem": None}

    inputs = {"version": version["name"], "job": training["job_id"], "gate": dict(decided)}
    return work.cycle.stage("report", inputs, run)


def show_decision(decision: GateDecision, page: str | None = None) -> None:
    """Verdict and rules as a Prefect artifact.

    Args:
        page: where the page is, or why there is none; unset, it is not drawn yet.
    """
    create_markdown_artifact(key="gate", markdown=_markdown(decision, page))


def _drawn(
    work: CycleWork,
    plan: Mapping[str, Any],
    version: Mapping[str, Any],
    training: Mapping[str, Any],
    decided: Mapping[str, Any],
) -> tuple[bytes, bytes]:
    """With pictures of images, and without."""
    # Drawing takes matplotlib, which most tasks do without.
    from retrain.evaluation.report.page import ReportPage

    resources, settings = work.resources, work.resources.config.evaluation
    policy = GatePolicy.of(decided["policy"], "the recorded policy") if "policy" in decided else None
    digests = {"champion": plan["champion"], "challenger": training["weights_sha256"]}
    fitted = settings.thresholds != "fixed"
    origins = {
        "champion": "its release",
        "challenger": "thresholds fitted on val" if fitted else "evaluation.confidence",
    }
    pair = {who: saved_evaluation(resources, work.cycle.id, who) for who in digests}
    champion, challenger = (
        EvaluationResult(
            model=f"{who} ({_DIGEST_OF[who]} {digests[who][:12]})",
            digest=digests[who],
            runtime=evaluation.protocol.runtime,
            imgsz=evaluation.protocol.image_size,
            data=f"{version['name']}/test",
            evaluation=evaluation,
            asked=(),
            served=Served(evaluation.confidence, origins[who]),
        )
        for who, evaluation in pair.items()
    )
    load = {item.image_id: item.load for item in judged_items(resources, version["name"])}
    intervals = policy or settings
    page = ReportPage(
        challenger,
        champion,
        GateDecision.from_json(decided),
        resamples=intervals.resamples,
        level=intervals.level,
    )
    return page.html(lambda image: load[image]()).encode(), page.html(None).encode()


def _markdown(decision: GateDecision, page: str | None) -> str:
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
            *(() if page is None else ("", page)),
        ]
    )


def _cell(text: str) -> str:
    """In one cell, whatever a slice is called."""
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
