from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import yaml
from sqlalchemy import select, update

from flows.continuous_retraining import continuous_retraining_flow
from retrain.config import RetrainConfig
from retrain.cycle import list_cycles
from retrain.errors import ConfigError, Conflict
from retrain.evaluation.costs import Costs
from retrain.evaluation.policy import GatePolicy
from retrain.storage.schema import stages
from tasks.cycle import CycleWork
from tasks.evaluation import gate
from tasks.evaluation_data import COSTS
from tasks.gate_replay import replay_gate
from tasks.gate_rules import NEW, own_policy
from tasks.proofs import prove_cycle
from tasks.resources import Resources
from tests.unit.tasks.evaluated_cycle import compared, opened_cycle, stored_versions

EVERYTHING = {
    "must_improve": [{"metric": "recall"}, {"slice": "camera: north"}],
    "max_loss": {"per_slice": {"camera: south": {"map50": 0.1}}, "per_class": {"margin": 0.1}},
    "resamples": 200,
}
LIMITED = {**EVERYTHING, "limits": {"latency_ratio": 1.2, "size_mb": 5}}
PLAN, VERSION = {"known_version": "v1.0.0", "champion": "0" * 64}, {"name": "v1.1.0"}


@pytest.fixture
def home(tmp_path):
    made = Resources(RetrainConfig.model_validate({"model": {"name": "m"}}), tmp_path)
    yield made
    made.state.close()


@pytest.fixture
def shown(monkeypatch):
    """What the gate made artifacts of."""
    artifact = MagicMock()
    monkeypatch.setattr("tasks.evaluation_report.create_markdown_artifact", artifact)
    return artifact


def write(home, policy):
    """The user writes this policy."""
    file = home.home / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    settings = {"model": {"name": "m", "classes": ["car"]}, "evaluation": {"policy": file}}
    home.config = RetrainConfig.model_validate(settings)


@contextmanager
def evaluated(home, output=None, **versions):
    stored_versions(home, **versions)
    with opened_cycle(home, evaluated=output or compared()) as cycle:
        yield CycleWork(cycle, home)


def gated(home, output=None, **versions):
    with evaluated(home, output, **versions) as work:
        return gate.fn(work, PLAN, VERSION, output or compared())


def proof(home):
    return {one.stage: one for one in prove_cycle(home, "cycle-manual")}["gate"]


def rewrite(home, change):
    mine = stages.c.stage == "gate"
    with home.state.write() as connection:
        output = dict(connection.execute(select(stages.c.output).where(mine)).scalar_one())
        connection.execute(update(stages).where(mine).values(output={**output, **change(output)}))


def costs(champion_ms=10.0, challenger_ms=11.0, size=4_000_000):
    times = [champion_ms * one for one in (1, 2, 3)], [challenger_ms * one for one in (1, 2, 3)]
    return {**compared(), COSTS: Costs((4_000_000, size), times, {}).to_json(0.95)}


def test_a_cycle_decides_by_the_policy_about_all_images_classes_and_cameras_and_records_it(home, shown):
    write(home, EVERYTHING)

    decision = gated(home)

    assert decision["verdict"] == "better", decision["reasons"]
    assert [rule["rule"] for rule in decision["rules"]] == [
        "must_improve.recall", "must_improve.camera: north.map50", "max_loss.per_slice.camera: south.map50",
        *(f"max_loss.per_class.class {index}" for index in range(3)),
    ]  # fmt: skip
    assert GatePolicy.of(decision["policy"]) == GatePolicy.of(EVERYTHING)
    assert decision["learnt_images"] == 1
    assert "page" not in decision
    artifact = shown.call_args.kwargs
    assert artifact["key"] == "gate"
    assert artifact["markdown"].startswith("## better\n")
    assert "| must_improve.recall | better |" in artifact["markdown"]


def test_a_camera_of_which_no_test_image_is_there_cannot_be_judged(home, shown):
    write(home, {**EVERYTHING, "must_improve": [{"slice": "camera: noth"}]})

    decision = gated(home)

    assert decision["verdict"] == "invalid"
    assert decision["reasons"][0] == "Target slice 'camera: noth' cannot be judged: it was not compared."


def test_a_policy_that_the_challenger_fails_keeps_the_champion(home, shown):
    write(home, {**EVERYTHING, "operating_point": {"min_recall": 0.999}})

    decision = gated(home)

    assert (decision["verdict"], decision["passed"]) == ("worse", False)


