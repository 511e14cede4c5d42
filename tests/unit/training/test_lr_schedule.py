from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.errors import ConfigError
from retrain.training.lr_schedule import LearningRateScheduler

BASE = {"learning_rate": 0.01, "final_fraction": 0.01, "epochs": 10, "batches": 7}


def scheduler(**changes: object) -> LearningRateScheduler:
    return LearningRateScheduler(**{"shape": "linear", **BASE, **changes})  # type: ignore[arg-type]


def test_linear_falls_by_equal_amounts_and_would_end_at_the_final_fraction() -> None:
    rates = [scheduler().at(epoch * 7).learning_rate for epoch in range(10)]
    drops = [earlier - later for earlier, later in pairwise(rates)]
    assert rates[0] == 0.01
    assert drops == pytest.approx([0.00099] * 9)
    assert scheduler().factor(10) == pytest.approx(0.01)


def test_cosine_falls_slowest_at_both_ends() -> None:
    cosine = scheduler(shape="cosine")
    factors = [cosine.factor(epoch) for epoch in range(11)]
    assert factors[0] == 1
    assert factors[5] == pytest.approx((1 + 0.01) / 2)
    assert factors[10] == pytest.approx(0.01)
    assert factors[0] - factors[1] < factors[4] - factors[5]


def test_rate_changes_between_epochs_only_once_warm() -> None:
    rates = {scheduler().at(step).learning_rate for step in range(14, 21)}
    assert len(rates) == 1


def test_warmup_raises_weights_from_zero_and_lowers_biases_to_meet_them() -> None:
    warming = scheduler(warmup_epochs=2, warmup_bias_lr=0.1, accumulate=4)
    first, last = warming.at(0), warming.at(14)
    assert (first.learning_rate, first.bias_learning_rate, first.momentum) == (0, 0.1, 0.8)
    assert last.learning_rate == last.bias_learning_rate == pytest.approx(0.01 * warming.factor(2))
    assert last.momentum == 0.937
    assert warming.at(15).learning_rate == warming.at(14).learning_rate


def test_accumulation_ramps_from_one_and_never_exceeds_all_batches() -> None:
    counts = [scheduler(warmup_epochs=2, accumulate=4).at(step).accumulate for step in range(20)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[14:] == [4] * 6
    assert scheduler(accumulate=1000).at(50).accumulate == 70


def test_last_epoch_is_never_warmup() -> None:
    assert scheduler(epochs=1, warmup_epochs=3).warmup_steps == 0
    assert scheduler(epochs=3, warmup_epochs=3).warmup_steps == 14


@given(step=st.integers(0, 69), warmup=st.floats(0, 12), shape=st.sampled_from(["linear", "cosine"]))
def test_rates_stay_between_zero_and_the_peak(step: int, warmup: float, shape: str) -> None:
    settings = scheduler(shape=shape, warmup_epochs=warmup).at(step)
    assert 0 <= settings.learning_rate <= 0.01
    assert settings.accumulate >= 1


def test_unknown_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"linear, cosine, got 'step'"):
        scheduler(shape="step")
