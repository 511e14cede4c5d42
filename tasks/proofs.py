"""Checks the record of every finished stage against the world again, long after the stage read back its own effect."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.cycle import CycleRecord, StageRecord, read_cycle, required_stages, stage_records
from retrain.data_collection.forgetting.tombstones import deleted_on_purpose, forgotten_samples
from retrain.data_collection.sample import SampleKey
from retrain.data_collection.triggers.crossings import cycle_samples
from retrain.dataset.history.forgotten import ForgottenImages
from retrain.dataset.reading.materialise import is_complete
from retrain.dataset.reading.selection import count_selected
from retrain.errors import NotFound, PostConditionFailed, RetrainError
from retrain.evaluation.change import Comparison
from retrain.evaluation.comparator import compare
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.evidence import Evidence
from retrain.evaluation.gate import GateDecision, decide
from retrain.evaluation.policy import GatePolicy
from retrain.evaluation.served_confidence import plain, shown_confidence
from tasks.costs import weights_bytes
from tasks.evaluation_data import COSTS, recorded_comparisons, recorded_costs, saved_evaluation, test_slices
from tasks.evaluation_report import SHARED_PAGE
from tasks.gate_evidence import EvaluatedCycle
from tasks.gate_rules import gate_policy
from tasks.resources import Resources
from tasks.thresholds import ON_VAL, fitted_confidences


@dataclass(frozen=True)
class Proof:
    """What was found when a stage's record was compared with the world.

    Attributes:
        said: what was read, or what is wrong.
    """

    stage: str
    holds: bool
    said: str


@dataclass(frozen=True)
class _Recorded:
    """One stage's record and those of its cycle, with what is needed to look at the world."""

    resources: Resources
    cycle: CycleRecord
    outputs: Mapping[str, Mapping[str, Any]]
    stage: str

    @property
    def output(self) -> Mapping[str, Any]:
        return self.outputs[self.stage]

    @property
    def cycle_id(self) -> str:
        return self.cycle.id

    @property
    def gave_back(self) -> bool:
        """Whether its samples wait again, as `abandon_cycle` decides."""
        return self.cycle.status == "abandoned" and "version" not in self.outputs

    def deleted(self, recorded: Sequence[str], found: Collection[str]) -> set[str]:
        """Those of the recorded samples that need not be found, because they were deleted on purpose since."""
        deleted = deleted_on_purpose(self.resources.state, recorded)
        if self.gave_back:
            # They waited again, and retention leaves no tombstone of waiting samples.
            keys = [SampleKey(self.cycle.model, name) for name in recorded]
            deleted |= set(recorded) - {key.id for key in self.resources.samples.known(keys)}
        # A sample that retention deleted and that came again has a tombstone and is there.
        return deleted - set(found)


def prove_cycle(resources: Resources, cycle_id: str) -> list[Proof]:
    """Read back the effect of each stage that a cycle recorded, in the order they finished.

    Stages that it must have recorded to end as it says, and did not, come last.

    Raises:
        NotFound: no such cycle.
    """
    cycle = read_cycle(resources.state, cycle_id)
    return list(_proofs(resources, cycle, stage_records(resources.state, cycle_id)))


def _proofs(resources: Resources, cycle: CycleRecord, records: list[StageRecord]) -> Iterator[Proof]:
    outputs = {record.stage: record.output for record in records}
    for stage in outputs:
        if stage not in _CHECKS:
            yield Proof(stage, holds=False, said="there is no check for this stage")
            continue
        try:
            yield Proof(stage, holds=True, said=_CHECKS[stage](_Recorded(resources, cycle, outputs, stage)))
        except RetrainError as error:
            yield Proof(stage, holds=False, said=str(error))
    for stage in required_stages(cycle):
        if stage not in outputs:
            said = f"the cycle ended as {cycle.status} and has no record of this stage"
            yield Proof(stage, holds=False, said=said)


def _plan(recorded: _Recorded) -> str:
    plan, resources = recorded.output, recorded.resources
    lineage = resources.releases.open(plan["champion"]).lineage
    _same("the champion's dataset version", plan["known_version"], lineage.dataset_version)
    resources.datasets.get_version(plan["parent_version"])
    return f"champion {plan['champion'][:12]} learnt from {plan['known_version']}; next is {plan['version']}"


def _select(recorded: _Recorded) -> str:
    stored = [sample.id for sample in cycle_samples(recorded.resources.state, recorded.cycle_id)]
    claimed = recorded.output["sample_ids"]
    if recorded.gave_back:
        _same("the samples still claimed by the abandoned cycle", [], stored)
        return f"{len(claimed)} samples were claimed, and given back when the cycle was abandoned"
    deleted = recorded.deleted(claimed, stored)
    _same("the samples claimed", sorted(set(claimed) - deleted), sorted(stored))
    gone = f"; {len(deleted)} were deleted on purpose since" if deleted else ""
    return f"{len(stored)} samples are claimed by this cycle alone{gone}"


