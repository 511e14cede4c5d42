"""The moving average of the weights, which is what gets validated and released."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from retrain.training.ultralytics_parts import DetectionModel, ModelEMA


class MovingAverage(Callback):
    """Follows the model, one update per optimizer step.

    It lives in a callback because a LightningModule would register the averaged model as a part of itself.

    Args:
        saved: `state()` of an earlier run to go on from.
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        self._saved = saved
        self._average: ModelEMA | None = None

    @property
    def model(self) -> DetectionModel:
        assert self._average is not None
        return self._average.ema

    def state(self) -> dict[str, Any]:
        assert self._average is not None
        return {"weights": cpu_copy(self.model.state_dict()), "updates": self._average.updates}

    def on_fit_start(self, _trainer: Trainer, pl_module: LightningModule) -> None:
        # The model is on its device by now, so the copy is too.
        self._average = ModelEMA(pl_module.model)
        if self._saved is not None:
            self.model.load_state_dict(self._saved["weights"])
            self._average.updates = self._saved["updates"]

    def on_train_batch_end(self, _trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if pl_module.stepped:
            assert self._average is not None
            self._average.update(pl_module.model)


def cpu_copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that later training does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
