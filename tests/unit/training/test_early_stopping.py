import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.errors import ConfigError, PostConditionFailed
from retrain.training.early_stopping import METRICS, EarlyStopping, best_epoch
from retrain.training.result import EpochReport

NAN = math.nan


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.4], False),
        ([0.5, 0.4, 0.4], True),
        ([0.5, 0.4, 0.6], False),
        ([0.5, 0.5, 0.5], True),
        ([0.0, 0.0, 0.0, 0.0], False),
        ([0.0, 0.0, 0.1, 0.0, 0.0], True),
        ([0.5, NAN, 0.6], False),
        ([0.5, NAN, NAN], True),
        ([NAN, 0.5, 0.4], False),
        ([0.0, NAN, NAN], True),
        ([NAN], False),
        ([NAN, NAN], True),
        ([math.inf, 0.5, 0.6], False),
    ],
)
def test_stops_after_two_epochs_without_a_better_one(history: list[float], stops: bool) -> None:
    assert EarlyStopping(2).should_stop(history) is stops


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        ([3.0, 2.0, 1.0], False),
        ([1.0, 2.0, 3.0], True),
        ([1.0, 1.0, 1.0], True),
        ([1.0, 0.0, 0.0, 0.0], True),
        ([NAN, 2.0, 1.0], False),
    ],
)
def test_a_loss_is_better_when_lower_and_zero_is_a_result(history: list[float], stops: bool) -> None:
    assert EarlyStopping(2, "loss").should_stop(history) is stops


def test_small_gains_add_up_until_they_are_more_than_min_delta() -> None:
    creeping = [0.5, 0.505, 0.509]
    assert EarlyStopping(2, min_delta=0.01).should_stop(creeping)
    assert not EarlyStopping(2).should_stop(creeping)
    assert not EarlyStopping(2, min_delta=0.01).should_stop([0.5, 0.509, 0.511])
    assert EarlyStopping(2, "loss", min_delta=0.25).should_stop([1.0, 0.9, 0.75])
    assert not EarlyStopping(2, "loss", min_delta=0.25).should_stop([1.0, 0.9, 0.7])


def test_the_first_result_counts_however_small_it_is() -> None:
    assert not EarlyStopping(2, min_delta=0.1).should_stop([0.0, 0.0, 0.0, 0.01, 0.02])


def test_no_patience_never_stops() -> None:
    assert not EarlyStopping(None).should_stop([1.0] + [0.0] * 100)


@given(st.lists(st.floats(0.01, 1), min_size=1), st.integers(1, 5))
def test_decides_for_a_whole_history_as_one_that_counts_epoch_by_epoch(
    history: list[float], patience: int
) -> None:
    best, waited = -1.0, 0
    for epoch, value in enumerate(history):
        best, waited = (value, 0) if value > best else (best, waited + 1)
        assert EarlyStopping(patience).should_stop(history[: epoch + 1]) is (waited >= patience)


def test_best_is_the_latest_of_equals() -> None:
    assert best_epoch([0.1, 0.3, 0.3, 0.2]) == 2
    assert best_epoch([0.0, 0.0]) == 1
    assert EarlyStopping(None).best_epoch([0.1, 0.3, 0.3, 0.2]) == 2
    assert EarlyStopping(None, "loss").best_epoch([0.1, 0.3, 0.1, 0.2]) == 2


@pytest.mark.parametrize("history", [[], [NAN], [NAN, math.inf]])
def test_without_a_usable_value_no_epoch_is_the_best(history: list[float]) -> None:
    with pytest.raises(PostConditionFailed, match="No epoch is the best"):
        EarlyStopping(3).best_epoch(history)


def test_a_value_that_is_not_finite_is_never_the_best() -> None:
    assert best_epoch([NAN, 0.1, NAN, math.inf]) == 1
    assert best_epoch([NAN, 0.1, -math.inf], bigger_is_better=False) == 1
    stopping = EarlyStopping(3)
    best_so_far = [stopping.is_best(history) for history in ([NAN], [NAN, 0.1], [NAN, 0.1, NAN], [0.2, 0.2])]
    assert best_so_far == [False, True, False, True]


def test_metric_is_read_from_the_report() -> None:
    report = cast(
        EpochReport,
        type(
            "Report",
            (),
            {
                "map50": 0.4,
                "map50_95": 0.3,
                "precision": 0.2,
                "recall": 0.1,
                "losses": {"box": 1.5, "cls": 2.0},
            },
        ),
    )
    read = {metric: EarlyStopping(None, metric).metric_of(report) for metric in METRICS}
    assert read == {"map50": 0.4, "map50_95": 0.3, "precision": 0.2, "recall": 0.1, "loss": 3.5}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"patience": 3, "metric": "f1"}, "map50_95, map50, precision, recall, loss, got 'f1'"),
        ({"patience": 0}, "patience must be at least 1, or None to never stop, got 0"),
        ({"patience": 3, "min_delta": -0.1}, "min_delta must be a number >= 0, got -0.1"),
        ({"patience": 3, "min_delta": NAN}, "min_delta must be a number >= 0, got nan"),
        ({"patience": None, "min_delta": 0.1}, "min_delta is 0.1, but only patience reads it"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EarlyStopping(**arguments)
