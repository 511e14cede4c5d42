import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from retrain.errors import BadInput, ConfigError
from retrain.training.lr_schedule import SHAPES, LearningRateScheduler
from retrain.training.ultralytics_parts import BaseTrainer

BASE = {"learning_rate": 0.01, "final_fraction": 0.01, "epochs": 10, "batches": 7}
SCORES = st.floats(0, 1) | st.just(math.nan)


def scheduler(**changes: Any) -> LearningRateScheduler:
    return LearningRateScheduler(**{"shape": "linear", **BASE, **changes})


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)


def epoch_rates(of: LearningRateScheduler, history: Sequence[float] = ()) -> list[float]:
    return [of.at(epoch * of.batches, history).learning_rate for epoch in range(of.epochs)]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_linear_and_cosine_are_exactly_those_of_ultralytics(shape: str) -> None:
    args = SimpleNamespace(cos_lr=shape == "cosine", lrf=0.01)
    trainer = SimpleNamespace(args=args, epochs=10, optimizer=optimizer())
    BaseTrainer._setup_scheduler(trainer)

    assert epoch_rates(scheduler(shape=shape)) == [0.01 * trainer.lf(epoch) for epoch in range(10)]


@pytest.mark.parametrize(("epochs", "batches"), [(10, 7), (1, 1), (1, 3), (2, 5), (7, 1)])
@pytest.mark.parametrize(("peak", "start"), [(None, None), (0.5, 0.2), (0.01, 0.0), (0.99, 1.0)])
def test_onecycle_is_that_of_torch_in_every_batch(
    epochs: int, batches: int, peak: float | None, start: float | None
) -> None:
    total, begins = epochs * batches, 0.04 if start is None else start
    if not begins:
        begins = 1e-12  # torch divides by it
    theirs = optimizer()
    reference = OneCycleLR(
        theirs,
        max_lr=0.01,
        total_steps=total,
        pct_start=0.3 if peak is None else peak,
        div_factor=1 / begins,
        final_div_factor=begins / 0.01,
    )
    expected = []
    for _ in range(total):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        if len(expected) < total:
            reference.step()

    ours = scheduler(
        shape="onecycle", epochs=epochs, batches=batches, onecycle_peak=peak, onecycle_start=start
    )

    assert [ours.at(step).learning_rate for step in range(total)] == pytest.approx(expected, abs=1e-12)


def test_onecycle_may_have_its_peak_in_the_first_batch_which_torch_cannot() -> None:
    rates = [
        scheduler(shape="onecycle", epochs=10, batches=1, onecycle_peak=0.1).at(step).learning_rate
        for step in range(12)
    ]
    assert rates[0] == 0.01
    assert rates[9:] == pytest.approx([0.0001] * 3)


def test_onecycle_leaves_momentum_and_accumulation_alone() -> None:
    settings = [scheduler(shape="onecycle", accumulate=4).at(step) for step in range(70)]
    assert {(each.momentum, each.accumulate) for each in settings} == {(0.937, 4)}
    assert all(each.bias_learning_rate == each.learning_rate for each in settings)


@pytest.mark.parametrize(("every", "factor"), [(None, None), (3, 0.5), (1, 0.9), (20, 0.1)])
def test_step_is_that_of_torch(every: int | None, factor: float | None) -> None:
    theirs = optimizer()
    reference = StepLR(theirs, step_size=every or 4, gamma=factor or 0.1)
    expected = []
    for _ in range(10):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        reference.step()

    ours = scheduler(shape="step", final_fraction=0, step_epochs=every, step_factor=factor)

    assert epoch_rates(ours) == pytest.approx(expected, rel=1e-12)


@given(
    history=st.lists(SCORES, min_size=10, max_size=10),
    patience=st.integers(0, 4),
    factor=st.floats(0.1, 0.9),
    floor=st.floats(0, 0.5),
    bigger=st.booleans(),
)
def test_plateau_is_that_of_torch_given_the_same_scores(
    history: list[float], patience: int, factor: float, floor: float, bigger: bool
) -> None:
    theirs = optimizer()
    reference = ReduceLROnPlateau(
        theirs, "max" if bigger else "min", factor=factor, patience=patience, min_lr=0.01 * floor, eps=0
    )
    expected = []
    for score in history:
        expected.append(theirs.param_groups[0]["lr"])
        reference.step(score)
    ours = scheduler(
        shape="plateau",
        final_fraction=floor,
        plateau_patience=patience,
        plateau_factor=factor,
        bigger_is_better=bigger,
    )

    assert epoch_rates(ours, history) == pytest.approx(expected, rel=1e-9)


def test_plateau_halves_after_six_epochs_that_are_no_better_by_itself() -> None:
    factors = [rate / 0.01 for rate in epoch_rates(scheduler(shape="plateau"), [0.5] * 10)]
    assert factors == [1] * 7 + [0.5] * 3


def test_plateau_sees_scores_up_to_the_epoch_before_only() -> None:
    falling = scheduler(shape="plateau", plateau_patience=0)
    assert falling.at(13, [0.5, 0.4, 0.3]) == falling.at(13, [0.5])
    assert falling.at(14, [0.5, 0.4]).factor == 0.5
    with pytest.raises(BadInput, match="each of 2 finished epochs, got 1"):
        falling.at(14, [0.5])


