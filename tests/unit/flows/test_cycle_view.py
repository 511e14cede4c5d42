import io

import pytest
from rich.console import Console

from flows.cycle_view import cycle_line, show_cycle
from retrain.cycle import CycleRecord, open_cycle
from retrain.evaluation.gate import GateDecision, RuleFinding
from retrain.storage.leases import LeaseManager
from retrain.storage.state import open_state

COLUMNS = ["label", "camera", "old", "replayed"]


@pytest.fixture
def shown(tmp_path):
    """What is printed of a cycle whose layout recorded this replay, its thresholds these if given, its report this.

    With an outcome, it has ended.
    """

    def show(rows=(), fitted=None, problem=None, outcome=None):
        state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
        with LeaseManager(state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(state, "m", "m-samples-1", "c", lease)
            replay = {"columns": COLUMNS, "rows": list(rows)}
            cycle.stage("layout", {}, lambda: {"train": ["a"], "val": "b", "replay": replay})
            if fitted is not None:
                cycle.stage("thresholds", {}, lambda: fitted)
            cycle.stage("report", {}, lambda: {"page": None if problem else "p", "problem": problem})
            if outcome is not None:
                cycle.finish("promoted", outcome)
        printed = io.StringIO()
        show_cycle(state, cycle.id, Console(file=printed, width=200))
        state.close()
        return [line.split() for line in printed.getvalue().splitlines()]

    return show


def test_a_cycle_shows_what_it_trained_on_again_per_class_and_camera(shown):
    lines = shown([["person", "gate-3", 40, 32], ["no object", None, 10, 1]])

    assert COLUMNS in lines
    assert ["person", "gate-3", "40", "32"] in lines
    assert ["no", "object", "-", "10", "1"] in lines


def test_a_first_cycle_has_nothing_to_train_on_again(shown):
    lines = shown([])

    assert COLUMNS not in lines
    assert not any("drawn:" in line for line in lines)
    assert ["layout"] in [line[:1] for line in lines]


@pytest.mark.parametrize(("own", "named"), [(["[bold]person"], "[bold]person"), ([], "none")])
def test_it_says_what_each_class_is_served_from_and_which_were_fitted_alone(shown, own, named):
    confidences = {"[bold]person": 0.61234, "van": 0.3}
    fitted = {"rule": "f1", "otherwise": 0.25, "images": 120, "confidences": confidences, "own": own}

    said = (
        "served from [bold]person 0.612, van 0.3 "
        f"(f1 on 120 images of val; fitted to their own objects: {named})"
    )
    assert said.split() in shown([], fitted)


def test_a_cycle_without_a_page_says_why(shown):
    said = " the page could not be drawn: ValueError: no [bold]glyph[/bold] "

    assert said.split() in shown([], problem="ValueError: no [bold]glyph[/bold]")


def test_the_outcome_is_lines_and_a_table_of_the_rules(shown):
    rules = (
        RuleFinding(
            "must_improve.[red]new[/red].map50", "better", 0.123456, 0.01, 0.2, 0.0, "new is [b]better[/b]"
        ),
        RuleFinding("max_loss.overall.map50", "better", None, None, None, 0.02, "nothing is lost"),
    )
    decision = GateDecision("better", True, tuple(rule.said for rule in rules), rules)

    lines = shown(
        outcome={
            "version": "v1.1.0",
            "labels": {"auto": 10, "human": 3, "left_out": 0},
            "gate": {**decision.to_json(), "margin": 0.02, "policy": {"must_improve": [{"slice": "new"}]}},
            "release": {"digest": "ab12", "model_version": 2},
            "served": {"replicas": ["r-1"], "served_at": 1795867200.5},
        }
    )

    printed = [" ".join(line) for line in lines]
    assert printed[0] == "cycle-m-samples-1: promoted, 1 attempt"
    assert printed[printed.index("gate: better, the challenger passed") :] == [
        "gate: better, the challenger passed",
        "new is [b]better[/b]",
        "nothing is lost",
        "rule verdict value low high limit",
        "must_improve.[red]new[/red].map50 better 0.1235 0.0100 0.2000 0.0000",
        "max_loss.overall.map50 better - - - 0.0200",
        "version: v1.1.0",
        "labels: auto 10, human 3, left out 0",
        "release: digest ab12, model version 2",
        'served: replicas ["r-1"], served at 2026-11-28 12:00:00 UTC',
        "gate margin: 0.02",
        'gate policy: {"must_improve": [{"slice": "new"}]}',
    ]


def test_a_cycle_that_is_not_over_has_no_outcome(shown):
    assert not any("None" in word for line in shown() for word in line)


@pytest.mark.parametrize(
    ("status", "outcome", "said"),
    [
        ("kept_champion", {"gate": {"verdict": "inconclusive"}}, "kept_champion (inconclusive)"),
        ("nothing_to_do", {"reason": "no sample waited"}, "nothing_to_do (no sample waited)"),
        ("promoted", {"release": {}}, "promoted"),
        ("running", None, "running"),
    ],
)
def test_the_end_of_a_cycle_is_one_line(status, outcome, said):
    record = CycleRecord("cycle-m-1", "m", "m-1", status, 1, 0.0, 1.0, outcome)

    assert cycle_line(record) == f"cycle-m-1: {said}"
