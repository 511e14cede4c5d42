"""A reviewer for the annotation queue who is a simulated person looking at simulated frames."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrain.boxes import Annotations, Detections
from retrain.simulation.annotators import SimulatedAnnotator
from retrain.simulation.traffic import TrafficSimulator


class Reviewed(Protocol):
    """What is needed of a sample; a `DataSample` is one."""

    @property
    def id(self) -> str: ...
    @property
    def camera(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


class SimulatedReviewer:
    """Knows the truth of a frame because the same simulator made it, and answers with a person's errors."""

    def __init__(self, annotator: SimulatedAnnotator, traffic: TrafficSimulator) -> None:
        self._annotator, self._traffic = annotator, traffic

    @property
    def name(self) -> str:
        return self._annotator.name

    def review(self, sample: Reviewed, image: NDArray[np.uint8], proposal: Detections) -> Annotations:
        """What the annotator saves for a sample whose metadata holds its `frame_index`."""
        truth = self._traffic.frame(sample.camera, sample.metadata["frame_index"]).annotations
        return self._annotator.review(sample.id, truth, proposal, (image.shape[1], image.shape[0]))