@pytest.mark.parametrize("shape", ["step", "plateau"])
def test_final_fraction_is_what_falls_do_not_go_below(shape: str) -> None:
    own = {"step_epochs": 1} if shape == "step" else {"plateau_patience": 0, "plateau_factor": 0.1}
    rates = epoch_rates(scheduler(shape=shape, final_fraction=0.05, **own), [0.5] * 10)
    assert rates[0] == 0.01
    assert rates[-1] == 0.0005


def test_rate_changes_between_epochs_only_once_warm() -> None:
    rates = {scheduler().at(step).learning_rate for step in range(14, 21)}
    assert len(rates) == 1


@pytest.mark.parametrize("shape", ["linear", "cosine", "step", "plateau"])
def test_warmup_raises_weights_from_zero_and_lowers_biases_to_meet_them(shape: str) -> None:
    warming = scheduler(shape=shape, warmup_epochs=2, warmup_bias_lr=0.1, accumulate=4)
    history = [0.1, 0.2]
    first, last, after = (warming.at(step, history) for step in (0, 14, 15))
    assert (first.learning_rate, first.bias_learning_rate, first.momentum) == (0, 0.1, 0.8)
    assert last.learning_rate == last.bias_learning_rate == 0.01 * last.factor
    assert last.momentum == 0.937
    assert last.warmup is not None
    assert after.warmup is None
    assert after.learning_rate == last.learning_rate


def test_accumulation_ramps_from_one_and_never_exceeds_all_batches() -> None:
    counts = [scheduler(warmup_epochs=2, accumulate=4).at(step).accumulate for step in range(20)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[14:] == [4] * 6
    assert scheduler(accumulate=1000).at(50).accumulate == 70


def test_last_epoch_is_never_warmup() -> None:
    assert scheduler(epochs=1, warmup_epochs=3).warmup_steps == 0
    assert scheduler(epochs=3, warmup_epochs=3).warmup_steps == 14


@given(
    step=st.integers(0, 80),
    warmup=st.floats(0, 12),
    shape=st.sampled_from(SHAPES),
    final=st.floats(0, 1),
    history=st.lists(SCORES, min_size=12, max_size=12),
)
def test_rates_stay_between_zero_and_the_peak_and_depend_on_arguments_only(
    step: int, warmup: float, shape: str, final: float, history: list[float]
) -> None:
    warmup = 0.0 if shape == "onecycle" else warmup
    used = scheduler(shape=shape, warmup_epochs=warmup, final_fraction=final)
    settings = used.at(step, history)
    assert 0 <= settings.learning_rate <= 0.01 * (1 + 1e-12)
    assert 0 <= settings.bias_learning_rate <= 0.01 * (1 + 1e-12)
    assert settings.accumulate >= 1
    used.at(79, history[::-1])
    assert (
        settings
        == used.at(step, history)
        == scheduler(shape=shape, warmup_epochs=warmup, final_fraction=final).at(
            step, [*history[: step // 7], 0.123]
        )
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"shape": "poly"}, "linear, cosine, onecycle, step, plateau, got 'poly'"),
        ({"step_epochs": 3}, "step_epochs is 3, but only the step scheduler reads it, not linear"),
        ({"shape": "step", "plateau_factor": 0.5}, "only the plateau scheduler reads it, not step"),
        ({"shape": "plateau", "onecycle_peak": 0.5}, "only the onecycle scheduler reads it, not plateau"),
        ({"shape": "onecycle", "warmup_epochs": 1.0}, r"warmup_epochs is 1.0, but .* warms up by itself"),
        ({"shape": "onecycle", "warmup_bias_lr": 0.1}, r"warmup_bias_lr is 0.1, but .* warms up by itself"),
        ({"shape": "onecycle", "onecycle_peak": 1}, r"onecycle_peak must be a number in \(0, 1\), got 1"),
        ({"shape": "onecycle", "onecycle_start": math.nan}, r"onecycle_start .* \[0, 1\], got nan"),
        ({"shape": "step", "step_epochs": 2.0}, "step_epochs must be a whole number of at least 1, got 2.0"),
        ({"shape": "step", "step_epochs": 0}, "step_epochs must be a whole number of at least 1, got 0"),
        ({"shape": "step", "step_factor": "0.1"}, r"step_factor must be a number in \(0, 1\), got '0.1'"),
        ({"shape": "plateau", "plateau_patience": True}, "plateau_patience must be a whole .* got True"),
        ({"shape": "plateau", "plateau_factor": 1.0}, r"plateau_factor must be a number in \(0, 1\)"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be a number > 0, got 0"),
        ({"final_fraction": 1.1}, r"final_fraction must be a number in \[0, 1\], got 1.1"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a number >= 0, got -1"),
    ],
)
def test_what_cannot_be_used_or_is_not_read_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        scheduler(**changes)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"epochs must.*step_factor.*warmup_epochs"):
        scheduler(shape="onecycle", epochs=0, step_factor=0.5, warmup_epochs=2)


def test_resolved_settings_are_those_of_the_shape() -> None:
    assert scheduler().resolved == {}
    assert scheduler(shape="step", epochs=100).resolved == {"step_epochs": 34, "step_factor": 0.1}
    resolved = scheduler(shape="onecycle", onecycle_start=1).resolved
    assert resolved == {"onecycle_peak": 0.3, "onecycle_start": 1.0}
    assert isinstance(resolved["onecycle_start"], float)
    assert scheduler(shape="plateau", plateau_patience=2).resolved == {
        "plateau_patience": 2,
        "plateau_factor": 0.5,
    }
