import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from flows.gate_view import show_replayed
from retrain.config import RetrainConfig
from retrain.errors import NotFound
from retrain.evaluation.comparator import compare
from retrain.evaluation.evidence import Evidence
from retrain.evaluation.gate import decide
from retrain.evaluation.policy import GatePolicy
from tasks.gate_replay import replay_gate
from tasks.gate_rules import FROZEN, NEW, gate_policy
from tasks.resources import Resources
from tests.unit.tasks.evaluated_cycle import evaluated_cycle, pair

STRICTER = GatePolicy.of({"must_improve": [{"slice": FROZEN}], "resamples": 200})


@pytest.fixture
def resources(tmp_path):
    made = Resources(RetrainConfig.model_validate({"model": {"name": "m"}}), tmp_path)
    yield made
    made.state.close()


def contents(folder):
    """Digests of all files but the one in which SQLite notes who reads."""
    return {
        file: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.endswith("-shm")
    }


def test_the_guide_s_policies_can_be_read_and_the_second_is_the_cycles_own():
    guide = (Path(__file__).parents[3] / "docs" / "gate.md").read_text(encoding="utf-8")
    example, own, config = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL))
    example, own = GatePolicy.of(example), GatePolicy.of(own)

    assert own == gate_policy(RetrainConfig().evaluation.margin)
    assert config == {"evaluation": {"policy": "gate_policy.yaml"}}
    assert all(getattr(example, name) != getattr(GatePolicy.of({"must_improve": [{}]}), name)
               for name in ("must_improve", "max_loss", "operating_point", "limits", "minimum"))  # fmt: skip


def test_the_cycles_own_rule_replayed_decides_as_the_cycle_did(resources):
    cycle = evaluated_cycle(resources)
    champion, challenger = pair()
    images = champion.truth.images
    slices = {FROZEN: images[:30], NEW: images[30:]}
    compared = {name: compare(champion.only(ids), challenger.only(ids)) for name, ids in slices.items()}
    then = decide(Evidence.of_slices(compared), gate_policy(0.03))

    (found,) = replay_gate(resources, gate_policy(0.03))

    assert (found.cycle_id, found.before, found.decision.verdict) == (cycle, "better", "better")
    assert found.decision.reasons == then.reasons


def test_another_policy_is_told_beside_the_recorded_verdict_and_changes_nothing(resources):
    cycle = evaluated_cycle(resources, verdict="inconclusive")
    before = contents(resources.home)
    console = Console(width=400, record=True)

    show_replayed(replay_gate(resources, STRICTER, [cycle]), console)

    said = console.export_text()
    assert cycle in said
    assert f"must_improve.{FROZEN}.map50: Target slice" in said
    assert "1 cycles, 1 verdicts would be others; nothing was changed" in said
    assert contents(resources.home) == before


def test_images_that_the_challenger_learnt_from_make_it_invalid(resources):
    evaluated_cycle(resources, trained_on=["0001"])

    (found,) = replay_gate(resources, STRICTER)

    assert found.decision.verdict == "invalid"
    assert "1 of 60 test images were trained on" in found.decision.decided_by.said


def test_a_cycle_whose_version_is_gone_is_told_and_the_others_are_decided(resources):
    evaluated_cycle(resources, version="v9.0.0", verdict=None)
    console = Console(width=400, record=True)

    (found,) = replay_gate(resources, STRICTER)
    show_replayed([found, replace(found, cycle_id="m-2")], console)

    assert found.decision is None
    assert found.before is None
    assert "'v9.0.0' not found" in found.problem
    assert "2 cycles, 0 verdicts would be others, 2 cannot be decided" in console.export_text()


def test_a_cycle_without_evaluations_is_left_out_or_an_error_when_it_is_named(resources):
    cycle = evaluated_cycle(resources)
    (resources.home / "cycles" / cycle / "champion.json").unlink()
    console = Console(width=400, record=True)

    show_replayed(replay_gate(resources, STRICTER), console)

    assert "No cycle stored evaluations" in console.export_text()
    with pytest.raises(NotFound, match="stored no evaluations"):
        list(replay_gate(resources, STRICTER, [cycle]))
    with pytest.raises(NotFound):
        list(replay_gate(resources, STRICTER, ["m-none"]))
