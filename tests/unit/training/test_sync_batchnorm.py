"""What normalising by the images of several GPUs leaves as it was; that it does what it should needs several."""

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm

from retrain.training.ema import MovingAverage
from retrain.training.optimizers import build_optimizer
from retrain.training.ultralytics_parts import DetectionModel, ModelEMA, yaml_model_load


@pytest.fixture
def plain() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(yaml_model_load("yolov8n.yaml"), ch=3, nc=2, verbose=False)


@pytest.fixture
def synchronised(plain: DetectionModel) -> DetectionModel:
    model = DetectionModel(yaml_model_load("yolov8n.yaml"), ch=3, nc=2, verbose=False)
    model.load_state_dict(plain.state_dict())
    converted: DetectionModel = TorchSyncBatchNorm().apply(model)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    return converted


def test_its_average_has_the_weights_and_the_answers_of_a_plain_model(
    plain: DetectionModel, synchronised: DetectionModel
) -> None:
    average = MovingAverage()
    average._average = ModelEMA(synchronised)
    weights = average.state()["weights"]

    assert list(weights) == list(plain.state_dict())
    plain.load_state_dict(weights)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(average.model.eval()(images)[0], plain.eval()(images)[0])


def test_its_layers_are_grouped_and_set_as_those_of_a_plain_model(
    plain: DetectionModel, synchronised: DetectionModel
) -> None:
    groups = [
        [
            (group["param_group"], group["weight_decay"], len(group["params"]))
            for group in optimizer.param_groups
        ]
        for optimizer in (build_optimizer(model, "sgd", 0.01, 0.9, 0.001) for model in (plain, synchronised))
    ]

    assert groups[0] == groups[1]
    kinds = (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)
    for one, other in zip(plain.modules(), synchronised.modules(), strict=True):
        if isinstance(one, kinds):
            assert (one.eps, one.momentum) == (other.eps, other.momentum)
