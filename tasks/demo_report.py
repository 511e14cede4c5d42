"""Gathers what the demo's loop left behind into the report; every number is read from a record, none is made here."""

import platform
import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import psutil
from prefect import task
from prefect.artifacts import create_link_artifact

from retrain.annotation.review import StoredAnnotation
from retrain.boxes import Annotations, Detections, iou_matrix
from retrain.data_collection.sample import DataSample
from retrain.data_collection.triggers import Crossing, cycle_samples
from retrain.evaluation.comparator import Comparison as Compared
from retrain.monitoring import report as page
from retrain.monitoring.page import publish
from retrain.simulation.traffic import FLEET, Frame
from retrain.storage.blobs import LocalBlobs
from tasks.cycle_watch import CycleWatch, FlowRunFacts
from tasks.production import Observation, rolling
from tasks.resources import PRODUCTION_START, Resources
from tasks.retrying import RETRYING
from tasks.simulation import heldout_frames

_WINDOW = 15
_PAIRS = 4
_DRAWN = 0.25
_LIBRARIES = ("retrain", "prefect", "torch", "lightning", "ultralytics", "mlflow", "dvc")
_DRIFT_WORDS = {"moderate": "low light, blur, part-inverted ink", "blinding": "inverted and very dark"}


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
                _proof(record.stage, record.output),
            )
            for record in self.watch.stages()
        ]
        return sorted([*self.steps, *cycle], key=lambda stage: stage.started_at)

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
        frame_pairs=tuple(_pairs(resources, facts)),
        drawn_confidence=_DRAWN,
        cameras=tuple(_looks(resources)),
        training=tuple(_curves(resources, facts)),
        labels=_labels(resources, facts.watch.cycle_id),
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
            _DRIFT_WORDS.get(camera.drift.kind),
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


def _pairs(resources: Resources, facts: DemoFacts) -> list[page.FramePair]:
    """Held-out drifted frames as both models see them, one camera after the other."""
    if facts.after is None:
        return []
    from retrain.detector import Detector

    frames = heldout_frames(resources)["drifted"][:_PAIRS]
    images = [frame.image for frame in frames]
    before, after = (
        Detector.load(resources.releases.fetch(digest)).predict(images, confidence=_DRAWN)
        for digest in (facts.before, facts.after)
    )
    return [
        page.FramePair(
            frame.camera,
            f"held-out frame of {frame.camera}",
            page.Picture.of(frame.image),
            frame.annotations,
            first,
            second,
        )
        for frame, first, second in zip(frames, before, after, strict=True)
    ]


def _looks(resources: Resources) -> list[page.CameraLook]:
    drift_from = PRODUCTION_START + resources.config.simulation.drift_from

    def pictures(camera: str, indices: Sequence[int]) -> tuple[page.Picture, ...]:
        frames: list[Frame] = [resources.traffic.frame(camera, index) for index in indices]
        return tuple(page.Picture.of(frame.image) for frame in frames)

    return [
        page.CameraLook(
            camera.id,
            _DRIFT_WORDS.get(camera.drift.kind),
            pictures(camera.id, (0, 11)),
            pictures(camera.id, (drift_from, drift_from + 11)) if camera.drift.kind != "none" else (),
        )
        for camera in FLEET
    ]


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


def _labels(resources: Resources, cycle_id: str) -> page.Labels:
    samples = cycle_samples(resources.state, cycle_id)
    stored = resources.annotations.load(cycle_id)
    cameras = sorted({sample.camera for sample in samples})
    return page.Labels(
        _label_counts(samples, stored),
        tuple(
            page.CameraLabels(name, _label_counts([one for one in samples if one.camera == name], stored))
            for name in cameras
        ),
        tuple(_quality(resources, samples, stored, source) for source in ("auto", "human")),
    )


def _label_counts(samples: Sequence[DataSample], stored: Mapping[str, StoredAnnotation]) -> page.LabelCounts:
    sources = Counter(stored[sample.id].source for sample in samples if sample.id in stored)
    labelled = sources["auto"] + sources["human"]
    return page.LabelCounts(len(samples), sources["auto"], sources["human"], len(samples) - labelled)


def _quality(
    resources: Resources, samples: Sequence[DataSample], stored: Mapping[str, StoredAnnotation], source: str
) -> page.LabelQuality:
    """Labels of one source against the truth that only the simulation knows."""
    overlaps: list[float] = []
    drawn = true = 0
    for sample in samples:
        if sample.id in stored and stored[sample.id].source == source:
            truth = resources.traffic.frame(sample.camera, sample.metadata["frame_index"]).annotations
            label = stored[sample.id].annotations
            drawn, true = drawn + len(label), true + len(truth)
            overlaps += _matched(label, truth)
    return page.LabelQuality(
        source,
        drawn,
        len(overlaps) / drawn if drawn else None,
        len(overlaps) / true if true else None,
        float(np.mean(overlaps)) if overlaps else None,
    )


def _matched(label: Annotations | Detections, truth: Annotations) -> list[float]:
    """IoU of each label with the free true box of its class it covers best, at IoU 0.5 or more."""
    overlap = iou_matrix(label.boxes, truth.boxes)
    overlap[label.classes[:, None] != truth.classes[None, :]] = 0.0
    found = []
    for row in range(len(label)):
        if len(truth) and (best := float(overlap[row].max())) >= 0.5:
            overlap[:, int(overlap[row].argmax())] = 0.0
            found.append(best)
    return found


def _reaction(facts: DemoFacts) -> tuple[page.Moment, ...]:
    ends = {record.stage: record for record in facts.watch.stages()}
    moments = [
        page.Moment("threshold crossed", facts.crossing.crossed_at, f"crossing {facts.crossing.id} stored"),
        page.Moment("event announced", facts.crossing.emitted_at, "handed to Prefect"),
        page.Moment("flow run created", facts.run.created_at, f"by automation {facts.run.created_by}"),
        page.Moment("flow run running", facts.run.started_at, f"flow run {facts.run.name}"),
    ]
    moments += [
        page.Moment(f"{name} done", ends[name].finished_at, _proof(name, ends[name].output))
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


def _proof(stage: str, output: Mapping[str, Any]) -> str:
    """What the stage read back before it was recorded, in one line."""
    match stage:
        case "plan":
            return f"champion {output['champion'][:12]} on {output['parent_version']}; next is {output['version']}"
        case "select":
            return f"{len(output['sample_ids'])} samples claimed by this cycle alone"
        case "annotate":
            return f"{len(output['auto'])} auto, {len(output['human'])} by hand, {len(output['left_out'])} left out"
        case "version":
            return f"tag {output['name']} holds digest {output['digest'][:12]}, every image re-hashed"
        case "layout":
            return f"{len(output['train'])} training folders and validation, complete"
        case "train":
            return f"weights {output['weights_sha256'][:12]} loaded again, best epoch {output['best_epoch']}"
        case "evaluate":
            return "; ".join(
                f"{name}: {one['champion']:.3f} → {one['challenger']:.3f}" for name, one in output.items()
            )
        case "gate":
            return f"{output['verdict']}: {output['reasons'][0]}"
        case "register":
            return f"release {output['digest'][:12]} read back, model version {output['model_version']}"
        case "promote":
            return f"{', '.join(output['replicas'])} acknowledged {output['digest'][:12]}; alias champion read back"
        case _:
            return ""


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
        _proof("version", record.output),
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
