"""Gathers what the demo's loop left behind into the report; every number is read from a record, none is made here."""

import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import psutil
from prefect import task
from prefect.artifacts import create_link_artifact

from retrain.data_collection.triggers.crossings import Crossing
from retrain.evaluation.comparator import Comparison as Compared
from retrain.monitoring import report as page
from retrain.monitoring.page import publish
from retrain.simulation.traffic import FLEET
from retrain.storage.local_blobs import LocalBlobs
from tasks.cycle_watch import CycleWatch, FlowRunFacts
from tasks.demo_frames import DRAWN, DRIFT_WORDS, camera_looks, frame_pairs
from tasks.demo_labels import label_facts
from tasks.production import Observation, rolling
from tasks.proofs import Proof
from tasks.resources import PRODUCTION_START, Resources
from tasks.retrying import RETRYING

_WINDOW = 15
_LIBRARIES = ("retrain", "prefect", "torch", "lightning", "ultralytics", "mlflow", "dvc")


@dataclass(frozen=True)
class DemoFacts:
    """What the demo flow observed of its own run."""

    started_at: float
    first: Mapping[str, Any]
    crossing: Crossing
    run: FlowRunFacts
    watch: CycleWatch
    observations: Sequence[Observation]
    scores: Mapping[str, Mapping[str, Compared]]
    serving: str
    steps: Sequence[page.Stage]
    proofs: Mapping[str, Proof]

    @property
    def before(self) -> str:
        return str(self.first["release"]["digest"])

    @property
    def after(self) -> str | None:
        release = self.watch.outcome.get("release")
        return None if release is None else str(release["digest"])

    def gate_reasons(self) -> Sequence[str]:
        return tuple(self.watch.outcome.get("gate", {}).get("reasons", ()))

    def all_stages(self) -> list[page.Stage]:
        """The demo's own steps and the cycle's stages, by start."""
        cycle = [
            page.Stage(
                record.stage,
                "worker",
                record.started_at,
                record.finished_at,
                self.proof_of(record.stage),
            )
            for record in self.watch.stages()
        ]
        return sorted([*self.steps, *cycle], key=lambda stage: stage.started_at)

    def proof_of(self, stage: str) -> str | None:
        """What was read back for a stage of the cycle after it ended; None when its record did not hold."""
        found = self.proofs.get(stage)
        return found.said if found is not None and found.holds else None

    def ledger_verified(self) -> bool:
        return self.watch.resources.ledger.verify().intact


@task(name="write report", timeout_seconds=600, **RETRYING)
def write_report(resources: Resources, facts: DemoFacts) -> tuple[str, str]:
    """Publish the report as JSON and HTML, read both back, and return their paths."""
    folder = resources.home / "report"
    publish(build_report(resources, facts), LocalBlobs(folder), "report")
    create_link_artifact((folder / "report.html").as_uri(), "the demo's report", key="report")
    return str(folder / "report.json"), str(folder / "report.html")


def build_report(resources: Resources, facts: DemoFacts) -> page.LoopReport:
    """The report as plain values."""
    outcome = facts.watch.outcome
    stages = facts.all_stages()
    return page.LoopReport(
        model=resources.model,
        outcome="promoted" if facts.watch.status == "promoted" else "kept_champion",
        reason=" ".join(facts.gate_reasons()),
        started_at=facts.started_at,
        finished_at=max(stage.finished_at for stage in stages),
        before=_model("v1", facts.first["release"], facts.first["version"]["name"]),
        after=None if facts.after is None else _model("v2", outcome["release"], outcome["version"]),
        serving_digest=facts.serving,
        classes=resources.config.model.classes,
        scores=tuple(_slice(name, metrics) for name, metrics in facts.scores.items()),
        incident=_incident(resources, facts),
        frame_pairs=tuple(frame_pairs(resources, facts.before, facts.after)),
        drawn_confidence=DRAWN,
        cameras=tuple(camera_looks(resources)),
        training=tuple(_curves(resources, facts)),
        labels=label_facts(resources, facts.watch.cycle_id),
        stages=tuple(stages),
        reaction=_reaction(facts),
        dataset=_dataset(facts),
        ledger=_ledger(resources),
        links=tuple(_links(resources, facts)),
        opening=f"`RETRAIN_HOME={resources.home} retrain up` starts the servers again.",
        system=_system(),
    )


def _model(label: str, release: Mapping[str, Any], dataset: str) -> page.ModelVersion:
    return page.ModelVersion(label, release["digest"], str(release["model_version"]), dataset)


def _slice(name: str, metrics: Mapping[str, Compared]) -> page.SliceScores:
    titles = {
        "clean": ("clean", "clean cameras"),
        "drifted": ("drifted", "drifted cameras"),
        "blinding": ("other", "blind camera"),
    }
    kind, title = titles[name]
    any_metric = metrics["map50"]
    return page.SliceScores(
        kind,  # type: ignore[arg-type]
        title,
        any_metric.n_images,
        any_metric.n_groups,
        _comparison(metrics["map50"]),
        _comparison(metrics["map50_95"]),
    )


