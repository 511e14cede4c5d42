"""How the demo's samples were labelled, and how well, by the truth that only its simulation knows."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from retrain.annotation.review import StoredAnnotation
from retrain.boxes import Annotations, Detections, iou_matrix
from retrain.data_collection.sample import DataSample
from retrain.data_collection.triggers.crossings import cycle_samples
from retrain.monitoring import report as page
from tasks.resources import Resources


def label_facts(resources: Resources, cycle_id: str) -> page.Labels:
    """How many samples of the cycle were labelled by whom, and how good the labels are."""
    samples = cycle_samples(resources.state, cycle_id)
    stored = resources.annotations.load(cycle_id)
    cameras = sorted({sample.camera for sample in samples})
    return page.Labels(
        _label_counts(samples, stored),
        tuple(
            page.CameraLabels(name, _label_counts([one for one in samples if one.camera == name], stored))
            for name in cameras
        ),
        tuple(_quality(resources, samples, stored, source) for source in ("auto", "human")),
    )


def _label_counts(samples: Sequence[DataSample], stored: Mapping[str, StoredAnnotation]) -> page.LabelCounts:
    sources = Counter(stored[sample.id].source for sample in samples if sample.id in stored)
    labelled = sources["auto"] + sources["human"]
    return page.LabelCounts(len(samples), sources["auto"], sources["human"], len(samples) - labelled)


def _quality(
    resources: Resources, samples: Sequence[DataSample], stored: Mapping[str, StoredAnnotation], source: str
) -> page.LabelQuality:
    """Labels of one source against the truth that only the simulation knows."""
    overlaps: list[float] = []
    drawn = true = 0
    for sample in samples:
        if sample.id in stored and stored[sample.id].source == source:
            truth = resources.traffic.frame(sample.camera, sample.metadata["frame_index"]).annotations
            label = stored[sample.id].annotations
            drawn, true = drawn + len(label), true + len(truth)
            overlaps += _matched(label, truth)
    return page.LabelQuality(
        source,
        drawn,
        len(overlaps) / drawn if drawn else None,
        len(overlaps) / true if true else None,
        float(np.mean(overlaps)) if overlaps else None,
    )


def _matched(label: Annotations | Detections, truth: Annotations) -> list[float]:
    """IoU of each label with the free true box of its class it covers best, at IoU 0.5 or more."""
    overlap = iou_matrix(label.boxes, truth.boxes)
    overlap[label.classes[:, None] != truth.classes[None, :]] = 0.0
    found = []
    for row in range(len(label)):
        if len(truth) and (best := float(overlap[row].max())) >= 0.5:
            overlap[:, int(overlap[row].argmax())] = 0.0
            found.append(best)
    return found
