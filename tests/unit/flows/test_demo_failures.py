"""When `retrain demo` must not call itself a success."""

from types import SimpleNamespace

import pytest

from flows.demo import _failures
from tasks.proofs import Proof

STAGES = {
    name: {} for name in ("plan", "select", "version", "layout", "train", "evaluate", "gate", "register")
}
STAGES |= {"annotate": {"left_out": {}}, "promote": {"replicas": ["r1"]}, "report": {"problem": None}}
GOOD = {
    "stages": [SimpleNamespace(name="train", proof="weights loaded again")],
    "created_by_type": "AUTOMATION",
    "status": "promoted",
    "cycle": STAGES,
    "serving": "b" * 64,
    "after": "b" * 64,
    "verdict": "better",
    "ledger": True,
}


def facts(**changes):
    values = GOOD | changes
    drifted = SimpleNamespace(verdict=values["verdict"], reason="because")
    return SimpleNamespace(
        all_stages=lambda: values["stages"],
        run=SimpleNamespace(created_by_type=values["created_by_type"]),
        watch=SimpleNamespace(
            status=values["status"],
            stages=lambda: [
                SimpleNamespace(stage=name, output=output) for name, output in values["cycle"].items()
            ],
        ),
        gate_reasons=lambda: ("the gate's reason",),
        serving=values["serving"],
        after=values["after"],
        scores={"drifted": {"map50": drifted}},
        ledger_verified=lambda: values["ledger"],
    )


def test_a_loop_that_proved_everything_has_no_failures():
    assert _failures(facts(), []) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": [SimpleNamespace(name="train", proof="")]}, "step 'train' proved nothing"),
        ({"created_by_type": "USER"}, "not by the automation"),
        ({"status": "kept_champion"}, "ended as kept_champion: the gate's reason"),
        ({"serving": "a" * 64}, "the router serves"),
        ({"cycle": {k: v for k, v in STAGES.items() if k != "gate"}}, "the cycle skipped gate"),
        ({"cycle": STAGES | {"promote": {"replicas": []}}}, "no router acknowledged"),
        ({"cycle": STAGES | {"annotate": {"left_out": {"x": "damaged"}}}}, "1 samples were left out"),
        ({"cycle": STAGES | {"report": {"problem": "KeyError: 'a'"}}}, "could not be drawn: KeyError: 'a'"),
        ({"verdict": "inconclusive"}, "not better on the drifted slice: because"),
        ({"ledger": False}, "hash chain is broken"),
    ],
)
def test_anything_unproven_is_a_failure_in_words(change, said):
    assert any(said in failure for failure in _failures(facts(**change), []))


def test_a_stage_whose_effect_is_gone_is_a_failure():
    failures = _failures(facts(), [Proof("train", holds=False, said="the weights are gone")])

    assert failures == ["stage 'train' does not hold: the weights are gone"]
