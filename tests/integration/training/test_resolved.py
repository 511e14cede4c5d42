"""Each setting is made wrong behind the back of the request, where a library would do it; training must not begin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from retrain.errors import ConfigError
from retrain.training import fitting
from retrain.training.data import DetectionData
from retrain.training.detection_module import DetectionModule
from retrain.training.drawn_images import DrawnImages
from retrain.training.draws import EpochBatches
from retrain.training.labelled_images import LabelledImages
from retrain.training.lr_schedule import LearningRateScheduler
from retrain.training.orchestrator import TrainingOrchestrator
from retrain.training.transforms import all_transforms

Patch = pytest.MonkeyPatch
Wrong = Callable[[Patch], None]


def after(owner: Any, name: str, change: Callable[..., None]) -> Wrong:
    """Let something happen to the object, or else to the result, whenever a method of it is done."""

    def apply(patch: Patch) -> None:
        method = getattr(owner, name)

        def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(self, *args, **kwargs)
            change(self if result is None else result)
            return result

        patch.setattr(owner, name, changed)

    return apply


def built_model(change: Callable[[Any], None]) -> Wrong:
    def apply(patch: Patch) -> None:
        build = fitting.build_model

        def changed(*args: Any) -> Any:
            model = build(*args)
            change(model)
            return model

        patch.setattr(fitting, "build_model", changed)

    return apply


def made_optimizer(change: Callable[[torch.optim.Optimizer], None]) -> Wrong:
    """After the check that `build_optimizer` makes by itself."""
    return after(DetectionModule, "configure_optimizers", change)


def set_in_groups(**values: Any) -> Callable[[torch.optim.Optimizer], None]:
    def change(optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0].update(values)

    return change


def transform(kind: str, attribute: str, value: float, which: str = "open") -> Wrong:
    def change(drawn: DrawnImages) -> None:
        for one in all_transforms(getattr(drawn, which)):
            if type(one).__name__ == kind:
                setattr(one, attribute, value)

    return after(DrawnImages, "__init__", change)


def trainer(**changes: Any) -> Wrong:
    def apply(patch: Patch) -> None:
        patch.setattr(fitting, "Trainer", lambda **settings: Trainer(**{**settings, **changes}))

    return apply


def unfreeze(module: DetectionModule) -> None:
    next(module.model.parameters()).requires_grad_(True)


def freeze_more(module: DetectionModule) -> None:
    module.model.model[3].conv.weight.requires_grad_(False)


def other_schedule(**changes: Any) -> Wrong:
    def change(module: DetectionModule) -> None:
        settings = {key: value for key, value in vars(module.schedule).items() if not key.startswith("_")}
        module.schedule = LearningRateScheduler(**{**settings, **changes})

    return after(DetectionModule, "__init__", change)


def smaller_images(patch: Patch) -> None:
    collate = LabelledImages.collate_fn

    def changed(images: Any) -> Any:
        batch = collate(images)
        return {**batch, "img": batch["img"][:, :, :32, :32]}

    patch.setattr(LabelledImages, "collate_fn", staticmethod(changed))


def with_albumentations(drawn: DrawnImages) -> None:
    for one in all_transforms(drawn.open):
        if type(one).__name__ == "Albumentations":
            one.transform = object()


def rates_that_stay(patch: Patch) -> None:
    patch.setattr(
        "retrain.training.detection_module.apply", lambda optimizer, _: set_in_groups(lr=0.5)(optimizer)
    )


WRONG: dict[str, tuple[Wrong, str]] = {
    "class names": (built_model(lambda m: setattr(m, "names", {0: "red", 1: "x"})), r"classes: .*'x'"),
    "classes of the head": (
        built_model(lambda m: setattr(m.model[-1], "nc", 80)),
        "classes of the head: .*got 80",
    ),
    "layout in memory": (
        built_model(lambda m: m.to(memory_format=torch.channels_last)),
        "channels_last: requested False, got True",
    ),
    "compiled": (
        built_model(lambda m: m.compile(backend="eager")),
        "compile: requested False, got True",
    ),
    "loss epochs": (built_model(lambda m: setattr(m.args, "epochs", 100)), "epochs of the loss: .*got 100"),
    "class names of data": (
        after(DetectionData, "__init__", lambda d: d.validation_images.data.update(names={0: "a", 1: "b"})),
        "classes of validation images",
    ),
    "image size": (
        after(DetectionData, "__init__", lambda d: setattr(d.training_images, "imgsz", 96)),
        "image_size: requested 64, got 96",
    ),
    "validation size": (
        after(DetectionData, "__init__", lambda d: setattr(d.validation_images, "imgsz", 96)),
        "size of validation images: requested 64, got 96",
    ),
    "frozen too much": (
        after(DetectionModule, "on_fit_start", freeze_more),
        r"frozen: requested \[\], got \['model.3.conv",
    ),
    "frozen too little": (
        after(DetectionModule, "on_fit_start", unfreeze),
        r"frozen: requested \['model.0.conv",
    ),
    "optimizer": (
        made_optimizer(lambda o: setattr(o, "__class__", torch.optim.Adam)),
        "optimizer: .*got 'adam'",
    ),
    "learning rate": (
        made_optimizer(set_in_groups(initial_lr=0.0001)),
        "learning_rate: requested 0.002, got 0.0001",
    ),
    "betas": (made_optimizer(set_in_groups(betas=(0.9, 0.999))), "asked for betas"),
    "weight decay": (
        made_optimizer(set_in_groups(weight_decay=0.5)),
        "weight_decay: requested 0.0005, got 0.5",
    ),
    "epochs": (trainer(max_epochs=5), "epochs: requested 1, got 5"),
    "precision": (trainer(precision="bf16-mixed"), "precision: requested '32-true', got 'bf16-mixed'"),
    "accumulate": (other_schedule(accumulate=5), "accumulate: requested 2, got 5"),
    "scheduler": (other_schedule(shape="cosine"), "scheduler: requested 'linear', got 'cosine'"),
    "batch size": (
        after(EpochBatches, "__init__", lambda b: setattr(b, "batch_size", 2)),
        "batch_size: requested 4, got 2",
    ),
    "shape of a batch": (
        smaller_images,
        r"shape of a batch: requested \[4, 3, 64, 64\], got \[4, 3, 32, 32\]",
    ),
    "mosaic": (transform("Mosaic", "p", 0.5), r"augment: requested \{'mosaic': 1.0\}, got \{'mosaic': 0.5\}"),
    "mixup": (transform("MixUp", "p", 0.1), "'mixup': 0.1"),
    "flip": (transform("RandomFlip", "p", 0.3), "'fliplr': 0.3"),
    "colours": (transform("RandomHSV", "sgain", 0.9), "'hsv_s': 0.9"),
    "scale": (transform("RandomPerspective", "scale", 0.9), "'scale': 0.9"),
    "translate": (transform("RandomPerspective", "translate", 0.9), "'translate': 0.9"),
    "cutmix": (transform("CutMix", "p", 0.1), "augments with CutMix"),
    "albumentations": (after(DrawnImages, "__init__", with_albumentations), "augments with Albumentations"),
    "mosaic to the end": (transform("Mosaic", "p", 1.0, "closed"), "augment of the last epochs"),
    "close_mosaic": (
        after(DrawnImages, "__init__", lambda d: setattr(d, "closing", 5)),
        "close_mosaic: requested 1, got -4",
    ),
    "rates that the schedule does not reach": (rates_that_stay, "learning rate of"),
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_is_set_up_otherwise_than_asked_for_stops_the_training(
    setting: str, rectangles: dict[str, Any], tmp_path: Path, monkeypatch: Patch
) -> None:
    wrong, message = WRONG[setting]
    wrong(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        TrainingOrchestrator(tmp_path).train({**rectangles, "epochs": 1, "freeze": 1})
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_is_reported_was_read_back(rectangles: dict[str, Any], tmp_path: Path) -> None:
    config = {**rectangles, "epochs": 2, "optimizer": "sgd", "weight_decay": 0.001, "freeze": [0, 2]}
    result = TrainingOrchestrator(tmp_path, export=()).train(config)
    resolved = result.resolved
    assert (resolved["optimizer"], resolved["learning_rate"], resolved["weight_decay"]) == (
        "sgd",
        0.002,
        0.001,
    )
    assert (resolved["batch_size"], resolved["accumulate"], resolved["epochs"]) == (4, 2, 2)
    assert (resolved["classes"], resolved["precision"], resolved["device"]) == (
        ["red", "blue"],
        "32-true",
        "cpu",
    )
    assert resolved["augment"]["mosaic"] == 1.0
    assert resolved["augment of the last epochs"]["mosaic"] == 0.0
    frozen = {name.rsplit(".", 2)[0] if "bn" in name else name for name in resolved["frozen"]}
    assert {name.split(".")[1] for name in frozen} == {"0", "2", "22"}
    assert TrainingOrchestrator(tmp_path, export=()).train(config).resolved["frozen"] == resolved["frozen"]
