import dataclasses

import pytest

from retrain.monitoring import wording
from retrain.monitoring.report import Comparison, Interval, SliceScores


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3840, "1 h 04 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds, said):
    assert wording.duration(seconds) == said


def test_what_was_not_measured_says_so_and_never_reads_as_zero():
    said = {
        wording.score(None),
        wording.score(float("nan")),
        wording.signed(None),
        wording.interval(None),
        wording.duration(None),
        wording.count(None),
        wording.size(None),
        wording.moment(None),
    }

    assert said == {"not measured"}
    assert wording.count(0) == "0"
    assert wording.score(0.0) == "0.000"


def test_differences_carry_a_sign_and_tiny_ones_no_direction():
    assert (
        wording.interval(Interval(0.321, -0.02, 0.4, 0.95)) == "+0.321 (95 % interval \u22120.020 to +0.400)"
    )
    assert wording.signed(-0.0004) == "±0.000"


def slice_with(verdict, before=0.6, after=0.7):
    compared = Comparison(before, after, None, verdict)
    return SliceScores("drifted", "drifted cameras", 10, 2, compared, compared)


def test_the_verb_follows_the_verdict_not_the_point_estimate():
    assert wording.change(slice_with("better")) == "On drifted cameras, mAP50 rose from 0.600 to 0.700."
    assert "went from 0.600 to 0.700: no proven difference" in wording.change(slice_with("inconclusive"))
    assert "went from 0.600 to 0.700: not measured" in wording.change(slice_with(None))
    assert "was not measured (known: 0.600)" in wording.change(slice_with(None, after=None))


def test_a_stage_without_proof_is_counted_against(report):
    bare = dataclasses.replace(report.stages[0], proof=None)

    assert wording.proofs(report) == "All 12 stages read their effect back."
    assert wording.proofs(dataclasses.replace(report, stages=(bare, *report.stages[1:]))).startswith(
        "1 of 12 stages did not"
    )


def test_a_kept_champion_is_not_called_replaced(report):
    assert wording.title(report) == "v2 replaced v1"
    assert wording.title(dataclasses.replace(report, outcome="kept_champion")) == "v1 stays"
