import pytest

from retrain.errors import ConfigError
from retrain.evaluation.asked_metrics import METRICS, SPEED, checked_metrics, compared_by, values_of
from tests.unit.evaluation.worlds import evaluation, random_world


def test_every_metric_has_a_value_under_its_own_name():
    summary = evaluation(*random_world(0, images=20)).summary

    values = values_of(summary, METRICS)

    assert set(values) == set(METRICS) - {SPEED}
    assert values["map"] == values["map50_95"] == summary.map50_95
    assert values["map75"] == summary.coco["map75"]
    assert values["best_confidence"] == summary.best_confidence
    assert list(values_of(summary, ["f1", "map50"])) == ["f1", "map50"]


def test_names_are_taken_once_and_unknown_ones_are_refused_with_the_valid_ones():
    assert checked_metrics(["map", "f1", "map"]) == ("map", "f1")
    with pytest.raises(ConfigError) as error:
        checked_metrics(["map", "acc", "mAP"])

    assert str(error.value).startswith("Unknown metrics 'acc', 'mAP'. Metrics are ")
    assert all(name in str(error.value) for name in METRICS)


@pytest.mark.parametrize(
    ("asked", "compared"),
    [
        (["map"], ("map50_95",)),
        (["f1", "map50"], ("map50",)),
        (["map", "map50_95", "map50"], ("map50_95", "map50")),
        (["precision"], ("map50", "map50_95")),
    ],
)
def test_models_are_compared_by_what_was_asked_for_where_that_has_an_interval(asked, compared):
    assert compared_by(asked) == compared
