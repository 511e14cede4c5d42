from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric
from mlflow.utils.validation import _validate_metric

from retrain.mlflow_integration.metric_names import metric_name


def test_names_that_mlflow_takes_stay_as_they_are():
    assert metric_name("val", "slice", "camera", "gate 3-a.b:c_d", "map50") == (
        "val/slice/camera/gate 3-a.b:c_d/map50"
    )


def test_other_characters_are_spelt_out():
    assert metric_name("camera", "Tür/2", "map50") == "camera/T_fc_r_2f_2/map50"
    assert metric_name("camera", "..", "map50") == "camera/_2e__2e_/map50"


@given(st.text(min_size=1, max_size=300))
def test_mlflow_takes_every_name(name):
    made = Metric(metric_name("val", "slice", "camera", name, "map50"), 0.5, 0, 0)
    _validate_metric(made.key, made.value, made.timestamp, made.step)


def test_long_names_stay_apart():
    long, other = metric_name("camera", "a" * 300), metric_name("camera", "a" * 301)
    assert len(long) == len(other) == 250
    assert long != other
