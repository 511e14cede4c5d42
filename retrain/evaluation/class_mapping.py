"""Makes a model speak the classes of the data: by name, whatever the order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain.boxes import Detections, IntArray
from retrain.errors import ConfigError
from retrain.evaluation.run import Image, Predict

_NAMED = 30


@dataclass(frozen=True)
class ClassMapping:
    """From a model's classes to those of the data.

    Attributes:
        to_data: index in the data of each class of the model, -1 where the data has none.
        dropped: classes of the model that the data has not; what is found of them does not count.
    """

    to_data: IntArray
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, model: Sequence[str], data: Sequence[str]) -> "ClassMapping":
        """By name.

        Raises:
            ConfigError: the data has a class that the model does not know; both lists are named.
        """
        unknown = [name for name in data if name not in model]
        if unknown:
            raise ConfigError(
                f"The model cannot be judged on {_listed(unknown)}, which it does not know. Classes of the model: "
                f"{_listed(model)}. Classes of the data: {_listed(data)}. Rename classes, or take data of the model's."
            )
        index = {name: position for position, name in enumerate(data)}
        to_data = np.array([index.get(name, -1) for name in model], dtype=np.int64)
        return cls(to_data, tuple(name for name in model if name not in index))

    def apply(self, found: Detections) -> Detections:
        """Those of the data's classes, by the data's indices."""
        classes = self.to_data[found.classes]
        keep = classes >= 0
        return Detections(found.boxes[keep], classes[keep], found.scores[keep])

    def around(self, predict: Predict) -> Predict:
        """The same detector, answering in classes of the data."""

        def mapped(images: Sequence[Image], /, **asking: Any) -> list[Detections]:
            return [self.apply(found) for found in predict(images, **asking)]

        return mapped


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
