"""Against Ultralytics' own trainer, on a yolov8 and a two-headed yolo26 of a few channels."""

import copy
import io
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import Optimizer

from retrain.errors import ConfigError
from retrain.training import optimizers
from retrain.training.lr_schedule import LearningRateScheduler
from retrain.training.optimizers import apply, build_optimizer
from retrain.training.request import OPTIMIZERS
from retrain.training.ultralytics_parts import BaseTrainer, DetectionModel, yaml_model_load

RATE, MOMENTUM, DECAY = 0.003, 0.9, 0.0007


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(name: str = "yolov8n") -> DetectionModel:
    architecture = yaml_model_load(f"{name}.yaml")
    architecture["scales"] = {"n": [0.34, 0.03, 64]}
    torch.manual_seed(0)
    return DetectionModel({**architecture, "channels": 3}, ch=3, nc=2, verbose=False)


@pytest.fixture(scope="module")
def models() -> dict[str, DetectionModel]:
    return {name: small_model(name) for name in ("yolov8n", "yolo26n")}


def build(model: DetectionModel, name: str = "sgd", **changes: Any) -> Optimizer:
    return build_optimizer(
        model,
        name,
        **{"learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY, **changes},
    )


def groups(optimizer: Optimizer, model: DetectionModel) -> list[dict[str, Any]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {**group, "params": [names[id(parameter)] for parameter in group["params"]], "initial_lr": None}
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("architecture", ["yolov8n", "yolo26n"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_are_those_of_the_ultralytics_trainer(
    models: dict[str, DetectionModel], architecture: str, name: str
) -> None:
    model = models[architecture]
    theirs = BaseTrainer.build_optimizer(
        SimpleNamespace(args=None, data={}), model, name=name, lr=RATE, momentum=MOMENTUM, decay=DECAY
    )

    ours = build(model, name)

    assert type(ours) is type(theirs)
    assert groups(ours, model) == groups(theirs, model)
    assert [group["initial_lr"] for group in ours.param_groups] == [
        group["lr"] for group in theirs.param_groups
    ]


def test_musgd_trains_the_class_branches_of_both_heads_faster(models: dict[str, DetectionModel]) -> None:
    model = models["yolo26n"]
    faster = {
        name
        for group in groups(build(model, "musgd"), model)
        if group["lr"] == RATE * 3
        for name in group["params"]
    }
    head = f"model.{len(model.model) - 1}"
    assert faster == {
        name
        for name, _ in model.named_parameters()
        if name.startswith((f"{head}.cv3.", f"{head}.one2one_cv3."))
    }
    assert any("one2one" in name for name in faster)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("warmup_epochs", [0.0, 1.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_batch_has_the_rates_and_momentum_of_the_ultralytics_loop(
    models: dict[str, DetectionModel], name: str, warmup_epochs: float, shape: str
) -> None:
    model, epochs, batches = models["yolov8n"], 4, 5
    args = SimpleNamespace(
        cos_lr=shape == "cosine",
        lrf=0.02,
        warmup_epochs=warmup_epochs,
        warmup_bias_lr=0.1,
        warmup_momentum=0.8,
        momentum=MOMENTUM,
    )
    theirs = BaseTrainer.build_optimizer(
        SimpleNamespace(), model, name=name, lr=RATE, momentum=MOMENTUM, decay=DECAY
    )
    trainer = SimpleNamespace(args=args, epochs=epochs, optimizer=theirs)
    BaseTrainer._setup_scheduler(trainer)
    steps = BaseTrainer._get_warmup_iterations(trainer, batches)
    ours = build(model, name)
    schedule = LearningRateScheduler(
        shape=shape,
        learning_rate=RATE,
        final_fraction=0.02,
        epochs=epochs,
        batches=batches,
        warmup_epochs=warmup_epochs,
        warmup_bias_lr=0.1,
        momentum=MOMENTUM,
    )

    for epoch in range(epochs):
        if epoch:
            trainer.scheduler.step()
        for step in range(epoch * batches, (epoch + 1) * batches):
            # The loop of its trainer, which is one function with all the rest of training.
            for group in theirs.param_groups if steps and step <= steps else ():
                start = args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
                target = group["initial_lr"] * trainer.lf(epoch)
                group["lr"] = float(np.interp(step, [0, steps], [start, target]))
                if "momentum" in group:
                    group["momentum"] = float(
                        np.interp(step, [0, steps], [args.warmup_momentum, args.momentum])
                    )
            apply(ours, schedule.at(step))
            assert [
                (group["lr"], group.get("momentum"), group.get("betas")) for group in ours.param_groups
            ] == [(group["lr"], group.get("momentum"), group.get("betas")) for group in theirs.param_groups]


def train(model: DetectionModel, optimizer: Optimizer, steps: range) -> None:
    schedule = LearningRateScheduler(
        shape="cosine", learning_rate=RATE, final_fraction=0.1, epochs=3, batches=2, warmup_epochs=1
    )
    for step in steps:
        apply(optimizer, schedule.at(step))
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_is_bit_for_bit_not_having_stopped(name: str) -> None:
    whole = small_model("yolo26n")
    first = copy.deepcopy(whole)
    optimizer = build(whole, name, frozen=["model.0."])
    train(whole, optimizer, range(6))

    early = build(first, name, frozen=["model.0."])
    train(first, early, range(3))
    saved = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": early.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    second = small_model("yolo26n")
    second.load_state_dict(state["model"])
    late = build(second, name, frozen=["model.0."])
    late.load_state_dict(state["optimizer"])
    train(second, late, range(3, 6))

    assert all(map(torch.equal, second.state_dict().values(), whole.state_dict().values()))
    ours, theirs = late.state_dict(), optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, values in theirs["state"].items():
        assert all(torch.equal(ours["state"][index][key], value) for key, value in values.items())


def test_frozen_parameters_and_the_constant_one_need_no_gradient(models: dict[str, DetectionModel]) -> None:
    model = copy.deepcopy(models["yolov8n"])

    build(model, frozen=["model.0.", "model.10."])

    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {
        name for name, _ in model.named_parameters() if name.startswith("model.0.") or ".dfl" in name
    }
    build(model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        name for name, _ in model.named_parameters() if ".dfl" in name
    ]


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("auto", {}, "optimizer must be one of adamw, adam, sgd, musgd, got 'auto'"),
        ("AdamW", {}, "optimizer must be one of adamw, adam, sgd, musgd, got 'AdamW'"),
        ("sgd", {"frozen": ["model."]}, "freeze is model., which leaves nothing to train"),
        ("sgd", {"frozen": ["model.0.", "model.99."]}, "freeze names model.99., which the model does not"),
        ("adam", {"momentum": 1.0}, "momentum must be a number >= 0 and < 1, got 1.0"),
        ("sgd", {"momentum": math.nan}, "momentum must be a number >= 0 and < 1, got nan"),
    ],
)
def test_what_cannot_be_used_is_refused(
    models: dict[str, DetectionModel], name: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(models["yolov8n"], name, **changes)


def override(monkeypatch: pytest.MonkeyPatch, group: int, key: str, value: Any) -> None:
    made = BaseTrainer.build_optimizer

    def overriding(*args: Any, **named: Any) -> Optimizer:
        optimizer: Optimizer = made(*args, **named)
        optimizer.param_groups[group][key] = value
        return optimizer

    monkeypatch.setattr(optimizers.BaseTrainer, "build_optimizer", overriding)


@pytest.mark.parametrize(
    ("name", "group", "key", "value", "problem"),
    [
        ("sgd", 0, "lr", 0.01, r"asked for lr \[0.003\] of weight, got 0.01"),
        ("adam", 2, "lr", 0.01, r"asked for lr \[0.003\] of bias, got 0.01"),
        ("sgd", 1, "momentum", 0.8, "asked for momentum 0.9 of bn, got 0.8"),
        ("sgd", 1, "nesterov", False, "asked for nesterov True of bn, got False"),
        ("musgd", -1, "momentum", 0.8, "asked for momentum 0.9 of muon, got 0.8"),
        ("musgd", -1, "lr", RATE * 3, r"asked for lr \[0.003\] of muon, got 0.009"),
        ("musgd", -2, "lr", RATE, r"asked for lr \[0.009.*\] of muon, got 0.003"),
        ("musgd", -1, "weight_decay", 0.0, "asked for weight_decay 0.0007 of muon, got 0.0"),
        ("adamw", 0, "betas", (0.95, 0.999), r"asked for betas \(0.9, 0.999\) of weight, got \(0.95"),
        ("adamw", 0, "weight_decay", 0.01, "asked for weight_decay 0.0007 of weight, got 0.01"),
        ("adamw", 1, "weight_decay", 0.01, "asked for weight_decay 0.0 of bn, got 0.01"),
        ("adamw", 2, "weight_decay", 0.01, "asked for weight_decay 0.0 of bias, got 0.01"),
        ("sgd", 0, "params", [], "parameters, got"),
    ],
)
def test_a_silent_override_is_an_error_that_names_it(
    models: dict[str, DetectionModel],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    group: int,
    key: str,
    value: Any,
    problem: str,
) -> None:
    override(monkeypatch, group, key, value)
    with pytest.raises(ConfigError, match=problem):
        build(models["yolov8n"], name)


def test_another_optimizer_than_asked_for_is_an_error(
    models: dict[str, DetectionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BaseTrainer.build_optimizer
    monkeypatch.setattr(
        optimizers.BaseTrainer,
        "build_optimizer",
        lambda *args, **named: made(*args, **{**named, "name": "AdamW"}),
    )
    with pytest.raises(ConfigError, match="asked for SGD, got AdamW"):
        build(models["yolov8n"], "sgd")


def test_settings_of_one_batch_reach_each_group(models: dict[str, DetectionModel]) -> None:
    optimizer = build(models["yolov8n"], "musgd")
    schedule = LearningRateScheduler(
        shape="step", learning_rate=RATE, final_fraction=0, epochs=3, batches=1, momentum=MOMENTUM
    )
    apply(optimizer, schedule.at(2))
    rates = {
        (group["param_group"], round(group["lr"] / group["initial_lr"], 9))
        for group in optimizer.param_groups
    }
    assert rates == {(kind, 0.01) for kind in ("weight", "bn", "bias", "muon")}
    assert {group["momentum"] for group in optimizer.param_groups} == {MOMENTUM}
    assert math.isclose(max(group["lr"] for group in optimizer.param_groups), RATE * 3 * 0.01)