def _annotate(recorded: _Recorded) -> str:
    stored = recorded.resources.annotations.load(recorded.cycle_id)
    counts = {}
    for source in ("auto", "human"):
        found = sorted(name for name, label in stored.items() if label.source == source)
        labelled = recorded.output[source]
        deleted = recorded.deleted(labelled, found)
        _same(f"the samples labelled by {source}", sorted(set(labelled) - deleted), found)
        counts[source] = len(found)
    left = len(recorded.output["left_out"])
    return f"{counts['auto']} labels of the model, {counts['human']} of people are stored; {left} left out"


def _version(recorded: _Recorded) -> str:
    version = recorded.resources.datasets.verify(recorded.output["name"])
    _same(f"the digest at tag {version.name}", recorded.output["digest"], version.digest)
    left = len(recorded.output.get("left_out", ()))
    said = f"tag {version.name} holds digest {version.digest[:12]}, {len(version.items)} images re-hashed"
    return f"{said}; {left} left out" if left else said


def _layout(recorded: _Recorded) -> str:
    output = recorded.output
    places = [*output["train"], output["val"]]
    counts = {place: _laid_out(recorded.resources.home / place) for place in places}
    _same("the images laid out", output.get("images", counts), counts)
    *train, val = counts.values()
    return f"{sum(train)} training images in {len(train)} lists, {val} validation images"


def _laid_out(place: Path) -> int:
    """Number of images in a selection, or in a folder, as cycles had them before they trained from packs."""
    if not place.is_dir():
        return count_selected(place)
    if not is_complete(place):
        raise PostConditionFailed(
            f"{place} no longer holds all images and labels it was made with; the cache was cleaned since."
        )
    return sum(1 for _ in (place / "images").iterdir())


def _train(recorded: _Recorded) -> str:
    output, resources = recorded.output, recorded.resources
    weights = resources.home / output["model_folder"] / "weights.safetensors"
    if not weights.exists():
        raise NotFound(f"{weights} is gone.")
    with weights.open("rb") as file:
        _same(
            "the digest of the weights",
            output["weights_sha256"],
            hashlib.file_digest(file, "sha256").hexdigest(),
        )
    status = resources.tracker.run(output["run_id"]).status
    _same(f"the state of MLflow run {output['run_id']}", "FINISHED", status)
    weights_digest = output["weights_sha256"][:12]
    return f"weights hash to {weights_digest}; the MLflow run is finished; best epoch {output['best_epoch']}"


def _thresholds(recorded: _Recorded) -> str:
    output = recorded.output
    confidences, rule = output["confidences"], output["rule"]
    if not output["images"]:
        _same("the thresholds", dict.fromkeys(confidences, output["otherwise"]), confidences)
        return f"val has no image that people labelled; every class is served from {output['otherwise']:g}"
    evaluation = saved_evaluation(recorded.resources, recorded.cycle_id, ON_VAL)
    again, own = fitted_confidences(evaluation, rule, output["otherwise"])
    _same("the thresholds", confidences, again)
    return (
        f"fitted again by {rule} to the stored detections in val, equal: {shown_confidence(plain(again))}; "
        f"{len(own)} of {len(again)} classes have one of their own"
    )


def _evaluate(recorded: _Recorded) -> str:
    champion, challenger = (
        saved_evaluation(recorded.resources, recorded.cycle_id, who) for who in ("champion", "challenger")
    )
    if (fitted := recorded.outputs.get("thresholds")) is not None:
        release = recorded.resources.releases.open(recorded.outputs["plan"]["champion"])
        _same("what the champion is served from", plain(release.thresholds), champion.confidence)
        _same("what the challenger is served from", plain(fitted["confidences"]), challenger.confidence)
    plan, version = recorded.outputs["plan"], recorded.outputs["version"]
    slices = test_slices(recorded.resources, version["name"], plan["known_version"])
    comparisons = recorded_comparisons(recorded.output)
    for name, one in comparisons.items():
        again = _compared_again(champion, challenger, slices[name], one)
        _same(f"the comparison on {name}", one.to_json(), again.to_json())
    if (costs := recorded_costs(recorded.output)) is not None:
        _same("the bytes of the weights", list(costs.bytes), _weights_bytes(recorded))
        noted = recorded.output[COSTS]
        _same("what was measured", noted, costs.to_json(noted["level"]))
    return "computed again from the stored detections, equal: " + "; ".join(
        f"{name} {one.champion:.3f} → {one.challenger:.3f}" for name, one in comparisons.items()
    )


def _weights_bytes(recorded: _Recorded) -> list[int]:
    resources = recorded.resources
    champion = resources.releases.fetch(recorded.outputs["plan"]["champion"])
    challenger = resources.home / recorded.outputs["train"]["model_folder"]
    if not (challenger / "weights.safetensors").exists():
        raise NotFound(f"The weights in {challenger} are gone.")
    return [weights_bytes(champion), weights_bytes(challenger)]


def _compared_again(
    champion: Evaluation, challenger: Evaluation, ids: list[str], recorded: Comparison
) -> Comparison:
    return compare(
        champion.only(ids),
        challenger.only(ids),
        resamples=recorded.resamples,
        level=recorded.level,
        resampling=recorded.resampling,
    )


