"""Optimizers as Ultralytics groups and drives them, checked to be what was asked for."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from torch.optim import Optimizer

from retrain.errors import ConfigError
from retrain.training.lr_schedule import StepSettings
from retrain.training.request import OPTIMIZERS
from retrain.training.ultralytics_parts import BaseTrainer, DetectionModel

# The distribution-to-distance convolution of the head is a constant.
_ALWAYS_FROZEN = ".dfl"
_DECAYED = {"weight", "muon"}
_ADAM_BETA2 = 0.999
# MuSGD trains what tells classes apart faster, as it is new in most fine-tuning.
_MUSGD_CLASS_BRANCHES = ("cv3", "one2one_cv3")
_MUSGD_CLASS_RATE = 3


def build_optimizer(
    model: DetectionModel,
    name: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    frozen: Sequence[str] = (),
) -> Optimizer:
    """Freeze parameters, group all as Ultralytics does and check what came out.

    Each group has its learning rate as `initial_lr`, which `apply` scales.

    Args:
        model: on its device.
        name: `adam`, `adamw`, `sgd` or `musgd`.
        momentum: of SGD and MuSGD (Nesterov's), beta1 of Adam and AdamW.
        weight_decay: of weights; biases and normalisation layers have none.
        frozen: parts of parameter names, such as `model.0.`; these and `.dfl` do not change.

    Raises:
        ConfigError: the optimizer is unknown, momentum is out of range, nothing is left to train, or Ultralytics made
            something else than was asked for.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}.")
    # Torch looks at its defaults only, not at what groups have instead.
    if not 0 <= momentum < 1:
        raise ConfigError(f"momentum must be a number >= 0 and < 1, got {momentum}.")
    freeze(model, frozen)
    optimizer: Optimizer = BaseTrainer.build_optimizer(
        # A trainer is asked for its settings only to choose an optimizer by itself.
        SimpleNamespace(),
        model,
        name=OPTIMIZERS[name],
        lr=learning_rate,
        momentum=momentum,
        decay=weight_decay,
    )
    differences = list(optimizer_differences(optimizer, model, name, learning_rate, momentum, weight_decay))
    if differences:
        raise ConfigError(f"Ultralytics did not make the {name} asked for: {'; '.join(differences)}.")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def apply(optimizer: Optimizer, settings: StepSettings) -> None:
    """Set learning rates and momentum for one batch."""
    for group in optimizer.param_groups:
        group["lr"] = settings.rate(group["initial_lr"], bias=group["param_group"] == "bias")
        if "momentum" in group:
            group["momentum"] = settings.momentum


def freeze(model: DetectionModel, frozen: Sequence[str]) -> None:
    """Let these, named by parts of parameter names, and `.dfl` not change, and all others.

    Raises:
        ConfigError: one names nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    # Layers without parameters, as those that only reshape, may be named.
    places = [*names, *(f"{name}." for name, _ in model.named_modules())]
    if unknown := [part for part in frozen if not any(part in place for place in places)]:
        raise ConfigError(f"freeze names {', '.join(unknown)}, which the model does not have.")
    parts = (*frozen, _ALWAYS_FROZEN)
    if all(any(part in name for part in parts) for name in names):
        raise ConfigError(f"freeze is {', '.join(frozen)}, which leaves nothing to train.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in parts))


def always_frozen(name: str) -> bool:
    """Whether a parameter of that name is a constant of the model."""
    return _ALWAYS_FROZEN in name


def optimizer_differences(
    optimizer: Optimizer,
    model: DetectionModel,
    name: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    *,
    momentum_known: bool = True,
) -> Iterator[str]:
    """What an optimizer has that was not asked for, in words; learning rates are those before any schedule.

    Args:
        momentum_known: false in the middle of a training, where the schedule may have set another.
    """
    if type(optimizer).__name__ != OPTIMIZERS[name]:
        yield f"asked for {OPTIMIZERS[name]}, got {type(optimizer).__name__}"
        return
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if sorted(grouped) != sorted(id(parameter) for parameter in model.parameters()):
        yield f"asked for {len(list(model.parameters()))} parameters, got {len(grouped)} or others"
    faster = _faster(model) if name == "musgd" else set()
    for group in optimizer.param_groups:
        kind = group["param_group"]
        rates = {learning_rate * (_MUSGD_CLASS_RATE if id(p) in faster else 1) for p in group["params"]}
        expected: dict[str, Any] = {"weight_decay": weight_decay if kind in _DECAYED else 0.0}
        if name in {"sgd", "musgd"}:
            expected |= {"nesterov": True} | ({"momentum": momentum} if momentum_known else {})
        else:
            expected["betas"] = (momentum, _ADAM_BETA2)
        rate = group.get("initial_lr", group["lr"])
        if rates and rates != {rate}:
            yield f"asked for lr {sorted(rates)} of {kind}, got {rate}"
        for key, value in expected.items():
            if group[key] != value:
                yield f"asked for {key} {value} of {kind}, got {group[key]}"


def _faster(model: DetectionModel) -> set[int]:
    branches = (getattr(model.model[-1], branch, None) for branch in _MUSGD_CLASS_BRANCHES)
    return {id(parameter) for branch in branches if branch for parameter in branch.parameters()}
