"""Ultralytics' validator, driven step by step: its own loop would add plots, callbacks and a clock-dependent result."""

from copy import copy
from pathlib import Path
from typing import Any

import torch

from retrain.detector import NO_TIME_LIMIT
from retrain.training.data import DetectionData
from retrain.training.ultralytics_parts import DetectionModel, DetectionValidator, nms


class _UntimedValidator(DetectionValidator):
    """Suppresses overlaps without a time limit, so that a busy machine cannot lower the score."""

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        rows = nms.non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            multi_label=True,
            max_det=self.args.max_det,
            max_time_img=NO_TIME_LIMIT,
            end2end=self.end2end,
        )
        return [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]} for x in rows]


class Validation:
    """Scores a model on the validation images.

    Args:
        data: whose `val` loader.
        folder: existing folder the validator is told to write to; it writes nothing.
    """

    def __init__(self, data: DetectionData, folder: Path) -> None:
        self._data = data
        self._validator = _UntimedValidator(
            data.val.loader, save_dir=folder, args=copy(data.arguments), _callbacks={"unused": []}
        )
        self._validator.data = data.description
        self._validator.args.plots = False
        self._validator.args.quantize = None

    def start(self, model: DetectionModel) -> None:
        model.eval()
        model.end2end = False
        self._validator.training = True
        self._validator.device = next(model.parameters()).device
        self._validator.init_metrics(model)

    def step(self, model: DetectionModel, batch: dict[str, Any]) -> None:
        device = self._validator.device
        # Reduced precision would round box coordinates, so scoring is always float32.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            batch = self._validator.preprocess(batch)
            self._validator.update_metrics(self._validator.postprocess(model(batch["img"])), batch)

    def finish(self) -> tuple[float, float]:
        """map50 and map50_95 of the images since `start`."""
        self._validator.get_stats()
        box = self._validator.metrics.box
        return float(box.map50), float(box.map)

    def score(self, model: DetectionModel) -> tuple[float, float]:
        """map50 and map50_95 over all validation images."""
        self.start(model)
        for batch in self._data.val:
            self.step(model, batch)
        return self.finish()
