"""What a user gives by mistake is told in words of what was asked for, before anything is opened."""

import re
from pathlib import Path

import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput, ConfigError
from retrain.evaluation.comparator import ModelComparator, compare
from retrain.evaluation.errors_analysis import ErrorAnalyzer
from retrain.evaluation.evaluator import ModelEvaluator
from retrain.evaluation.labelled_data import open_data
from retrain.evaluation.models import open_model
from retrain.evaluation.run import EvaluationItem, evaluate
from retrain.evaluation.thresholds import fit_thresholds


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"metrics": "map50"}, ConfigError, "metrics must be a list, got 'map50'; write [...] around it"),
        ({"metrics": None}, ConfigError, "metrics must be a list, got None"),
        ({"metrics": [None]}, ConfigError, "Unknown metrics None"),
        ({"confidence": "0.5"}, ConfigError, "confidence must be in [0, 1], got '0.5'"),
        ({"confidence": float("nan")}, ConfigError, "confidence must be in [0, 1], got nan"),
        ({"device": "gpu"}, ConfigError, "device must be 'cpu', 'cuda' or 'cuda:<index>', got 'gpu'"),
        ({"device": None}, ConfigError, "device must be 'cpu', 'cuda' or 'cuda:<index>', got None"),
        ({"batch_size": 0}, ConfigError, "batch_size must be a whole number from 1, got 0"),
        ({"batch_size": "16"}, ConfigError, "batch_size must be a whole number from 1, got '16'"),
        ({"model_path": None}, BadInput, "model_path must be a path, got None"),
        ({"test_dataset": None}, BadInput, "test_dataset must be a path, got None"),
        ({"test_dataset": ""}, BadInput, "test_dataset must be a path, got ''"),
    ],
)
def test_an_evaluator_says_which_argument_is_wrong(given, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        ModelEvaluator(**{"model_path": "none.pt", "test_dataset": "none", **given})


@pytest.mark.parametrize("models", ["model_v1.pt", Path("model_v1.pt"), None])
def test_one_model_is_no_list_of_models(models):
    with pytest.raises(ConfigError, match=r"models must be a list, got .*; write"):
        ModelEvaluator("none.pt", "none").compare_models(models)


def test_what_is_no_path_cannot_be_opened():
    with pytest.raises(BadInput, match="A model must be a path, got None"):
        open_model(None)
    with pytest.raises(ConfigError, match=r"device must be 'cpu', .* got 'gpu'"):
        open_model("none.pt", "gpu")
    with pytest.raises(BadInput, match="Test data must be a path, got 3"):
        open_data(3)


@pytest.mark.parametrize(
    "ask",
    [
        lambda given, _: ErrorAnalyzer(given),
        lambda given, _: fit_thresholds(given, "val"),
        compare,
        lambda given, real: ModelComparator(real, given),
    ],
)
def test_a_file_s_name_is_no_evaluation(ask, evaluation_of):
    real = evaluation_of(0.8)

    ask(real, real)
    for given, name in ((Path("evaluation.json"), "PosixPath"), (None, "NoneType")):
        with pytest.raises(BadInput, match=f"An Evaluation is needed, got {name}; take `evaluation` of"):
            ask(given, real)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"classes": "car"}, ConfigError, "classes must be a list, got 'car'"),
        ({"confidence": "0.5"}, BadInput, r"confidence must be in \[0, 1\], got '0.5'"),
        ({"confidence": 25}, BadInput, r"confidence must be in \[0, 1\], got 25"),
    ],
)
def test_images_are_not_asked_about_with_arguments_that_cannot_be(given, kind, said):
    def load():
        pytest.fail("an image was loaded")

    item = EvaluationItem("a", "a", load, Annotations.of(np.array([[0, 0, 9, 9]]), [0]))
    with pytest.raises(kind, match=said):
        evaluate(
            lambda images, **_: [Detections.empty() for _ in images], [item], **{"classes": ["car"], **given}
        )