def _comparison(found: Compared) -> page.Comparison:
    interval = None
    if found.low == found.low:  # not NaN
        interval = page.Interval(found.difference, found.low, found.high, found.level)
    return page.Comparison(_number(found.champion), _number(found.challenger), interval, found.verdict)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _incident(resources: Resources, facts: DemoFacts) -> page.Incident:
    observed = list(facts.observations)
    crossed = [one.index for one in observed if one.at <= facts.crossing.crossed_at]
    switched = [one.index for one in observed if one.digest == facts.after]
    start = PRODUCTION_START
    series = tuple(
        page.CameraSeries(
            camera.id,
            DRIFT_WORDS.get(camera.drift.kind),
            None if camera.drift.kind == "none" else float(resources.config.simulation.drift_from),
            tuple((float(index - start), value) for index, value in rolling(observed, camera.id, _WINDOW)),
        )
        for camera in FLEET
    )
    return page.Incident(
        f"F1 against the simulator's truth, rolling over {_WINDOW} frames",
        "higher",
        "production frames per camera",
        float(max(crossed) - start) if crossed else None,
        float(min(switched) - start) if switched else None,
        series,
    )


def _curves(resources: Resources, facts: DemoFacts) -> list[page.TrainingCurve]:
    first = CycleWatch.of_first(resources)
    curves = []
    for title, which, watch in (("champion v1", "before", first), ("challenger v2", "after", facts.watch)):
        record = next((one for one in watch.stages() if one.stage == "train"), None)
        if record is None:
            continue
        points = tuple(
            page.EpochPoint(epoch["epoch"], epoch["map50"], dict(epoch["losses"]))
            for epoch in record.output["epochs"]
        )
        seconds = record.finished_at - record.started_at
        curves.append(page.TrainingCurve(title, which, seconds, record.output["train_images"], points))  # type: ignore[arg-type]
    return curves


def _reaction(facts: DemoFacts) -> tuple[page.Moment, ...]:
    ends = {record.stage: record for record in facts.watch.stages()}
    moments = [
        page.Moment("threshold crossed", facts.crossing.crossed_at, f"crossing {facts.crossing.id} stored"),
        page.Moment("event announced", facts.crossing.emitted_at, "handed to Prefect"),
        page.Moment("flow run created", facts.run.created_at, f"by automation {facts.run.created_by}"),
        page.Moment("flow run running", facts.run.started_at, f"flow run {facts.run.name}"),
    ]
    moments += [
        page.Moment(f"{name} done", ends[name].finished_at, facts.proof_of(name))
        for name in ("version", "train", "gate")
        if name in ends
    ]
    served = ends["promote"].output["served_at"] if "promote" in ends else None
    last = next((one.at for one in facts.observations if one.digest == facts.after), None)
    moments.append(page.Moment("new digest served", served, f"first frame answered by it at {_clock(last)}"))
    return tuple(moments)


def _clock(moment: float | None) -> str:
    import time

    return "an unknown time" if moment is None else time.strftime("%H:%M:%S UTC", time.gmtime(moment))


def _dataset(facts: DemoFacts) -> page.DatasetDiff | None:
    record = next((one for one in facts.watch.stages() if one.stage == "version"), None)
    if record is None:
        return None
    diff = record.output["diff"]
    return page.DatasetDiff(
        diff["before"],
        diff["after"],
        tuple(page.Count(name, *counts) for name, counts in diff["splits"].items()),
        tuple(page.Count(name, *counts) for name, counts in diff["classes"].items()),
        facts.proof_of("version"),
    )


def _ledger(resources: Resources) -> page.Ledger:
    entries = resources.ledger.entries(resources.model)
    check = resources.ledger.verify()
    return page.Ledger(
        tuple(
            page.LedgerEntry(
                entry.seq,
                entry.kind,
                entry.at,
                f"release {str(entry.payload['digest'])[:12]}",
                entry.previous_hash,
                entry.hash,
            )
            for entry in entries
        ),
        check.intact,
        f"all {len(entries)} hashes recomputed and equal" if check.intact else check.reason,
    )


def _links(resources: Resources, facts: DemoFacts) -> list[page.Link]:
    orchestration = resources.config.orchestration
    prefect = f"http://127.0.0.1:{orchestration.prefect_port}"
    mlflow = f"http://127.0.0.1:{orchestration.mlflow_port}"
    links = [page.Link("Prefect", facts.run.name, f"{prefect}/runs/flow-run/{facts.run.id}")]
    for title, watch in (("champion v1", CycleWatch.of_first(resources)), ("challenger v2", facts.watch)):
        record = next((one for one in watch.stages() if one.stage == "train"), None)
        if record is not None:
            run = record.output["run_id"]
            experiment = resources.tracker.experiment_id
            links.append(page.Link("MLflow", title, f"{mlflow}/#/experiments/{experiment}/runs/{run}"))
    datasets = resources.datasets_path
    links.append(page.Link("Dataset", "history of versions", f"git -C {datasets} log --oneline --decorate"))
    links.append(page.Link("State", "logs of the stack", str(resources.home / "logs")))
    return links


def _system() -> page.SystemFacts:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return page.SystemFacts(
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        platform.processor() or None,
        psutil.cpu_count(),
        psutil.virtual_memory().total,
        peak,
        {name: installed(name) for name in _LIBRARIES},
    )