def _gate(recorded: _Recorded) -> str:
    output = recorded.output
    again = _decided_again(recorded)
    _same("the gate's decision", output["verdict"], again.verdict)
    if "policy" not in output:
        return f"decided again from the stored comparisons: {again.verdict}; {again.reasons[0]}"
    _same(
        "the gate's rules",
        [[rule["rule"], rule["verdict"]] for rule in output["rules"]],
        [[rule.rule, rule.verdict] for rule in again.rules],
    )
    return f"decided again by the recorded policy: {again.verdict}; {again.reasons[0]}"


def _decided_again(recorded: _Recorded) -> GateDecision:
    output, evaluated = recorded.output, recorded.outputs["evaluate"]
    version, known = recorded.outputs["version"]["name"], recorded.outputs["plan"]["known_version"]
    cycle = EvaluatedCycle(recorded.resources, recorded.cycle_id, version, known, evaluated)
    if "policy" in output:
        policy = GatePolicy.of(output["policy"], "the recorded policy")
        return decide(cycle.gathered(policy), policy)
    # Cycles did not always look at what the challenger had learnt from.
    evidence = (
        cycle.compared() if "learnt_images" in output else Evidence.of_slices(recorded_comparisons(evaluated))
    )
    return decide(evidence, gate_policy(output["margin"]))


def _report(recorded: _Recorded) -> str:
    output, resources = recorded.output, recorded.resources
    if output["problem"] is not None:
        return f"no page is recorded, because it could not be drawn: {output['problem']}"
    run = recorded.outputs["train"]["run_id"]
    if not resources.tracker.run(run).has_file(SHARED_PAGE):
        raise PostConditionFailed(f"MLflow run {run} has no {SHARED_PAGE} any more.")
    page = resources.home / output["page"]
    if page.is_file():
        return f"{output['page']} is there, and MLflow has it without pictures"
    version = resources.datasets.get_version(recorded.outputs["version"]["name"])
    test = {item.image for item in version.items if item.split == "test"}
    forgotten = ForgottenImages(resources.datasets.repository).reasons()
    gone = test & {*forgotten_samples(resources.state), *forgotten}
    if not gone:
        raise NotFound(f"{page} is gone, and none of its images was forgotten.")
    # Which pages are deleted then is not recorded.
    return (
        f"{output['page']} is gone; {len(gone)} of the test images were forgotten since, which deletes the pages that "
        "name one. MLflow has it without pictures"
    )


def _register(recorded: _Recorded) -> str:
    output, resources = recorded.output, recorded.resources
    release = resources.releases.open(output["digest"])
    lineage = release.lineage
    _same("what made the release", recorded.cycle_id, lineage.created_from)
    _same("the training job of the release", recorded.outputs["train"]["job_id"], lineage.training_job)
    if (fitted := recorded.outputs.get("thresholds")) is not None:
        _same("the thresholds of the release", fitted["confidences"], dict(release.thresholds))
    elif len(set(release.thresholds.values())) > 1:
        raise PostConditionFailed(
            "The release has thresholds by class, and no stage `thresholds` is recorded."
        )
    number = resources.registry.version_of(resources.model, output["digest"])
    _same("the registered version of the release", output["model_version"], number)
    return f"release {output['digest'][:12]} re-hashed; MLflow has it as version {number}"


def _serve(recorded: _Recorded) -> str:
    digest = recorded.outputs["register"]["digest"]
    return _became_champion(recorded, digest)


def _promote(recorded: _Recorded) -> str:
    said = _became_champion(recorded, recorded.output["digest"])
    return f"{said}; acknowledged by {', '.join(recorded.output['replicas'])}"


def _became_champion(recorded: _Recorded, digest: str) -> str:
    """The route's journal and the ledger both say so; another release may have followed since."""
    resources = recorded.resources
    if digest not in {change.control for change in resources.routes.changes(resources.model)}:
        raise PostConditionFailed(f"The journal of the route never named release {digest[:12]}.")
    promoted = [
        entry.payload
        for entry in resources.ledger.entries(resources.model)
        if entry.kind == "promoted" and entry.payload["cycle"] == recorded.cycle_id
    ]
    _same("the release this cycle promoted by the ledger", [digest], [one["digest"] for one in promoted])
    if not (check := resources.ledger.verify()).intact:
        raise PostConditionFailed(f"The ledger was changed at entry {check.damaged}: {check.reason}")
    return f"route journal and hash-chained ledger name {digest[:12]} as champion"


def _same(what: str, recorded: Any, found: Any) -> None:
    if recorded != found:
        raise PostConditionFailed(f"Recorded for {what}: {recorded!r:.200}; found now: {found!r:.200}.")


_CHECKS: Mapping[str, Callable[[_Recorded], str]] = {
    "plan": _plan,
    "select": _select,
    "annotate": _annotate,
    "version": _version,
    "layout": _layout,
    "train": _train,
    "thresholds": _thresholds,
    "evaluate": _evaluate,
    "gate": _gate,
    "report": _report,
    "register": _register,
    "promote": _promote,
    "serve": _serve,
}