def test_without_a_policy_the_two_rules_decide_from_the_stored_comparisons(home, shown):
    tampered = compared()
    tampered[NEW] |= {"low": -0.1, "verdict": "inconclusive"}

    decision = gated(home, tampered)

    assert [rule["rule"] for rule in decision["rules"]] == [
        "must_improve.new frames.map50", "max_loss.per_slice.frozen test.map50",
    ]  # fmt: skip
    assert (decision["verdict"], decision["margin"]) == ("inconclusive", 0.03)
    assert "policy" not in decision


@pytest.mark.parametrize("policy", [None, EVERYTHING])
def test_test_images_that_were_trained_on_stop_the_gate_and_the_proof_finds_them_again(home, shown, policy):
    if policy is not None:
        write(home, policy)

    decision = gated(home, trained_on=["0001"])

    assert (decision["verdict"], decision["passed"]) == ("invalid", False)
    assert "1 of 60 test images were trained on, first '0001'" in decision["reasons"][0]
    assert proof(home).holds
    rewrite(home, lambda _: {"verdict": "better"})
    assert not proof(home).holds


def test_test_images_that_the_champion_was_trained_on_stop_the_gate_too(home, shown):
    with evaluated(home) as work:
        known = home.datasets.get_version("v1.0.0").items
        known[4] = SimpleNamespace(**{**vars(known[4]), "split": "train"})
        decision = gate.fn(work, PLAN, VERSION, compared())

    assert decision["verdict"] == "invalid"
    assert f"first {known[4].image!r}" in decision["reasons"][0]


@pytest.mark.parametrize("policy", [None, EVERYTHING])
def test_the_decision_is_proven_by_the_rules_that_were_recorded_not_by_those_of_today(home, shown, policy):
    if policy is not None:
        write(home, policy)
    gated(home)

    write(home, {**EVERYTHING, "operating_point": {"min_recall": 0.999}})

    assert proof(home).holds
    assert ("by the recorded policy" in proof(home).said) == (policy is not None)


def test_a_decision_of_a_cycle_that_recorded_its_page_with_it_still_holds(home, shown):
    gated(home)

    rewrite(home, lambda _: {"page": "cycles/cycle-manual/evaluation.html"})

    assert proof(home).holds


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {"verdict": "worse"},
        lambda output: {"rules": output["rules"][1:]},
        lambda output: {"policy": {**output["policy"], "operating_point": {"min_recall": 0.999}}},
    ],
)
def test_a_record_of_a_gate_that_was_changed_no_longer_holds(home, shown, change):
    write(home, EVERYTHING)
    gated(home)

    rewrite(home, change)

    assert not proof(home).holds


def test_a_policy_changed_before_the_gate_decides_and_one_changed_behind_it_is_a_conflict(home, shown):
    write(home, EVERYTHING)
    with evaluated(home):
        pass
    write(home, {**EVERYTHING, "operating_point": {"min_recall": 0.999}})

    assert gated(home)["verdict"] == "worse"
    assert gated(home)["verdict"] == "worse"
    assert shown.call_count == 1
    write(home, EVERYTHING)
    with pytest.raises(Conflict, match="Stage gate of cycle cycle-manual was done for other inputs"):
        gated(home)


@pytest.mark.parametrize(
    ("measured", "verdict", "rule"),
    [
        (costs(), "better", None),
        (costs(challenger_ms=13.0), "worse", "limits.latency_ratio"),
        (costs(size=6_000_000), "worse", "limits.size_mb"),
        (None, "invalid", "limits.latency_ratio"),
    ],
)
def test_limits_are_judged_by_what_the_cycle_measured_and_so_they_are_replayed(
    home, shown, measured, verdict, rule
):
    write(home, LIMITED)

    decision = gated(home, measured)

    (replayed,) = replay_gate(home, GatePolicy.of(LIMITED))
    assert decision["verdict"] == replayed.before == replayed.decision.verdict == verdict
    assert rule is None or replayed.decision.decided_by.rule == rule
    assert proof(home).holds


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"must_improve": [{"slice": "night"}]}, r"no slice 'night'; it has 'frozen test', 'new frames' and"),
        (
            {"max_loss": {"per_class": {"margin": 0.1, "exceptions": {"cat": 0.2}}}},
            "exceptions names 'cat'; model.classes has car",
        ),
    ],
)
def test_a_policy_about_what_no_cycle_has_is_told_before_there_is_a_cycle(home, policy, said, monkeypatch):
    write(home, policy)
    monkeypatch.setattr("flows.continuous_retraining.build_resources", lambda config: home)

    with pytest.raises(ConfigError, match=said):
        continuous_retraining_flow.fn("manual")
    assert list_cycles(home.state) == []


def test_the_example_can_be_used_as_it_is():
    config = RetrainConfig.model_validate({"evaluation": {"policy": "configs/gate_policy.yaml"}})

    assert own_policy(config).max_loss.overall == {"map50_95": 0.03, "recall": 0.05}
