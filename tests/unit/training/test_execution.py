from typing import Any

import pytest

from retrain.errors import ConfigError
from retrain.training.execution import Execution


@pytest.mark.parametrize(
    "given",
    [
        {"num_gpus": "2"},
        {"num_processes": 1.5},
        {"gradient_accumulation": True},
        {"checkpoint_minutes": "5"},
        {"checkpoint_minutes": -1},
        {"stall_s": None},
        {"stall_s": 0},
        {"stall_s": float("inf")},
        {"max_restarts": None},
        {"slice_drop_limit": None},
        {"slice_drop_limit": 1.1},
        {"keep_best": 0},
        {"supervised": "no"},
        {"pictures": 1},
        {"export": None},
        {"export": "pt"},
        {"export": ["tflite"]},
        {"checkpoint_mirror": 3},
        {"mixed_precision": None},
    ],
)
def test_a_setting_that_cannot_be_is_an_error_that_names_it(given: dict[str, Any]):
    ((name, _),) = given.items()

    with pytest.raises(ConfigError, match=name):
        Execution(**given)


def test_what_is_stored_makes_another_like_it():
    asked = Execution(num_processes=2, keep_best=3, export=("pt",), stall_s=5)

    assert Execution(**asked.to_json()) == asked
