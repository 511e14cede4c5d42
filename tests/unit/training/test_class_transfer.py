from collections.abc import Callable
from functools import cache

import pytest
import torch

from retrain.detector import class_width, set_class_width
from retrain.errors import ConfigError
from retrain.training.class_transfer import class_outputs, copy_weights
from retrain.training.ultralytics_parts import DetectionModel

MODELS = ("yolov8n", "yolo11n", "yolo12n", "yolo26n")
OLD = ("0", "1", "Cat", "cat")
# Reordered, "1" removed, one added, and one that differs by case only from one that is there.
NEW = ("cat", "dog", "0", "CAT", "Cat")


@cache
def _weights(name: str, count: int, seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DetectionModel(f"{name}.yaml", ch=3, nc=count, verbose=False)
        # Every tensor has values of its own, biases and statistics too.
        return {key: torch.rand_like(tensor.float()) for key, tensor in model.state_dict().items()}


def model_of(name: str, count: int, seed: int) -> DetectionModel:
    model = DetectionModel(f"{name}.yaml", ch=3, nc=count, verbose=False)
    model.load_state_dict(_weights(name, count, seed))
    return model


def copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


@pytest.mark.parametrize("name", MODELS)
def test_class_rows_follow_their_names_and_all_else_is_equal(name: str) -> None:
    source, model = model_of(name, len(OLD), seed=0), model_of(name, len(NEW), seed=1)
    before = {key: copied(tensor) for key, tensor in model.state_dict().items()}

    copy_weights(model, source, NEW, OLD)

    outputs, theirs = class_outputs(model), source.state_dict()
    assert len(outputs) == (12 if name == "yolo26n" else 6)
    for key, ours in model.state_dict().items():
        if key not in outputs:
            assert torch.equal(ours, theirs[key]), key
            continue
        for row, class_name in enumerate(NEW):
            if class_name in OLD:
                assert torch.equal(ours[row], theirs[key][OLD.index(class_name)]), (key, class_name)
            else:
                assert torch.equal(ours[row], before[key][row]), (key, class_name)


def test_the_second_head_of_yolo26_is_among_the_class_outputs() -> None:
    assert "model.23.one2one_cv3.0.2.weight" in class_outputs(model_of("yolo26n", 2, seed=0))


@pytest.mark.parametrize("classes", [("0", "1"), ("1", "0"), ("1",), ("a", "0", "b", "1")])
def test_names_that_are_numbers_are_names(classes: tuple[str, ...]) -> None:
    source, model = model_of("yolov8n", 2, seed=0), model_of("yolov8n", len(classes), seed=1)
    copy_weights(model, source, classes, ("0", "1"))
    for row, name in enumerate(classes):
        if name.isdigit():
            ours, theirs = model.model[-1].cv3[0][-1], source.model[-1].cv3[0][-1]
            assert torch.equal(ours.weight[row], theirs.weight[int(name)])
            assert torch.equal(ours.bias[row], theirs.bias[int(name)])


@pytest.mark.parametrize("name", ["yolov8n", "yolo26n"])
def test_branches_sized_for_many_classes_are_kept_for_few(name: str) -> None:
    """Ultralytics makes the class branches of nano models wider from 65 classes on."""
    many = tuple(f"class {number}" for number in range(100))
    few = (many[99], "new", many[3])
    source, model = model_of(name, 100, seed=0), model_of(name, 3, seed=1)
    assert class_width(model.state_dict()) != class_width(source.state_dict()) == 100
    model.train()

    copy_weights(model, source, few, many)

    assert class_width(model.state_dict()) == 100
    assert all(part.training for part in model.modules())
    outputs, theirs = class_outputs(model), source.state_dict()
    for key, ours in model.state_dict().items():
        if key in outputs:
            assert ours.shape[0] == 3
            assert torch.equal(ours[0], theirs[key][99])
            assert torch.equal(ours[2], theirs[key][3])
        else:
            assert torch.equal(ours, theirs[key]), key


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="another architecture"):
        copy_weights(model_of("yolo11n", 2, 0), model_of("yolov8n", 2, 0), ("a", "b"), ("a", "b"))


def _same_width(model: DetectionModel) -> int:
    return class_width(model.state_dict())


@pytest.mark.parametrize("width", [_same_width, lambda _: 90])
def test_new_branches_start_with_the_biases_of_a_fresh_model(width: Callable[[DetectionModel], int]) -> None:
    with torch.random.fork_rng(devices=[]):
        model = DetectionModel("yolov8n.yaml", ch=3, nc=2, verbose=False)
        before = [copied(level[-1].bias) for level in model.model[-1].cv3]
        set_class_width(model, width(model))
    for level, bias in zip(model.model[-1].cv3, before, strict=True):
        assert level[-1].out_channels == 2
        assert torch.allclose(level[-1].bias, bias)
