"""Ultralytics' validator, driven step by step: its own loop would add plots, callbacks and a clock-dependent result."""

from collections.abc import Callable, Mapping
from copy import copy
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from retrain.boxes import FloatArray
from retrain.detector import NO_TIME_LIMIT
from retrain.training.data import DetectionData
from retrain.training.place import ALONE, Place
from retrain.training.result import SliceScore
from retrain.training.slices import slice_scores
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


class Scores(NamedTuple):
    """In [0, 1]; precision and recall, mean over classes, where their harmonic mean over confidence is highest."""

    map50: float
    map50_95: float
    precision: float
    recall: float
    slices: Mapping[str, SliceScore] = {}
    """See `slice_scores`."""


class PrecisionRecall(NamedTuple):
    """Precision of each class, by name, at the same recalls, shape (1000,); at IoU 0.5."""

    recall: FloatArray
    precision: dict[str, FloatArray]


class Validation:
    """Scores a model on the validation images.

    Args:
        data: whose `val` loader.
        folder: existing folder the validator is told to write to; it writes nothing.
        place: each process scores its batches, and all get the result of all.
    """

    def __init__(self, data: DetectionData, folder: Path, place: Place = ALONE) -> None:
        self._data, self._place = data, place
        self._stats: list[dict[str, list[Any]]] = []
        self._validator = _UntimedValidator(
            data.val, save_dir=folder, args=copy(data.arguments), _callbacks={"unused": []}
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
        self._stats = []

    def step(self, model: DetectionModel, batch: dict[str, Any]) -> None:
        device = self._validator.device
        # Reduced precision would round box coordinates, so scoring is always float32.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            batch = self._validator.preprocess(batch)
            self._validator.update_metrics(self._validator.postprocess(model(batch["img"])), batch)
        self._stats.append({name: list(values) for name, values in self._validator.metrics.stats.items()})
        self._validator.metrics.clear_stats()

    def finish(self) -> Scores:
        """Of all images since `start`."""
        # More processes than batches: the last ones repeat another's.
        ours = self._stats if self._place.rank < self._data.validation_batches else []
        # In the order that one process alone would have seen: scores that tie are ranked by it.
        turns = zip_longest(*self._place.gathered(ours))
        merged = [stats for turn in turns for stats in turn if stats is not None]
        stats = {name: [value for stats in merged for value in stats[name]] for name in merged[0]}
        slices = slice_scores(stats, self._data.validation_images.slices, self._data.classes)
        self._validator.metrics.stats = stats
        self._validator.get_stats()
        box = self._validator.metrics.box
        return Scores(float(box.map50), float(box.map), float(box.mp), float(box.mr), slices)

    def curves(self) -> PrecisionRecall:
        """Of what was scored last; without a class that the images do not show."""
        box = self._validator.metrics.box
        names = [self._data.classes[int(index)] for index in box.ap_class_index]
        return PrecisionRecall(np.asarray(box.px), dict(zip(names, np.asarray(box.prec_values), strict=True)))

    def score(self, model: DetectionModel, on_batch: Callable[[], None] = lambda: None) -> Scores:
        """Over all validation images; several processes have to call it together."""
        self.start(model)
        for batch in self._data.val:
            self.step(model, batch)
            on_batch()
        return self.finish()
