import pytest

from retrain.training.early_stopping import EarlyStopping, best_epoch


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
    ],
)
def test_stops_after_two_epochs_without_a_better_one(history: list[float], stops: bool) -> None:
    assert EarlyStopping(2).should_stop(history) is stops


def test_no_patience_never_stops() -> None:
    assert not EarlyStopping(None).should_stop([1.0] + [0.0] * 100)


def test_best_is_the_latest_of_equals() -> None:
    assert best_epoch([0.1, 0.3, 0.3, 0.2]) == 2
    assert best_epoch([0.0, 0.0]) == 1
